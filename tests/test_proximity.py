"""The family from PFO to CHAIN (`ppo/interventions/proximity.py`), and churn. Whole updates: `whole_update.py`."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_update import make_batch, make_learner, make_state, random, update

import purejaxppo as pjp
from purejaxppo.distributions import Categorical, Normal, PolicyDistribution, TanhNormal
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.ppo.interventions import kl_control, proximity
from purejaxppo.ppo.interventions.optimizers import flattened
from purejaxppo.ppo.measures import churn
from purejaxppo.ppo.state import Batch, Learner, RunState
from purejaxppo.sweep import checkpoints

CHAIN = {"pfo_reference": "previous", "pfo_states": "other", "pfo_features": "outputs"}
NORMALS = {"normal": Normal, "tanh_normal": TanhNormal}
FAMILY = list(
    itertools.product(("rollout", "previous"), ("minibatch", "other"), ("preactivations", "features", "outputs"))
)


def prepare(**fields: Any) -> tuple[Learner, RunState]:
    """A tiny learner of test_update, and its state with what the interventions keep."""
    learner = make_learner(**fields)
    state = make_state(learner)
    memory = proximity.init_pfo_memory(learner, state.params)
    return learner, state.replace(memory=memory, kl_control=kl_control.init_kl_control(learner))


def network(layers: dict[str, Any], x: np.ndarray, head: str) -> dict[str, np.ndarray]:
    """A ReLU network in float64: pre-activations and features of its last hidden layer, outputs."""
    names = sorted(name for name in layers if name.startswith("hidden_"))
    z = x = np.float64(x)
    for name in [*names, head]:
        z, last = x @ np.float64(layers[name]["kernel"]) + np.float64(layers[name]["bias"]), z
        x = np.maximum(z, 0)
    return {"preactivations": last, "features": np.maximum(last, 0), "outputs": z}


def log_softmax(y: np.ndarray) -> np.ndarray:
    y = y - y.max(axis=1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=1, keepdims=True))


def kl(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return (np.exp(log_softmax(old)) * (log_softmax(old) - log_softmax(new))).sum(axis=1)


# --- Distances


@pytest.mark.parametrize("kind", ["categorical", *NORMALS])
def test_the_change_of_outputs_and_its_gradient(kind: str) -> None:
    """Discrete: KL(old || new), with d/d logits = p_new - p_old. Continuous: mean (m_new - m_old)^2, m alone."""
    old, new = (np.random.default_rng(seed).normal(size=(5, 6)) for seed in (0, 1))
    distribution: PolicyDistribution = Categorical(6)
    expected, slope = kl(old, new), np.exp(log_softmax(new)) - np.exp(log_softmax(old))
    if kind in NORMALS:
        distribution = NORMALS[kind]((-1.0,) * 3, (1.0,) * 3)
        difference = new[:, :3] - old[:, :3]
        expected = (difference**2).mean(axis=1)
        slope = np.concatenate([2 * difference / 3, np.zeros((5, 3))], axis=1)
    with jax.enable_x64(True):
        reference = jnp.asarray(old)
        value = distribution.output_change(reference, jnp.asarray(new))
        gradient = jax.grad(lambda y: distribution.output_change(reference, y).sum())(jnp.asarray(new))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-12)


# --- The family


@pytest.fixture(scope="module")
def corners() -> dict[Any, tuple[float, float]]:
    """(reference, states, features) -> the terms of policy and critic, and what NumPy says they are."""
    plain, state = prepare()
    rollout = make_batch(plain, state)  # of weights that are neither the present nor the previous ones
    collecting = plain.both(state, rollout.obs)
    present, previous = (jax.tree.map(lambda x, s=scale: x * s, state.params) for scale in (1.2, 1.1))
    collected = state.params
    minibatch, other = slice(0, 4), slice(4, 8)
    found = {}
    for corner in FAMILY:
        reference, states, features = corner
        learner, _ = prepare(pfo_reference=reference, pfo_states=states, pfo_features=features)
        policy_phi, critic_phi = proximity.representations(learner, state, collecting)
        whole = rollout.replace(policy_phi=policy_phi, critic_phi=critic_phi)
        batch, beside = (jax.tree.map(lambda x, r=rows: x[r], whole) for rows in (minibatch, other))
        batch = batch.replace(other=beside)
        weights, unravel = flattened(previous)
        now = state.replace(params=present, memory={"pfo_previous": weights})
        held = proximity.with_reference(learner, unravel, now, batch)
        phis = proximity.representations(learner, now, learner.both(now, batch.obs))
        terms = proximity.pfo_terms(learner, HyperParams(pfo_coef=2.0, critic_pfo_coef=3.0), now, phis, held)
        assert [coef for coef, _ in terms.values()] == [2.0, 3.0]
        x = rollout.obs[minibatch if states == "minibatch" else other]
        expected = []
        for name in ("policy", "critic"):
            old = network((collected if reference == "rollout" else previous)[name], x, f"{name}_head")[features]
            new = network(present[name], x, f"{name}_head")[features]
            is_kl = (name, features) == ("policy", "outputs")
            expected.append(kl(old, new).mean() if is_kl else ((new - old) ** 2).mean())
        found[corner] = [float(value) for _, value in terms.values()], expected
    return found


@pytest.mark.parametrize("corner", FAMILY, ids="-".join)
def test_each_corner_holds_what_it_says_where_it_says_to_what_it_says(corner: Any, corners: dict[Any, Any]) -> None:
    found, expected = corners[corner]
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_no_two_corners_are_the_same(corners: dict[Any, Any]) -> None:
    for network in (0, 1):
        values = sorted(found[network] for found, _ in corners.values())
        assert (np.diff(values) > 1e-3 * np.abs(values[1:])).all()


def test_pfo_itself_remembers_nothing() -> None:
    for fields in ({}, {"pfo_features": "outputs"}, {"pfo_states": "other"}):
        assert prepare(**fields)[1].memory == {}
    assert prepare(**CHAIN)[1].memory.keys() == {"pfo_previous"}


def test_clipping_by_the_change_of_outputs() -> None:
    """pfo_mode clip with outputs: samples by the KL of their own distribution since the rollout."""
    learner, _ = prepare(pfo_mode="clip", pfo_features="outputs")
    old, new = random(1, 4, 5), random(2, 4, 5)
    np.testing.assert_allclose(
        proximity.change_of_samples(learner, new, old), kl(np.float64(old), np.float64(new)), rtol=1e-5
    )


# --- What it remembers


@pytest.fixture(scope="module")
def phases() -> dict[str, RunState]:
    """CHAIN with its automatic coefficients: one phase of two gradient steps, and three epochs that stop after two."""
    hparams = HyperParams(learning_rate=1e-2, pfo_coef=5.0, critic_pfo_coef=1.0, kl_stop_limit=1e-5)
    learner, state = prepare(**CHAIN, pfo_auto=True, kl_stop=True, diagnostics=False)
    batch = make_batch(learner, state)
    found = {"start": state}
    for name, num_epochs in (("two steps", 1), ("stopped", 3)):
        found[name], metrics = update(learner, hparams, state, batch, num_epochs=jnp.int32(num_epochs))
        np.testing.assert_allclose(metrics["minibatches_done_fraction"], 1 / num_epochs)
    return found


def test_a_stop_stops_the_memory_too(phases: dict[str, RunState]) -> None:
    """KL is 0 at the first minibatch and beyond the limit at the second, whose step is the last."""
    for field in ("params", "memory"):
        two, stopped = (jax.tree.leaves(getattr(phases[name], field)) for name in ("two steps", "stopped"))
        jax.tree.map(np.testing.assert_array_equal, two, stopped)


def test_the_memory_is_one_step_back(phases: dict[str, RunState]) -> None:
    """Neither where the phase began, nor where it ended: with Adam's first step of 1e-2 from the start."""
    start, after = phases["start"], phases["two steps"]
    for name, previous in after.memory["pfo_previous"].items():
        began, ended = (flattened(state.params)[0][name] for state in (start, after))
        step = np.abs(previous - began)
        assert step.max() == pytest.approx(1e-2, rel=1e-3)
        assert 1e-4 < np.abs(ended - previous).max() < 2e-2


