"""What is done to weights after every gradient step, penalties on them, Adam-Rel, DPO and RMSNorm.

Each against its formula in NumPy, and its effect in whole updates. `whole_update.py` compares most of them once more,
in all iterations of a run.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.flatten_util import ravel_pytree
from test_update import make_batch, make_learner, make_state, minibatch_loss, update_networks

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams, validate_hyperparams
from purejaxppo.networks import make_actor_critic
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions import after_step, optimizers, penalties
from purejaxppo.ppo.interventions.kl_control import init_kl_control
from purejaxppo.ppo.start import init_memory
from purejaxppo.ppo.state import Learner, RunState
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.sweep import checkpoints

KEY = jax.random.key(0)
NORM = {"hidden_0_norm", "hidden_1_norm"}


def prepare(**fields: Any) -> tuple[Learner, RunState]:
    """A tiny learner of test_update, and its state with what the interventions remember."""
    learner = make_learner(**fields)
    state = make_state(learner, learner.networks.init(KEY))
    return learner, state.replace(memory=init_memory(learner, state.params))


def float64(tree: Any) -> Any:
    return jax.tree.map(np.float64, tree)


def moved(params: Any) -> Any:
    """The parameters a random bit further on."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + jnp.asarray(np.random.default_rng(5).normal(size=flat.shape), jnp.float32))


def matrices(params: Any) -> dict[tuple[str, str], np.ndarray]:
    """W [units, fan_in] of every layer that has one, by network and layer."""
    return {
        (network, name): np.float64(layer["kernel"]).T
        for network, layers in params.items()
        for name, layer in layers.items()
        if "kernel" in layer
    }


# --- Penalties


def test_l2_init_is_the_sum_of_squares_and_its_gradient_is_twice_the_distance() -> None:
    """Kumar et al.'s code (skumar9876/L2_Init, agents.py) adds torch.sum(diff ** 2) of every parameter, times 0.5."""
    _, state = prepare(l2_init=True)
    params = moved(state.params)
    value, gradient = jax.value_and_grad(penalties.squared_distance)(params, state.memory["l2_init"])
    difference = jax.tree.map(lambda x, y: x - y, float64(params), float64(state.params))
    np.testing.assert_allclose(value, sum((x**2).sum() for x in jax.tree.leaves(difference)), rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, 2 * y, rtol=1e-4, atol=1e-5), gradient, difference)


def test_parseval_is_that_of_hidden_layers_with_units_as_rows() -> None:
    """Gradient 4 (W W^T - s I) W; Chung et al.'s code (wechu/parseval_reg, agent.py): W of PyTorch is [units, in]."""
    _, state = prepare()
    params = moved(state.params)
    value, gradient = jax.value_and_grad(penalties.parseval)(params, 1.5)
    found, expected = matrices(gradient), 0.0
    for place, w in matrices(params).items():
        excess = w @ w.T - 1.5 * np.eye(len(w))
        if not place[1].startswith("hidden_"):
            assert not found[place].any()
            continue
        expected += (excess**2).sum()
        np.testing.assert_allclose(found[place], 4 * excess @ w, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_at_an_orthogonal_start_parseval_counts_the_units_that_are_too_many() -> None:
    """Gain sqrt 2, s = 2: of 6 units with 3 inputs W W^T has rank 3, so 3 x 2^2 a network; 4 units with 6 inputs, 0."""
    learner, _ = prepare()
    networks = make_actor_critic(
        pjp.TrainConfig(hidden_sizes=(6, 4), initialization="orthogonal"), (3,), 5, state_independent_scale=False
    )
    np.testing.assert_allclose(penalties.parseval(networks.init(KEY), HyperParams().parseval_scale), 24.0, rtol=1e-4)
    assert learner.config.hidden_sizes == (6, 4)


def test_penalties_enter_the_loss_with_their_coefficients() -> None:
    learner, state = prepare(l2_init=True, parseval=True)
    plain, _ = prepare()
    batch, params = make_batch(learner, state), moved(state.params)
    hparams = HyperParams(l2_init_coef=0.3, parseval_coef=0.02, parseval_scale=1.2)
    total, (terms, _) = minibatch_loss(params, learner, hparams, state, batch, KEY)
    without, _ = minibatch_loss(params, plain, hparams, state, batch, KEY)
    np.testing.assert_allclose(terms["l2_init_loss"], penalties.squared_distance(params, state.params), rtol=1e-5)
    np.testing.assert_allclose(terms["parseval_loss"], penalties.parseval(params, 1.2), rtol=1e-5)
    np.testing.assert_allclose(total - without, 0.3 * terms["l2_init_loss"] + 0.02 * terms["parseval_loss"], rtol=1e-3)


# --- Operations


def test_weight_decay_is_that_of_adamw() -> None:
    """Five steps by optax.adamw, whose rate falls; biases decay as well."""
    learner, state = prepare(weight_decay=True)
    hparams, rate = HyperParams(max_grad_norm=1e9, weight_decay_rate=0.3), lambda count: 0.1 / (1 + count)
    params, other = state.params, optax.adamw(rate, weight_decay=0.3)
    flat, unravel = ({name: ravel_pytree(x)[i] for name, x in params.items()} for i in (0, 1))

    def nested(weights: Any) -> Any:
        return {name: unravel[name](x) for name, x in weights.items()}

    expected, theirs, moments = flat, other.init(flat), state.optimizer
    for count in range(5):
        gradient = {name: jnp.sin(x + count) for name, x in flat.items()}
        rates = dict.fromkeys(flat, jnp.float32(rate(count)))
        before = state.replace(params=flat)
        stepped, moments, _ = optimizers.step_weights(learner, hparams, rates, nested, flat, gradient, moments)
        flat = after_step.apply(learner, hparams, rates, nested, before, stepped, KEY)
        change, theirs = other.update(gradient, theirs, expected)
        expected = optax.apply_updates(expected, change)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), flat, expected)


