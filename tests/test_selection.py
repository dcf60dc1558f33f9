"""Runs of one program that differ in a field of the configuration: each as if its program had its value alone."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_update import KEY, make_batch, make_learner, make_state, update
from tiny_envs import with_walk

import purejaxppo as pjp
from purejaxppo.config import SELECTABLE
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo.interventions.kl_control import init_kl_control
from purejaxppo.ppo.state import Learner, RunState
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.ppo.update import update_networks
from purejaxppo.training.train import trainer_of

ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "activation": ("relu", "tanh", "gelu", "leaky_relu"),
    "time_limit": ("bootstrap", "terminate"),
    "sign_reward": (False, True),
    "lr_schedule": ("constant", "linear"),
    "reset_optimizer": (False, True),
    "policy_objective": ("clip", "spo", "unclipped"),
    "kl_penalty": (False, True),
    "kl_stop": (False, True),
    "num_epochs": (2, 1, 3),
}
"""The first value is that of all runs but those made for the field."""
RUNS: list[dict[str, Any]] = [  # every other value in one of them, for a program of its own takes seconds to compile
    {},
    {"activation": "tanh", "time_limit": "terminate", "kl_penalty": True},
    {"activation": "gelu", "sign_reward": True, "policy_objective": "spo", "num_epochs": 1},
    {"activation": "leaky_relu", "lr_schedule": "linear", "num_epochs": 3},
    {"reset_optimizer": True, "policy_objective": "unclipped"},
    {"kl_stop": True},
]
WITHOUT = [
    (number, field, {name: value for name, value in run.items() if name != field})
    for number, run in enumerate(RUNS)
    for field in run
]
"""Each run again without one of its values, to see that the value matters."""
CONFIG = pjp.TrainConfig(
    env="tiny/Walk", total_steps=64, num_envs=2, num_steps=16, minibatch_size=16, hidden_sizes=(6, 5), num_log_points=2,
    diagnostics=False, **{field: values[0] for field, values in ALTERNATIVES.items()},
)  # fmt: skip
# Adam's epsilon keeps rounding from deciding signs. The limits let both KL interventions act.
HPARAMS = HyperParams(learning_rate=1e-2, adam_eps=1e-3, kl_coef=5.0, kl_stop_limit=1e-4, pfo_coef=0.1)


def two_segments(learner: Learner, choices: dict[str, jax.Array], num_epochs: jax.Array | int | None) -> Any:
    """The weights of a run after two segments, and the metrics of both."""
    trainer = trainer_of(learner)
    step = lambda state, _: trainer.segment(HPARAMS, state, num_epochs)  # noqa: E731
    state, metrics = jax.lax.scan(step, trainer.init(HPARAMS, KEY, choices), length=2)
    return state.params, dict(metrics)


@pytest.fixture(scope="module")
def together() -> Any:
    """All runs side by side in one program that has every alternative of every field."""
    learner = with_walk(make_whole_learner, CONFIG, alternatives=tuple(ALTERNATIVES.items()), max_epochs=3)
    runs = RUNS + [run for _, _, run in WITHOUT]
    choices = {
        field: jnp.asarray([values.index(run.get(field, values[0])) for run in runs])
        for field, values in ALTERNATIVES.items()
        if field != "num_epochs"
    }
    num_epochs = jnp.asarray([run.get("num_epochs", CONFIG.num_epochs) for run in runs])
    params, metrics = jax.jit(jax.vmap(partial(two_segments, learner)))(choices, num_epochs)
    params = np.stack([ravel_pytree(jax.tree.map(lambda x, s=s: x[s], params))[0] for s in range(len(runs))])
    return params, {name: np.asarray(x) for name, x in metrics.items()}


def test_every_value_of_every_selectable_field_is_tried_and_matters(together: Any) -> None:
    assert set(ALTERNATIVES) == set(SELECTABLE)
    for field, values in ALTERNATIVES.items():
        assert {run.get(field, values[0]) for run in RUNS} == set(values)
    for other, (number, field, _) in zip(together[0][len(RUNS) :], WITHOUT, strict=True):
        with_it = together[0][number]
        assert np.linalg.norm(other - with_it) > 1e-4 * np.linalg.norm(with_it), (field, number)


@pytest.mark.parametrize("run", range(len(RUNS)), ids=[str(run) for run in RUNS])
def test_a_run_among_alternatives_equals_the_run_of_a_program_without_them(run: int, together: Any) -> None:
    learner = with_walk(make_whole_learner, dataclasses.replace(CONFIG, **RUNS[run]))
    params, metrics = jax.jit(lambda: two_segments(learner, {}, None))()
    expected = np.asarray(ravel_pytree(params)[0])
    found, found_metrics = together[0][run], {name: x[run] for name, x in together[1].items()}
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    for name, values in metrics.items():
        np.testing.assert_allclose(found_metrics[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
    of_others = set(found_metrics) - set(metrics)  # of interventions that this run has not got
    assert all(np.isnan(found_metrics[name]).all() for name in of_others), of_others


# --- What is off must not reach a run


@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_an_infinite_kl_does_not_reach_a_run_whose_penalty_is_off(poison: float) -> None:
    """0 times an infinite KL would be NaN. Of two runs side by side one has the penalty."""
    learner = dataclasses.replace(make_learner(num_epochs=2), alternatives=(("kl_penalty", (False, True)),))
    state = make_state(learner)
    batch = make_batch(learner, state)
    plain, _ = update(dataclasses.replace(learner, alternatives=()), HPARAMS, state, batch)
    poisoned = batch.replace(policy_outputs=batch.policy_outputs.at[:, 0].set(poison))
    state = state.replace(kl_control=init_kl_control(learner))

    def of_run(choice: jax.Array) -> RunState:
        return update(learner, HPARAMS, state.replace(choices={"kl_penalty": choice}), poisoned)[0]

    both = jax.vmap(of_run)(jnp.arange(2))
    for found, expected in zip(jax.tree.leaves(both.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(ravel_pytree(jax.tree.map(lambda x: x[1], both.params))[0]).any()  # so the poison is one


# --- Epochs, masked


def test_masked_epochs_equal_a_loop_of_that_many_with_all_corners() -> None:
    """Runs of 0, 1, 2 and 3 epochs side by side in one loop of three; the KL interventions look at the last epoch."""
    fields = {"kl_penalty": True, "kl_stop": True, "num_epochs": 3}
    plain = make_learner(**fields)
    masked = dataclasses.replace(plain, max_epochs=3, alternatives=(("num_epochs", (1, 2, 3)),))
    hparams = dataclasses.replace(HPARAMS, kl_stop_limit=1e9, kl_target=1e-4, kl_coef=1.0)
    state = make_state(plain).replace(kl_control=init_kl_control(plain))
    batch = make_batch(plain, state)
    together = jax.jit(jax.vmap(lambda n: update_networks(masked, hparams, state, batch, KEY, n)))(jnp.arange(4))
    corners = {}
    for num_epochs in range(1, 4):
        expected, metrics = update(plain, hparams, state, batch, num_epochs=num_epochs)
        found, found_metrics = jax.tree.map(lambda x, n=num_epochs: x[n], together)
        for a, b in ((found.params, expected.params), (found.optimizer, expected.optimizer)):
            a, b = (ravel_pytree(x)[0] for x in (a, b))
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
        np.testing.assert_allclose(found.kl_control.factor, expected.kl_control.factor, rtol=1e-6)
        for name, value in metrics.items():
            np.testing.assert_allclose(found_metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        corners[num_epochs] = [float(found_metrics[f"minibatch_kl{corner}"]) for corner in ("", "_last_epoch_first")]
        assert np.isfinite(corners[num_epochs]).all()
    assert len({value for pair in corners.values() for value in pair}) == 6  # each run's own last epoch
    unlearned, metrics = jax.tree.map(lambda x: x[0], together)
    jax.tree.map(np.testing.assert_array_equal, unlearned.params, state.params)
    assert unlearned.kl_control.factor == 1.0
    assert all(np.isnan(metrics[name]) for name in metrics)