@pytest.mark.parametrize(("interval", "is_due"), [(1, True), (2, False)])
def test_after_a_reset_the_next_step_is_held_to_the_new_weights(interval: int, is_due: bool) -> None:
    """Else it would be pulled back to what the reset has just left."""
    learner, state = prepare(**CHAIN, shrink_and_perturb="hard", reset_interval=interval, diagnostics=False)
    after, _ = update(learner, HyperParams(learning_rate=1e-2), state, make_batch(learner, state))
    for name, weights in flattened(after.params)[0].items():
        assert np.array_equal(after.memory["pfo_previous"][name], weights) is is_due


def test_the_memory_is_in_the_checkpoint(phases: dict[str, RunState], tmp_path: Path) -> None:
    state = phases["two steps"].replace(key=jax.random.key(3))
    checkpoints.save(tmp_path, 1, checkpoints.to_host(state))
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state))
    assert restored is not None
    assert jax.tree.structure(restored[1].memory) == jax.tree.structure(state.memory)
    jax.tree.map(np.testing.assert_array_equal, restored[1].memory, state.memory)


# --- CHAIN's automatic coefficient


def adapted(num_done: int, **floats: float) -> dict[str, float]:
    """The coefficients after so many rollouts whose k-th had a term of 1 + k, a policy loss of 10 + k, value 20 + k."""
    learner, state = prepare(pfo_auto=True)
    after = state
    for number in range(num_done):
        sizes = {"pfo_loss": 1.0, "critic_pfo_loss": 1.0, "policy_loss": 10.0, "value_loss": 20.0}
        now = after.replace(update=jnp.int32(number))
        for late in (7.0, 0.0):  # of several steps of a rollout the last one counts
            each = {name: jnp.float32(size + number + late) for name, size in sizes.items()}
            now = now.replace(memory=proximity.pfo_after_step(now, each))
        after = now
    after = after.replace(update=jnp.int32(num_done))
    memory = proximity.start_pfo(learner, HyperParams(**floats), after)
    return {name: float(coef) for name, coef in memory["pfo_auto"].coefs.items()}