def test_two_owners_of_a_trunk_decay_it_at_both_rates_and_their_heads_at_one() -> None:
    learner, state = prepare(weight_decay=True, share_trunk=True, trunk_optimizers="two")
    flat, unravel = ravel_pytree(state.params["shared"])
    owners = optimizers.owners(learner, state.params)
    rates = {"policy": jnp.float32(0.1), "critic": jnp.float32(0.02)}
    found = unravel(after_step.decay({"shared": flat}, {"shared": flat}, rates, owners, 0.5)["shared"])
    for name, layer in state.params["shared"].items():
        factor = {"policy_head": 0.95, "critic_head": 0.99}.get(name, 0.94)
        jax.tree.map(lambda x, y, f=factor: np.testing.assert_allclose(x, f * y, rtol=1e-6), found[name], layer)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    weights=npst.arrays(np.float32, (2, 12), elements=st.floats(-5, 5, width=32)),
    perturbation=st.floats(0, 1, width=32),
)
def test_shrink_and_perturb_mixes_weights_with_fresh_ones(weights: np.ndarray, perturbation: float) -> None:
    """Juliani and Ash's code (awjuliani/deep-rl-plasticity, sp_module): p <- shrink p + epsilon p_init, of all."""
    found = after_step.shrink_and_perturb({"policy": weights[0]}, {"policy": weights[1]}, perturbation)["policy"]
    theta, fresh = np.float64(weights)
    np.testing.assert_allclose(found, (1 - perturbation) * theta + perturbation * fresh, rtol=1e-5, atol=1e-5)


def test_clipping_bounds_weights_and_biases_by_fan_in_and_nothing_else() -> None:
    """Elsayed et al.'s code (mohmdelsayed/weight-clipping): a bias has the bound of the weights before it."""
    params = {
        "shared": {
            "conv_0": {"kernel": jnp.full((9 * 4, 3), -7.0), "bias": jnp.full(3, 7.0)},
            "hidden_0": {"kernel": jnp.full((16, 3), 0.1), "bias": jnp.full(3, -7.0)},
            "hidden_0_norm": {"scale": jnp.full(3, 7.0), "bias": jnp.full(3, 7.0)},
            "log_scale": jnp.full(2, -7.0),
            "torso": {"conv": {"kernel": jnp.full((2, 2, 4, 5), 7.0)}, "gain": jnp.full(3, 7.0)},
        }
    }
    found = after_step.clip_weights(params, 3.0)["shared"]
    for layer, kernel, bias in (("conv_0", -3 / 6, 3 / 6), ("hidden_0", 0.1, -3 / 4)):
        np.testing.assert_allclose(found[layer]["kernel"], kernel, rtol=1e-6)
        np.testing.assert_allclose(found[layer]["bias"], bias, rtol=1e-6)
    np.testing.assert_allclose(found["torso"]["conv"]["kernel"], 3 / 4, rtol=1e-6)
    for untouched in ("hidden_0_norm", "log_scale"):
        jax.tree.map(np.testing.assert_array_equal, found[untouched], params["shared"][untouched])
    np.testing.assert_array_equal(found["torso"]["gain"], 7.0)


def test_projection_gives_hidden_layers_the_norm_of_the_start_and_keeps_their_direction() -> None:
    _, state = prepare(layer_norm=True, weight_projection=True)
    params = moved(state.params)
    params["critic"]["hidden_0"]["kernel"] = jnp.zeros((3, 6))
    found = after_step.project_weights(params, state.memory["weight_projection"])
    start, before = matrices(state.params), matrices(params)
    for place, w in matrices(found).items():
        if place == ("critic", "hidden_0") or place[1].endswith("_head"):
            np.testing.assert_array_equal(w, before[place])
            continue
        factor = np.linalg.norm(start[place]) / np.linalg.norm(before[place])
        np.testing.assert_allclose(w, before[place] * factor, rtol=1e-5)
        network, layer = place
        np.testing.assert_allclose(found[network][layer]["bias"], params[network][layer]["bias"] * factor, rtol=1e-5)
    for part in ("scale", "bias"):  # of the normalisation
        np.testing.assert_array_equal(found["policy"]["hidden_0_norm"][part], params["policy"]["hidden_0_norm"][part])
    assert len(state.memory["weight_projection"]) == 4


@pytest.mark.parametrize("normalization", ["layer_norm", "rms_norm"])
def test_projection_changes_no_output(normalization: str) -> None:
    """What is in front of a normalisation is only scaled, weights and biases by one factor."""
    learner, state = prepare(**{normalization: True}, weight_projection=True)
    params = moved(state.params)
    projected = after_step.project_weights(params, state.memory["weight_projection"])
    obs = jax.random.normal(KEY, (32, 3))
    for before, after in zip(*(learner.both(state.replace(params=x), obs) for x in (params, projected)), strict=True):
        np.testing.assert_allclose(after.outputs, before.outputs, rtol=1e-3, atol=1e-4)
        assert np.abs(after.preactivations[0] - before.preactivations[0]).max() < 1e-3


def test_all_of_them_act_one_after_another() -> None:
    """Decay, by the weights before the step; perturb, by fresh ones of a key of its own; clip; project."""
    learner, state = prepare(
        weight_decay=True, shrink_and_perturb="soft", weight_clipping=True, layer_norm=True, weight_projection=True
    )
    hparams = HyperParams(weight_decay_rate=0.5, perturbation=0.25, weight_clip_scale=0.7)
    flat = {name: ravel_pytree(x)[0] for name, x in state.params.items()}
    unravel = {name: ravel_pytree(x)[1] for name, x in state.params.items()}
    stepped = {name: x + 0.2 for name, x in flat.items()}
    found = after_step.apply(
        learner, hparams, dict.fromkeys(flat, 0.1), lambda w: {name: unravel[name](x) for name, x in w.items()},
        state.replace(params=flat), stepped, KEY,
    )  # fmt: skip
    fresh = learner.networks.init(jax.random.fold_in(KEY, 0x66726573))
    for network, layers in state.params.items():
        result = unravel[network](found[network])
        for name, layer in layers.items():
            thetas = {}
            for part, x in float64(layer).items():
                theta = 0.75 * (x + 0.2 - 0.05 * x) + 0.25 * np.float64(fresh[network][name][part])
                if name not in NORM:
                    bound = 0.7 / np.sqrt(len(layer["kernel"]))
                    theta = np.clip(theta, -bound, bound)
                thetas[part] = theta
            factor = 1.0
            if name.startswith("hidden_") and name not in NORM:
                factor = np.linalg.norm(layer["kernel"]) / np.linalg.norm(thetas["kernel"])
            for part, theta in thetas.items():
                np.testing.assert_allclose(result[name][part], theta * factor, rtol=1e-4, atol=1e-6)