@pytest.mark.parametrize(("num_done", "seen"), [(2, range(2)), (5, range(5)), (130, range(30, 130))])
def test_the_coefficient_makes_the_term_a_share_of_its_loss(num_done: int, seen: range) -> None:
    """Of the means over the latest 100 rollouts at most."""
    found = adapted(num_done, pfo_coef=3.0, critic_pfo_coef=4.0, pfo_warmup=2.0, pfo_target_share=0.25)
    mean = np.mean(seen)
    np.testing.assert_allclose(found["pfo_loss"], 0.25 * (10 + mean) / (1 + mean), rtol=1e-5)
    np.testing.assert_allclose(found["critic_pfo_loss"], 0.25 * (20 + mean) / (1 + mean), rtol=1e-5)


def test_the_warm_up_has_the_fixed_coefficients_and_0_stays_0() -> None:
    assert adapted(2, pfo_coef=3.0, critic_pfo_coef=4.0, pfo_warmup=3.0) == {"pfo_loss": 3.0, "critic_pfo_loss": 4.0}
    assert adapted(0, pfo_coef=3.0, pfo_warmup=0.0)["pfo_loss"] == 3.0  # nothing has been seen yet
    assert adapted(1, pfo_coef=3.0, pfo_warmup=0.0) == {"pfo_loss": pytest.approx(1.0), "critic_pfo_loss": 0.0}


def test_the_sizes_are_those_of_the_loss() -> None:
    learner, _ = prepare(pfo_auto=True)
    terms = {"policy_loss": (1.0, -3.0), "value_loss": (0.5, 8.0)}
    terms |= {"pfo_loss": (9.0, 0.1), "critic_pfo_loss": (9.0, -1e-9)}  # a KL of nearly 0, rounded
    found = proximity.sizes_of_terms(learner, {name: (c, jnp.float32(x)) for name, (c, x) in terms.items()})
    expected = {"policy_loss": 3.0, "value_loss": 4.0, "pfo_loss": 0.1, "critic_pfo_loss": 0.0}
    assert {name: float(x) for name, x in found.items()} == pytest.approx(expected)


# --- Churn


def test_churn_is_how_far_a_step_moved_another_minibatch() -> None:
    learner, before = prepare()
    after = before.replace(params=jax.tree.map(lambda x: 1.05 * x, before.params))
    other: Batch = make_batch(learner, before)
    (y0, v0), (y1, v1) = (
        [network(state.params[name], other.obs, f"{name}_head")["outputs"] for name in ("policy", "critic")]
        for state in (before, after)
    )
    found = churn(learner, before, after, other)
    np.testing.assert_allclose(found["policy_churn"], kl(y0, y1).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["critic_churn"], np.abs(v1 - v0).mean(), rtol=1e-4)
    assert found["policy_churn"] != pytest.approx(kl(y1, y0).mean(), rel=1e-2)
    assert all(np.isnan(x) for x in churn(learner, before, after, None).values())


# --- What is refused, and what the tables say


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pfo_mode": "clip", "pfo_reference": "previous"}, r"^pfo_mode is 'clip', but must be 'penalty' with pfo_ref"),
        ({"pfo_mode": "clip", "pfo_states": "other"}, r"^pfo_mode is 'clip', but must be 'penalty' with pfo_states"),
        ({"pfo_states": "other", "minibatch_size": 1024}, r"^pfo_states is 'other', but must be 'minibatch' where an"),
        ({"pfo_states": "other", "minibatch_size": 600}, r"one minibatch, of minibatch_size 600 from 1024 samples\.$"),
        ({"pfo_reference": "before"}, r"^pfo_reference is 'before'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        pjp.TrainConfig(**fields).validate()


def run_of(**changes: Any) -> dict[str, Any]:
    return dataclasses.asdict(pjp.TrainConfig()) | dataclasses.asdict(HyperParams()) | changes


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"pfo_coef": 1.0}, "Proximal"),
        ({"pfo_coef": 1.0, "pfo_features": "outputs"}, "Proximal"),
        ({"pfo_coef": 1.0, "pfo_reference": "previous"}, "CHAIN"),
        ({"critic_pfo_coef": 1.0, "pfo_states": "other"}, "CHAIN"),
        ({"pfo_coef": 100.0, **CHAIN, "pfo_auto": True}, "CHAIN"),
        (CHAIN, ""),
    ],
)
def test_a_corner_is_one_intervention_and_only_pfo_is_the_papers(changes: dict[str, Any], name: str) -> None:
    run = run_of(**changes)
    on = [x for x in INTERVENTIONS if x.is_on(run)]
    assert [x.name.partition(" ")[0].strip(",") for x in on] == [name] * bool(name)
    assert [x.is_papers(run) for x in on] == [changes == {"pfo_coef": 1.0}] * bool(name)
    assert not any(x.is_papers(run | {"pfo_auto": True}) for x in on)