# --- In whole updates: one program, a run for each strength

RUNS = {
    "plain": {},
    "l2_init": {"l2_init_coef": 100.0},
    "parseval": {"parseval_coef": 1.0},
    "parseval_scale": {"parseval_coef": 1.0, "parseval_scale": 0.1},
    "decay": {"weight_decay_rate": 2.0},
    "perturbed": {"perturbation": 0.1},
    "fresh": {"perturbation": 1.0},
    "clipped": {"weight_clip_scale": 0.2},
}
NEUTRAL: dict[str, float] = {
    "learning_rate": 1e-2, "value_coef": 0.0, "adam_beta1": 0.0, "l2_init_coef": 0.0, "parseval_coef": 0.0,
    "weight_decay_rate": 0.0, "perturbation": 0.0, "weight_clip_scale": 1e9,
}  # fmt: skip
NUM_STEPS = 3 * 2  # epochs x minibatches


@pytest.fixture(scope="module")
def whole() -> SimpleNamespace:
    """All runs of one program after one update, from the same weights; the critic gets no gradient from the loss.

    The learning rate falls, and half of the updates are done.
    """
    learner, state = prepare(
        l2_init=True, parseval=True, weight_decay=True, shrink_and_perturb="soft", weight_clipping=True,
        lr_schedule="linear", num_epochs=3,
    )  # fmt: skip
    state = state.replace(update=jnp.int32(learner.config.num_updates // 2))
    every = [HyperParams(**NEUTRAL | fields) for fields in RUNS.values()]
    hparams = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *every)
    batch = make_batch(learner, state)
    run = jax.jit(jax.vmap(lambda hparams: update_networks(learner, hparams, state, batch, KEY, 3)))
    after, metrics = run(hparams)
    places = {name: i for i, name in enumerate(RUNS)}
    return SimpleNamespace(
        learner=learner,
        start=state.params,
        batch=batch,
        params={name: jax.tree.map(lambda x, i=i: x[i], after.params) for name, i in places.items()},
        metrics={name: {k: float(v[i]) for k, v in metrics.items()} for name, i in places.items()},
    )


def distance(one: Any, other: Any) -> float:
    return float(sum(((x - y) ** 2).sum() for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True)))


def test_with_neutral_strengths_nothing_changes(whole: SimpleNamespace) -> None:
    plain, state = prepare(lr_schedule="linear", num_epochs=3)
    state = state.replace(update=jnp.int32(plain.config.num_updates // 2))
    fields = {name: x for name, x in NEUTRAL.items() if name in ("learning_rate", "value_coef", "adam_beta1")}
    run = jax.jit(lambda: update_networks(plain, HyperParams(**fields), state, whole.batch, KEY, 3)[0].params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), run(), whole.params["plain"])


def test_l2_init_keeps_weights_near_the_start(whole: SimpleNamespace) -> None:
    free, held = (distance(whole.params[name]["policy"], whole.start["policy"]) for name in ("plain", "l2_init"))
    assert held < 0.5 * free


def test_parseval_makes_hidden_layers_more_orthogonal_at_its_own_scale(whole: SimpleNamespace) -> None:
    def loss(name: str, scale: float) -> float:
        return float(penalties.parseval(whole.params[name], scale))

    assert loss("parseval", 2.0) < 0.95 * loss("plain", 2.0)
    assert loss("parseval_scale", 0.1) < 0.95 * min(loss("plain", 0.1), loss("parseval", 0.1))


def test_where_there_is_no_gradient_weight_decay_shrinks_by_its_exact_factor(whole: SimpleNamespace) -> None:
    """(1 - rate x weight_decay_rate)^steps; the learning rate is at half of its 1e-2."""
    factor = (1 - 0.5e-2 * 2.0) ** NUM_STEPS
    critic, start = whole.params["decay"]["critic"], whole.start["critic"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, factor * y, rtol=1e-5), critic, start)
    jax.tree.map(np.testing.assert_array_equal, whole.params["plain"]["critic"], start)


def test_perturbed_weights_are_mixed_with_fresh_ones_of_the_start_at_every_step(whole: SimpleNamespace) -> None:
    """With perturbation 1 they are a fresh start, U(+-1 / sqrt(fan_in)), without a trace of the one before."""
    bound = {"hidden_0": 3**-0.5, "hidden_1": 6**-0.5, "policy_head": 0.5, "critic_head": 0.5}
    every = []
    for network, layers in whole.params["fresh"].items():
        for name, layer in layers.items():
            every += [np.ravel(x) / bound[name] for x in layer.values()]
            before = whole.start[network][name]["kernel"]
            assert (np.abs(layer["kernel"] - before) > 1e-4).all()
    every = np.concatenate(every)
    assert np.abs(every).max() <= 1 + 1e-6
    np.testing.assert_allclose(every.std(), 3**-0.5, rtol=0.15)
    mixed, start = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree["critic"])])
                    for tree in (whole.params["perturbed"], whole.start))  # fmt: skip
    left = (mixed @ start) / (start @ start)  # 0.9^6 of the start is left
    np.testing.assert_allclose(left, 0.9**NUM_STEPS, atol=0.2)
    assert np.abs(mixed - 0.9**NUM_STEPS * start).max() > 1e-2


def test_clipped_weights_are_within_their_bounds(whole: SimpleNamespace) -> None:
    for layers in whole.params["clipped"].values():
        for layer in layers.values():
            bound = 0.2 / np.sqrt(len(layer["kernel"]))
            assert max(np.abs(x).max() for x in layer.values()) <= bound * (1 + 1e-6)


def test_metrics_are_those_of_the_loss_before_the_step(whole: SimpleNamespace) -> None:
    assert whole.metrics["plain"]["l2_init_loss_first_epoch_first"] == 0
    assert whole.metrics["plain"]["l2_init_loss"] > 0
    np.testing.assert_allclose(
        whole.metrics["plain"]["parseval_loss_first_epoch_first"], penalties.parseval(whole.start, 2.0), rtol=1e-5
    )
    assert whole.metrics["decay"]["critic_step_norm"] > 0  # what is done after a step is part of it


def test_after_an_early_stop_nothing_is_done_to_the_weights() -> None:
    """The weights of the critic, without gradient, decay once for every step that is made."""
    learner, state = prepare(weight_decay=True, kl_stop=True, num_epochs=3)
    state = state.replace(kl_control=init_kl_control(learner))
    batch = make_batch(learner, state)
    hparams = HyperParams(**NEUTRAL | {"weight_decay_rate": 10.0, "kl_stop_limit": 1e-12})
    run = jax.jit(lambda: update_networks(learner, hparams, state, batch, KEY, 3))
    after, metrics = run()
    num_done = round(float(metrics["minibatches_done_fraction"]) * NUM_STEPS)
    assert num_done in (1, 2)
    factor = (1 - 1e-2 * 10.0) ** num_done
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, factor * y, rtol=1e-5),
        after.params["critic"],
        state.params["critic"],
    )


@pytest.mark.parametrize("torso", ["Torso", "NnxTorso"])
def test_weights_of_a_network_of_the_users_own_are_held_as_ours_are(
    torso: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels are hidden layers, its heads are ours."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "lab_project"))
    config = pjp.TrainConfig(
        env="lab.envs:corridor", network=f"lab.nets:{torso}", l2_init=True, parseval=True, weight_decay=True,
        shrink_and_perturb="soft", weight_clipping=True, optimizer="muon",
    )  # fmt: skip
    learner = make_whole_learner(config)
    params = learner.networks.init(KEY)
    names = set(penalties.hidden_matrices(params))
    assert len(names) == len(penalties.weight_matrices(params)) - 2
    assert all("_torso_" in name for name in names)
    flat = {name: ravel_pytree(x) for name, x in params.items()}
    state = SimpleNamespace(params={name: x[0] for name, x in flat.items()}, memory=init_memory(learner, params))
    found = after_step.apply(
        learner, HyperParams(weight_clip_scale=0.1), dict.fromkeys(flat, 0.1),
        lambda weights: {name: flat[name][1](x) for name, x in weights.items()}, state, state.params, KEY,
    )  # fmt: skip
    nested = {name: flat[name][1](x) for name, x in found.items()}
    for name, matrix in penalties.weight_matrices(nested).items():
        assert np.abs(matrix).max() <= 0.1 / np.sqrt(matrix.shape[0]) + 1e-7, name
    assert penalties.squared_distance(nested, state.memory["l2_init"]) > 0
    assert set(optimizers.init_optimizers(learner, params)) == {"policy", "critic"}


@pytest.mark.parametrize(
    "fields", [{"l2_init": True, "optimizer": "muon"}, {"weight_projection": True, "rms_norm": True}]
)
def test_what_is_remembered_goes_to_disk_and_back(fields: dict[str, Any], tmp_path: Path) -> None:
    _, state = prepare(**fields)
    state = jax.tree.map(lambda x: x, state).replace(obs=jnp.ones(3))
    checkpoints.save(tmp_path, 1, checkpoints.to_host(state))
    log_points, found = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state)) or (0, None)
    assert log_points == 1
    assert found is not None
    for name in ("params", "optimizer", "memory"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(state, name))
    assert state.memory


# --- Adam-Rel


def test_adam_rel_is_adam_whose_steps_are_counted_from_the_rollout() -> None:
    """By hand, over three rollouts of four steps: m and v go on, t begins anew."""
    learner, state = prepare(adam_rel=True)
    hparams, rng = HyperParams(max_grad_norm=1e9, adam_beta2=0.9), np.random.default_rng(0)
    flat, unravel = ravel_pytree(state.params["critic"])
    theta, m, v = np.float64(flat), 0.0, 0.0
    weights, rates = {"critic": flat}, {"critic": jnp.float32(0.1)}
    moments = {"critic": state.optimizer["critic"]}
    for _ in range(3):
        moments = optimizers.start_update(learner, state.replace(optimizer=moments))
        for t in range(1, 5):
            g = rng.normal(size=flat.size)
            m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g**2
            theta = theta - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            weights, moments, _ = optimizers.step_weights(
                learner, hparams, rates, lambda w: {"critic": unravel(w["critic"])}, weights,
                {"critic": jnp.asarray(g, jnp.float32)}, moments,
            )  # fmt: skip
            np.testing.assert_allclose(weights["critic"], theta, rtol=1e-4, atol=1e-5)
    assert moments["critic"].count == 4


# --- Muon


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Five times X <- a X + b (X X^T) X + c (X X^T)^2 X from X / |X|, with the coefficients of Jordan et al. 2024."""
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


def test_muon_orthogonalizes_the_momentum_of_matrices_and_steps_the_rest_by_adam() -> None:
    """Two steps; momentum 0.95 m + 0.05 g without its bias, looked ahead by one step, as optax's Nesterov has it."""
    learner, state = prepare(optimizer="muon", share_trunk=True)
    hparams, rng = HyperParams(max_grad_norm=1e9), np.random.default_rng(0)
    flat, unravel = ravel_pytree(state.params["shared"])
    weights, moments, rates = {"shared": flat}, state.optimizer, {"shared": jnp.float32(0.1)}
    adam = optax.nadam(0.1)
    theirs, momentum = adam.init(flat), 0.0
    for t in (1, 2):
        gradient = jnp.asarray(rng.normal(size=flat.shape), jnp.float32)
        before = float64(unravel(weights["shared"]))
        weights, moments, _ = optimizers.step_weights(
            learner, hparams, rates, lambda w: {"shared": unravel(w["shared"])}, weights, {"shared": gradient}, moments
        )
        step, theirs = adam.update(gradient, theirs)
        momentum = 0.95 * momentum + 0.05 * np.float64(gradient)
        ahead = 0.95 * momentum / (1 - 0.95 ** (t + 1)) + 0.05 * np.float64(gradient) / (1 - 0.95**t)
        after, ahead, by_adam = unravel(weights["shared"]), unravel(ahead), unravel(step)
        for name, layer in after.items():
            fan_in, fan_out = layer["kernel"].shape
            change = (np.float64(layer["kernel"]) - before[name]["kernel"]) / (0.1 * max(1, fan_out / fan_in) ** 0.5)
            np.testing.assert_allclose(change, -newton_schulz(np.float64(ahead[name]["kernel"])), rtol=1e-3, atol=1e-3)
            sigma = np.linalg.svd(change, compute_uv=False)
            assert 0.6 < sigma.min() <= sigma.max() < 1.3
            bias = np.float64(layer["bias"]) - before[name]["bias"]
            np.testing.assert_allclose(bias, by_adam[name]["bias"], rtol=1e-3, atol=1e-5)


def test_a_reset_muon_is_a_fresh_one() -> None:
    learner, state = prepare(optimizer="muon", reset_optimizer=True)
    used = jax.tree.map(lambda x: x + 1, state.optimizer)
    found = optimizers.start_update(learner, state.replace(optimizer=used))
    jax.tree.map(np.testing.assert_array_equal, found, state.optimizer)
    assert any(x.any() for x in jax.tree.leaves(found))  # the coefficients of its iteration


# --- DPO


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    log_ratio=npst.arrays(np.float64, 16, elements=st.floats(-3, 3, allow_subnormal=False)),
    advantage=npst.arrays(np.float64, 16, elements=st.floats(-4, 4, allow_subnormal=False)),
)
def test_dpo_value_and_gradient(log_ratio: np.ndarray, advantage: np.ndarray) -> None:
    """As printed in the authors' code (purejaxrl's DPO): alpha 2 and (r - 1) A for A >= 0, beta 0.6 and log(r) A else.

    relu' = 1 where x > c tanh(x / c), that is x > 0: there d f / d x = tanh^2(x / c).
    """
    r, a = np.exp(log_ratio), advantage
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(
            lambda x: losses.dpo_surrogate(jnp.exp(x), jnp.asarray(a), 0.2).sum()
        )(jnp.asarray(log_ratio))  # fmt: skip
    x, c = np.where(a >= 0, (r - 1) * a, log_ratio * a), np.where(a >= 0, 2.0, 0.6)
    drift = np.maximum(x - c * np.tanh(x / c), 0)
    np.testing.assert_allclose(value, (r * a - drift).sum(), rtol=1e-9, atol=1e-9)
    inner = np.where(a >= 0, r * a, a)  # d x / d log r
    slope = r * a - np.where(x > 0, np.tanh(x / c) ** 2, 0) * inner
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("log_prob", [-200.0, 0.0, 100.0])
def test_dpo_of_any_ratio_is_finite(log_prob: float) -> None:
    def loss(log_prob: jax.Array) -> jax.Array:
        ratio = losses.probability_ratio(log_prob, jnp.zeros(3))
        return -losses.dpo_surrogate(ratio, jnp.array([1.0, -1.0, 0.0]), 0.2).mean()

    value, gradient = jax.value_and_grad(loss)(jnp.full(3, log_prob))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


# --- RMSNorm


@pytest.mark.parametrize("torso", ["mlp", "minatar_conv"])
def test_rms_norm_divides_a_layer_by_its_root_mean_square(torso: Any) -> None:
    """Over all units of a layer, a convolution's whole map; its gain is there at the start, 1, and no bias."""
    fields = {"env": "gymnax/Breakout-MinAtar", "torso": torso, "hidden_sizes": (8, 6), "rms_norm": True}
    networks = make_actor_critic(pjp.TrainConfig(**fields), (10, 10, 4), 3, state_independent_scale=False)
    params = networks.init(KEY)
    norms = {name: layer for name, layer in params["policy"].items() if name.endswith("_norm")}
    assert len(norms) == (3 if torso == "minatar_conv" else 2)
    assert all(set(layer) == {"scale"} for layer in norms.values())
    obs = jax.random.uniform(KEY, (5, 10, 10, 4))
    for output in networks.both(params, 1e3 * obs):
        for z in output.preactivations:
            np.testing.assert_allclose(np.square(z).mean(axis=-1), 1.0, rtol=1e-3)
    if torso == "mlp":
        layer = params["policy"]["hidden_0"]
        z = np.float64(obs).reshape(5, -1) @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        z = 3 * z / np.sqrt((z**2).mean(axis=-1, keepdims=True) + 1e-6)
        params["policy"]["hidden_0_norm"]["scale"] = jnp.full(8, 3.0)
        np.testing.assert_allclose(networks.policy(params, obs).preactivations[0], z, rtol=1e-4, atol=1e-5)


# --- CReLU


@pytest.mark.parametrize("torso", ["mlp", "minatar_conv"])
def test_crelu_gives_both_signs_of_half_as_many_units(torso: Any) -> None:
    """Layers are as wide as without it. Juliani and Ash's code (CReLu) halves widths as well, so that they stay."""
    fields = {"env": "gymnax/Breakout-MinAtar", "torso": torso, "hidden_sizes": (8, 6), "crelu": True}
    networks = make_actor_critic(pjp.TrainConfig(**fields), (10, 10, 4), 3, state_independent_scale=False)
    params, obs = networks.init(KEY), jax.random.normal(KEY, (5, 10, 10, 4))
    policy, critic = networks.both(params, obs)
    assert [z.shape[-1] for z in policy.preactivations] == [*([8 * 8 * 16] if torso == "minatar_conv" else []), 8, 6]
    x = np.float64(obs).reshape(5, -1)
    if torso == "minatar_conv":
        z = np.float64(policy.preactivations[0]).reshape(5, 8, 8, 16)
        np.testing.assert_array_equal(z[..., 8:], -z[..., :8])
        kernel, bias = (np.float64(params["policy"]["conv_0"][part]) for part in ("kernel", "bias"))
        patch = np.float64(obs)[:, 2:5, 3:6].reshape(5, -1)
        np.testing.assert_allclose(z[:, 2, 3, :8], patch @ kernel + bias, rtol=1e-4, atol=1e-5)
        x = np.maximum(z, 0).reshape(5, -1)
    for layer in ("hidden_0", "hidden_1", "policy_head"):
        z = x @ np.float64(params["policy"][layer]["kernel"]) + np.float64(params["policy"][layer]["bias"])
        x = np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)], axis=1) if layer != "policy_head" else z
        if layer == "hidden_1":
            np.testing.assert_allclose(policy.features, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(policy.outputs, x, rtol=1e-4, atol=1e-5)
    assert critic.features.shape == (5, 6)


# --- What is refused


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"weight_projection": True}, "weight_projection is True, but must be False without layer_norm or rms_norm"),
        ({"layer_norm": True, "rms_norm": True}, "rms_norm is True, but must be False with layer_norm"),
        ({"adam_rel": True, "reset_optimizer": True}, "adam_rel is True, but must be False with reset_optimizer"),
        ({"adam_rel": True, "optimizer": "muon"}, "adam_rel is True, but must be False with optimizer 'muon'"),
        (
            {"optimizer": "muon", "share_trunk": True, "trunk_optimizers": "two"},
            "optimizer is 'muon', but must be 'adam' with share_trunk and trunk_optimizers 'two'",
        ),
        ({"crelu": True, "activation": "tanh"}, "activation is 'tanh', but must be 'relu' with crelu"),
        ({"crelu": True, "residual": True}, "residual is True, but must be False with crelu"),
        ({"crelu": True, "hidden_sizes": (4, 3)}, "hidden_sizes is [4, 3], but must have even widths with crelu"),
        ({"crelu": True, "critic_hidden_sizes": (5,)}, "critic_hidden_sizes is [5], but must have even widths"),
        ({"crelu": True, "convolutions": ((3, 2, 1),)}, "convolutions is ((3, 2, 1),), but must have even numbers of"),
        ({"network": "a:B", "crelu": True}, "crelu is True, but must be False with network 'a:B'"),
        ({"network": "a:B", "rms_norm": True}, "rms_norm is True, but must be False with network 'a:B'"),
        ({"shrink_and_perturb": "hardest"}, "shrink_and_perturb is 'hardest', but must be"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        pjp.TrainConfig(**fields).validate()
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [("weight_clip_scale", 0.0, "greater than 0"), ("perturbation", 1.5, "between 0 and 1"),
     ("weight_decay_rate", -1.0, "at least 0"), ("l2_init_coef", -1.0, "at least 0")],
)  # fmt: skip
def test_impossible_strengths_are_refused(name: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is {value}, but must be {rule}"):
        validate_hyperparams(HyperParams(**{name: value}))
