"""Resets of units: which units, which of their weights and moments, when; against NumPy in float64 and loops."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_interventions import FAST, train
from test_update import KEY, make_batch, make_learner, make_state, random, update

import purejaxppo as pjp
from purejaxppo.diagnostics.neurons import dead_neurons
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput
from purejaxppo.ppo.interventions import kl_control, resets
from purejaxppo.ppo.interventions.optimizers import flattened, init_optimizers, owners
from purejaxppo.ppo.interventions.resets import reset_at_interval
from purejaxppo.ppo.state import Batch, Learner, RunState
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.ppo.terms import loss_terms, sum_of_terms
from purejaxppo.ppo.update import gradient_step

SMALL = {"num_envs": 4, "num_steps": 8, "minibatch_size": 32, "reset_interval": 3}
CASES: dict[str, dict[str, Any]] = {
    "mlp": {"env": "gymnax/CartPole-v1", "hidden_sizes": (7, 5), "critic_hidden_sizes": (6,), "activation": "tanh"},
    "conv": {
        "env": "gymnax/Breakout-MinAtar", "convolutions": ((3, 3, 2), (4, 2, 1)), "hidden_sizes": (6, 5),
        "initialization": "orthogonal",
    },
    "shared": {
        "env": "gymnax/Pendulum-v1", "hidden_sizes": (7, 5), "share_trunk": True, "trunk_optimizers": "two",
        "layer_norm": True, "action_distribution": "normal",
    },
}  # fmt: skip


# --- The networks once more, in float64, a layer at a time


def patches(xp: Any, x: Any, size: int, stride: int) -> Any:
    """Of images [N, H, W, C] what a kernel sees at each of its places: [N, H', W', size * size * C], channels last."""
    places = range(0, x.shape[1] - size + 1, stride)
    rows = [[x[:, i : i + size, j : j + size].reshape(len(x), -1) for j in places] for i in places]
    return xp.stack([xp.stack(row, axis=1) for row in rows], axis=1)


def steps_of(learner: Learner, network: str) -> list[str]:
    config = learner.config
    widths = config.critic_sizes if network == "critic" else config.hidden_sizes
    return [f"conv_{i}" for i in range(len(config.convolutions))] + [f"hidden_{i}" for i in range(len(widths))]


def preactivation(xp: Any, learner: Learner, layers: Any, name: str, h: Any) -> Any:
    """z = g (W h + b - mean) / std + c of one layer, [N, D] or [N, H, W, D]; without LayerNorm only W h + b."""
    kernel, bias = np.asarray(layers[name]["kernel"], np.float64), np.asarray(layers[name]["bias"], np.float64)
    if name.startswith("conv"):
        h = patches(xp, h, *learner.config.convolutions[int(name[-1])][1:])
    else:
        h = h.reshape(len(h), -1)
    z = h @ kernel + bias.reshape((1,) * (h.ndim - 1) + (-1,))
    if f"{name}_norm" not in layers:
        return z
    gain, offset = (np.asarray(layers[f"{name}_norm"][part], np.float64)[None] for part in ("scale", "bias"))
    axes = tuple(range(1, z.ndim))
    return gain * (z - z.mean(axes, keepdims=True)) / xp.sqrt(z.var(axes, keepdims=True) + 1e-6) + offset


def hidden(xp: Any, learner: Learner, layers: Any, network: str, x: Any, start: int = 0) -> tuple[list[Any], list[Any]]:
    """All z and all h from a layer on, whose input x is."""
    act = {"relu": lambda z: xp.where(z > 0, z, 0.0), "tanh": xp.tanh}[learner.config.activation]
    zs, hs = [], [x]
    for name in steps_of(learner, network)[start:]:
        zs.append(preactivation(xp, learner, layers, name, hs[-1]))
        hs.append(act(zs[-1]))
    return zs, hs[1:]


def head(layers: Any, name: str, h: Any) -> Any:
    y = h @ np.asarray(layers[f"{name}_head"]["kernel"], np.float64)
    y = y + np.asarray(layers[f"{name}_head"]["bias"], np.float64)[None]
    if name == "policy" and "log_scale" in layers:
        y = jnp.concatenate([y, jnp.broadcast_to(np.asarray(layers["log_scale"], np.float64), y.shape)], axis=-1)
    return y


def outputs_of(layers: Any, name: str, zs: list[Any], hs: list[Any]) -> NetworkOutput:
    flat = tuple(z.reshape(len(z), -1) for z in zs)
    return NetworkOutput(outputs=head(layers, name, hs[-1]), features=hs[-1], preactivations=flat)


# --- What a reset must do, by loops over units


def is_in_kernel(kernel: np.ndarray, layer: str, reader: str, unit: int, num_units: int) -> np.ndarray:
    """Rows of a reader's kernel that read a unit: of a channel one at every place, of a neuron one."""
    places = kernel.shape[0] // num_units if layer.startswith("conv") else 1
    assert places * num_units == kernel.shape[0], (layer, reader)
    return np.array([row % num_units == unit for row in range(kernel.shape[0])])


def expected_reset(learner: Learner, params: Any, fresh: Any, chosen: Any) -> tuple[Any, Any]:
    """Parameters after the reset, and marks of all that were touched."""
    params = jax.tree.map(np.array, params)
    marks = jax.tree.map(lambda x: np.zeros(x.shape, bool), params)
    for network, layers in params.items():
        names = steps_of(learner, network)
        for name in names:
            for unit in np.flatnonzero(chosen[network][name]):
                for part in (name, f"{name}_norm"):
                    for leaf, x in layers.get(part, {}).items():
                        x[..., unit] = fresh[network][part][leaf][..., unit]
                        marks[network][part][leaf][..., unit] = True
        for i, name in enumerate(names):
            readers = [names[i + 1]] if i + 1 < len(names) else [x for x in layers if x.endswith("_head")]
            for unit in np.flatnonzero(chosen[network][name]):
                for reader in readers:
                    kernel = layers[reader]["kernel"]
                    rows = is_in_kernel(kernel, name, reader, unit, len(chosen[network][name]))
                    kernel[rows] = 0
                    marks[network][reader]["kernel"][rows] = True
    return params, marks


def prepare(case: str, **fields: Any) -> tuple[Learner, RunState, Batch]:
    """A learner, a state with random weights (some units dead) and moments, and a random batch [32, ...]."""
    learner = make_whole_learner(pjp.TrainConfig(**SMALL, **CASES[case], **fields))
    params = jax.jit(learner.networks.init)(jax.random.key(5))
    for layers in params.values():
        for name in steps_of(learner, "critic" if layers is params.get("critic") else "policy"):
            part = layers.get(f"{name}_norm", layers[name])
            part["bias"] = part["bias"].at[1].add(-100.0) if learner.config.activation == "relu" else part["bias"]
    optimizer = init_optimizers(learner, params)
    every = owners(learner, params)
    for name, adam in optimizer.items():
        mask = every[name][1]
        mu, nu = (random(seed, *adam.mu.shape) ** 2 + 0.1 for seed in (1, 2))
        mu, nu = (x if mask is None else jnp.where(mask, x, 0.0) for x in (mu, nu))
        optimizer[name] = adam._replace(count=jnp.int32(7), mu=mu, nu=nu)
    state = RunState(
        params=params, optimizer=optimizer, env_state=None, obs=jnp.zeros(()), episodes=None,
        observation_statistics=None, key=KEY, update=jnp.int32(2), status=jnp.int32(0),
        memory=resets.init_resets(learner),
    )  # fmt: skip
    obs = random(3, 32, *learner.env.observation_shape)
    obs = obs > 0.5 if case == "conv" else obs
    policy, critic = jax.jit(learner.both)(state, obs)
    is_discrete = hasattr(learner.distribution, "num_actions")
    action = jnp.arange(32) % 2 if is_discrete else random(4, 32, 1)
    batch = Batch(
        obs=obs, action=action, log_prob=learner.distribution.log_prob(policy.outputs, action) + 0.1 * random(6, 32),
        policy_outputs=policy.outputs, policy_phi=policy.preactivations[-1] + 0.1, advantage=random(7, 32),
        critic_phi=critic.preactivations[-1], value_target=critic.outputs[:, 0] + random(8, 32),
    )  # fmt: skip
    return learner, state, batch


def activity(learner: Learner, state: RunState, batch: Batch) -> dict[str, dict[str, np.ndarray]]:
    """Mean |h| of each unit, in float64."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for network, layers in state.params.items():
        _, hs = hidden(np, learner, layers, network, np.asarray(batch.obs, np.float64))
        sizes = [np.abs(h).reshape(-1, h.shape[-1]).mean(0) for h in hs]
        found[network] = dict(zip(steps_of(learner, network), sizes, strict=True))
    return found


def gradient_activity(
    learner: Learner, hparams: HyperParams, state: RunState, batch: Batch
) -> dict[str, dict[str, np.ndarray]]:
    """Mean |dL/dh| of each unit: the rest of the network as a function of one layer's h, differentiated by JAX."""
    names = {name: name if name in state.params else "shared" for name in ("policy", "critic")}

    def loss(every: dict[str, list[Any]], network: str, start: int, h: Any) -> Any:
        """With h as what a layer of a network gives, and of all other layers before it the h that are given."""
        outputs = []
        for head, of in names.items():
            at, x = (start, h) if of == network else (0, every[of][0])
            before = hidden(jnp, learner, state.params[of], of, every[of][0])
            zs, hs = hidden(jnp, learner, state.params[of], of, x, at)
            outputs.append(outputs_of(state.params[of], head, before[0][:at] + zs, [*before[1][:at], x, *hs]))
        return sum_of_terms(learner, loss_terms(learner, hparams, state, tuple(outputs), batch, KEY))

    found: dict[str, dict[str, np.ndarray]] = {}
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == jnp.float32 else x, batch)
        every: dict[str, list[Any]] = {}
        for network, layers in state.params.items():
            x = np.asarray(batch.obs, np.float64)
            every[network] = [x, *hidden(np, learner, layers, network, x)[1]]
        for network in state.params:
            starts = range(1, len(every[network]))
            slopes = jax.jit(lambda n=network, s=starts: [jax.grad(partial(loss, every, n, i))(every[n][i]) for i in s])
            sizes = [np.abs(np.asarray(x)).reshape(-1, x.shape[-1]).mean(0) for x in slopes()]
            found[network] = dict(zip(steps_of(learner, network), sizes, strict=True))
    return found


HPARAMS = {"redo": HyperParams(reset_threshold=0.9), "regrama": HyperParams(reset_threshold=0.9, pfo_coef=0.3)}


@pytest.mark.parametrize("score", ["redo", "regrama"])
@pytest.mark.parametrize("case", CASES)
def test_exactly_the_units_that_numpy_names_are_reset(case: str, score: str) -> None:
    """Weights to them are the fresh ones, from them 0, Adam's moments of both 0; every other number keeps its bits."""
    learner, state, batch = prepare(case, unit_resets=score)
    hparams = HPARAMS[score]
    scores = activity(learner, state, batch) if score == "redo" else gradient_activity(learner, hparams, state, batch)
    chosen = jax.tree.map(lambda x: x <= hparams.reset_threshold * x.mean(), scores)
    near = jax.tree.map(lambda x: np.abs(x - hparams.reset_threshold * x.mean()).min() / x.mean(), scores)
    assert min(jax.tree.leaves(near)) > 1e-4  # no unit that float32 might judge otherwise
    number = {name: sum(int(x.sum()) for x in of.values()) for name, of in chosen.items()}
    assert all(0 < number[name] < sum(x.size for x in chosen[name].values()) for name in number)
    fresh = jax.jit(learner.networks.init)(resets.child_keys(KEY)[0])
    found = jax.jit(partial(reset_at_interval, learner, hparams))(state, batch, KEY, 1, fresh)
    params, marks = expected_reset(learner, state.params, fresh, chosen)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    for owner, (network, _) in owners(learner, state.params).items():
        mask, adam = ravel_pytree(marks[network])[0].astype(bool), found.optimizer[owner]
        for part in ("mu", "nu"):
            before = getattr(state.optimizer[owner], part)
            np.testing.assert_array_equal(getattr(adam, part), np.where(mask, 0, before))
        assert adam.count == 7
    assert found.memory == {"units_reset": {name: float(n) for name, n in number.items()}}


def test_a_layer_of_zeros_is_reset_as_a_whole_and_a_threshold_of_0_resets_dead_units_alone() -> None:
    scores = {"policy": {"hidden_0": jnp.zeros(3), "hidden_1": jnp.array([0.0, 1e-9, 5.0])}}
    found = resets.is_inactive(HyperParams(reset_threshold=0.0), scores)["policy"]
    assert found["hidden_0"].tolist() == [True, True, True]
    assert found["hidden_1"].tolist() == [True, False, False]
    found = resets.is_inactive(HyperParams(), {"policy": {"hidden_0": jnp.array([0.0, 0.025, 0.026, 2.949])}})
    assert found["policy"]["hidden_0"].tolist() == [True, False, False, False]


def test_resets_come_after_the_last_update_of_an_interval_and_not_where_nothing_is_learned() -> None:
    learner, state = make_learner(unit_resets="redo", reset_interval=3), make_state(make_learner())
    due = [bool(resets.is_due(learner, state.replace(update=jnp.int32(u)), 2)) for u in range(7)]
    assert due == [False, False, True, False, False, True, False]
    assert not resets.is_due(learner, state.replace(update=jnp.int32(2)), jnp.int32(0))


def test_units_are_judged_by_random_samples_of_the_rollout_as_many_as_a_minibatch_has() -> None:
    """Only one sample of eight makes the unit active: over keys it is seen as often as minibatches of four have it."""
    learner = make_learner(unit_resets="redo", reset_interval=1, hidden_sizes=(2,))
    state = make_state(learner).replace(memory=resets.init_resets(learner))
    batch = make_batch(learner, state)
    batch = batch.replace(obs=jnp.zeros((8, 3)).at[5, 0].set(1.0))
    layer = {"kernel": jnp.zeros((3, 2)).at[0, 0].set(1.0), "bias": jnp.array([0.0, 1.0])}
    state = state.replace(params={name: of | {"hidden_0": layer} for name, of in state.params.items()})
    hparams = HyperParams(reset_threshold=0.0)

    def resets_of(key: jax.Array) -> jax.Array:
        return reset_at_interval(learner, hparams, state, batch, key, 1, state.params).memory["units_reset"]["policy"]

    counts = jax.jit(jax.vmap(resets_of))(jax.random.split(KEY, 200))
    assert set(np.unique(counts)) == {0.0, 1.0}
    assert 0.35 < counts.mean() < 0.65


def test_a_dead_network_comes_alive() -> None:
    """No gradient reaches the hidden layers of dead networks; after a reset it does, from the second step on."""
    on = make_learner(unit_resets="redo", reset_interval=1, num_epochs=1, hidden_sizes=(16, 16))
    off = make_learner(num_epochs=3, hidden_sizes=(16, 16))
    state = make_state(on)
    for layers in state.params.values():
        layers["hidden_0"]["bias"] -= 1e3
        layers["hidden_1"]["bias"] -= 1e3
    state = state.replace(memory=resets.init_resets(on))
    batch = make_batch(on, state)
    still, _ = update(off, FAST, state.replace(memory={}), batch)
    jax.tree.map(np.testing.assert_array_equal, still.params["policy"]["hidden_0"], state.params["policy"]["hidden_0"])
    alive, metrics = update(on, FAST, state, batch)
    assert metrics["policy_units_reset"] == metrics["critic_units_reset"] == 32
    assert dead_neurons(on.networks.policy(alive.params, batch.obs).features, "relu") < 16
    np.testing.assert_array_equal(alive.params["policy"]["policy_head"]["kernel"], 0)
    moved, _ = update(off, FAST, alive.replace(memory={}), batch)
    assert (moved.params["policy"]["hidden_0"]["kernel"] != alive.params["policy"]["hidden_0"]["kernel"]).any()


def test_a_reset_that_finds_no_unit_changes_nothing_else() -> None:
    """Neither order of samples nor any other random number: the update is that of plain PPO."""
    on, off = (make_learner(unit_resets=kind, reset_interval=1, num_epochs=2) for kind in ("regrama", "off"))
    state = make_state(on)
    batch, never = make_batch(on, state), dataclasses.replace(FAST, reset_threshold=-1.0)
    found, metrics = update(on, never, state.replace(memory=resets.init_resets(on)), batch)
    expected, plain = update(off, never, state, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found.params, expected.params)
    assert set(metrics) - set(plain) == {"policy_units_reset", "critic_units_reset"}
    assert metrics["policy_units_reset"] == 0
    assert expected.memory == {}


def test_resets_in_a_whole_program_by_interval_and_by_threshold() -> None:
    """Four updates, a reset after every second one; in one program runs that reset nothing, some units, and all 32."""
    points = [dataclasses.replace(FAST, reset_threshold=value) for value in (-1.0, 0.5, 1e9)]
    result = train(points, unit_resets="redo", reset_interval=2)
    counts = result.metrics["policy_units_reset"]
    np.testing.assert_array_equal(counts[0], 0)
    np.testing.assert_array_equal(counts[2], [0, 32, 32, 64])
    assert counts[1, 0] == 0 < counts[1, 1] == counts[1, 2] < counts[1, 3] < 64
    kernels = result.state.params["policy"]["policy_head"]["kernel"]
    assert (kernels[0] != 0).all()
    np.testing.assert_array_equal(kernels[2], 0)
    assert (result.state.optimizer["policy"].mu[2] != 0).sum() <= 2  # the head's biases


# --- Continual backpropagation


def loop(activity: np.ndarray, outgoing: np.ndarray, hparams: HyperParams) -> tuple[list[list[int]], np.ndarray]:
    """Units replaced in each step, and the ages afterwards, of activities and weights [steps, D]."""
    eta, num_units = hparams.utility_decay, activity.shape[1]
    utility, age, due, replaced = [0.0] * num_units, [0] * num_units, 0.0, []
    for h, w in zip(activity, outgoing, strict=True):
        for i in range(num_units):
            age[i] += 1
            utility[i] = eta * utility[i] + (1 - eta) * h[i] * w[i]
        mature = [i for i in range(num_units) if age[i] > hparams.maturity_threshold]
        due += hparams.replacement_rate * len(mature)
        worst = sorted(mature, key=lambda i: utility[i] / (1 - eta ** age[i]))[: int(due)]
        due -= int(due)
        for i in worst:
            utility[i], age[i] = 0.0, 0
        replaced.append(sorted(worst))
    return replaced, np.array(age)


def test_continual_backprop_replaces_what_a_loop_replaces_in_every_one_of_400_steps() -> None:
    # 1/32 is exact: sums of 0.03 come to 1 or to just below it, by the rounding of the processor.
    hparams = HyperParams(replacement_rate=0.03125, maturity_threshold=12.0, utility_decay=0.9)
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2.0, 20)
    activity, outgoing = rng.exponential(scale, (400, 20)), rng.uniform(0.5, 1.5, (400, 20))
    expected, age = loop(activity, outgoing, hparams)
    start = resets.Utility(utility=jnp.zeros(20), age=jnp.zeros(20), due=jnp.zeros(()))
    memory, chosen = jax.jit(
        lambda *x: jax.lax.scan(lambda memory, x: resets.judge(hparams, memory, *x), start, x)
    )(jnp.float32(activity), jnp.float32(outgoing))  # fmt: skip
    assert [np.flatnonzero(mask).tolist() for mask in chosen] == expected
    np.testing.assert_array_equal(memory.age, age)
    numbers = [len(units) for units in expected]
    assert set(numbers) == {0, 1}
    assert sum(numbers) > 100  # 1/32 x 400 steps x the mature ones of 20
    assert len({unit for units in expected for unit in units}) >= 10


def test_more_than_one_unit_that_is_due_is_replaced_at_once_and_the_rest_stays_due() -> None:
    memory = resets.Utility(utility=jnp.zeros(5), age=jnp.full(5, 9.0).at[1].set(0.0), due=jnp.float32(0.25))
    hparams = HyperParams(replacement_rate=0.5, maturity_threshold=9.0, utility_decay=0.0)
    kept, chosen = resets.judge(hparams, memory, jnp.array([3.0, 0.0, 1.0, 4.0, 2.0]), jnp.ones(5))
    assert chosen.tolist() == [False, False, True, False, True]  # unit 1 is the least, but too young
    np.testing.assert_allclose(kept.due, 0.25)
    np.testing.assert_array_equal(kept.age, [10, 1, 0, 10, 0])
    np.testing.assert_array_equal(kept.utility, [3, 0, 0, 4, 0])


@pytest.mark.parametrize("case", CASES)
def test_after_a_gradient_step_the_unit_of_least_contribution_is_replaced(case: str) -> None:
    """|h| from before the step, |outgoing w| from after it; one unit of each layer, and nothing else changes."""
    learner, state, batch = prepare(case, unit_resets="continual_backprop")
    off = dataclasses.replace(learner, config=dataclasses.replace(learner.config, unit_resets="off"))
    hparams = HyperParams(replacement_rate=0.0, maturity_threshold=5.0, learning_rate=1e-2)
    utility = jax.tree.map(
        lambda of: of.replace(age=of.age + 9, due=of.due + 1),
        state.memory["unit_utility"],
        is_leaf=lambda x: isinstance(x, resets.Utility),
    )
    state = state.replace(memory=state.memory | {"unit_utility": utility})
    fresh = jax.jit(learner.networks.init)(jax.random.key(9))
    weights, unravel = flattened(state.params)
    rates = dict.fromkeys(state.optimizer, jnp.float32(1e-2))

    def step(learner: Learner) -> RunState:
        def one(state: RunState) -> RunState:
            flat = state.replace(params=weights)
            after = gradient_step(learner, hparams, rates, unravel, flat, batch, KEY, fresh)[0]
            return after.replace(params=unravel(after.params))

        return jax.jit(one)(state)

    plain, found = step(off), step(learner)
    chosen: dict[str, dict[str, np.ndarray]] = {}
    for network, layers in activity(learner, state, batch).items():
        chosen[network], params, names = {}, jax.tree.map(np.float64, plain.params[network]), list(layers)
        for i, (name, size) in enumerate(layers.items()):
            readers = [names[i + 1]] if i + 1 < len(names) else [x for x in params if x.endswith("_head")]
            utility = np.zeros(len(size))
            for unit in range(len(size)):
                for reader in readers:
                    kernel = params[reader]["kernel"]
                    utility[unit] += np.abs(kernel[is_in_kernel(kernel, name, reader, unit, len(size))]).sum()
            utility *= size
            chosen[network][name] = np.arange(len(size)) == utility.argmin()
    params, marks = expected_reset(learner, plain.params, fresh, chosen)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), found.params, params)
    jax.tree.map(lambda x, y, m: np.testing.assert_array_equal(np.asarray(x)[m], y[m]), found.params, params, marks)
    for owner, (network, _) in owners(learner, state.params).items():
        mask = ravel_pytree(marks[network])[0].astype(bool)
        expected = np.where(mask, 0, plain.optimizer[owner].mu)
        np.testing.assert_allclose(found.optimizer[owner].mu, expected, rtol=1e-5, atol=1e-9)
    for network, of in found.memory["unit_utility"].items():
        for name, utility in of.items():
            np.testing.assert_array_equal(utility.age, np.where(chosen[network][name], 0, 10))
            assert utility.due == 0


def test_stopped_steps_age_no_unit_and_replace_none() -> None:
    """The first minibatch of this rollout goes too far, and is the only one that counts."""
    learner = make_learner(unit_resets="continual_backprop", kl_stop=True, minibatch_size=8, num_epochs=5)
    state = make_state(learner)
    state = state.replace(memory=resets.init_resets(learner), kl_control=kl_control.init_kl_control(learner))
    batch = make_batch(learner, state)
    batch = batch.replace(policy_outputs=batch.policy_outputs + 3 * random(1, *batch.policy_outputs.shape))
    hparams = HyperParams(kl_stop_limit=1e-6, replacement_rate=0.1, maturity_threshold=0.0)
    after, metrics = update(learner, hparams, state, batch)
    np.testing.assert_allclose(metrics["minibatches_done_fraction"], 0.2, rtol=1e-6)
    for layer in after.memory["unit_utility"]["policy"].values():
        np.testing.assert_array_equal(layer.age, 1)
        np.testing.assert_allclose(layer.due, 0.1 * layer.age.size, rtol=1e-5)
    assert metrics["policy_units_reset"] == 0


def test_continual_backprop_in_a_whole_program_by_its_rate_and_its_maturity() -> None:
    """16 steps an update; how many units are mature, and so replaced, does not depend on which these were."""
    pairs = [(0.0, 1e4), (0.02, 20.0), (0.02, 1e4)]
    points = [dataclasses.replace(FAST, replacement_rate=rate, maturity_threshold=maturity) for rate, maturity in pairs]
    result = train(points, unit_resets="continual_backprop")
    ones = np.random.default_rng(0).uniform(size=(64, 16))
    replaced, age = loop(ones, ones, points[1])
    total = 2 * np.cumsum([len(units) for units in replaced])[15::16]  # two layers of 16
    np.testing.assert_array_equal(result.metrics["policy_units_reset"], [np.zeros(4), total, np.zeros(4)])
    assert total[-1] > 10
    found = result.state.memory["unit_utility"]["critic"]["hidden_1"].age
    np.testing.assert_array_equal(found[0], 64)
    assert found[1].min() == age.min() < found[1].max()
    first, second, third = (jax.tree.map(lambda x, i=i: x[i], result.state.params) for i in range(3))
    jax.tree.map(np.testing.assert_array_equal, first, third)
    assert (second["policy"]["hidden_0"]["kernel"] != first["policy"]["hidden_0"]["kernel"]).any()


# --- Hard shrink and perturb


def test_hard_shrink_and_perturb_comes_at_intervals_with_its_two_strengths_and_leaves_the_moments() -> None:
    """theta <- shrink theta + perturb theta_fresh; with 1 and 0 the update is that of plain PPO."""
    learner = make_learner(shrink_and_perturb="hard", reset_interval=2, num_epochs=1)
    state = make_state(learner)
    batch, hparams = make_batch(learner, state), dataclasses.replace(FAST, shrink=0.4, perturb=0.1)
    plain, _ = update(learner, dataclasses.replace(FAST, shrink=1.0, perturb=0.0), state, batch)
    fresh = jax.jit(learner.networks.init)(resets.child_keys(KEY)[0])
    for number, is_due in ((0, False), (1, True), (2, False)):
        found, metrics = update(learner, hparams, state.replace(update=jnp.int32(number)), batch)
        expected = jax.tree.map(lambda x, y: 0.4 * x + 0.1 * y, plain.params, fresh) if is_due else plain.params
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), found.params, expected)
        jax.tree.map(np.testing.assert_array_equal, found.optimizer, plain.optimizer)
    assert found.memory == {}
    assert "policy_units_reset" not in metrics
    off, _ = update(make_learner(num_epochs=1), FAST, state, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), plain.params, off.params)


# --- Mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"residual": True, "hidden_sizes": (8, 8)},
            r"^unit_resets is 'redo', but must be 'off' with residual, [^.]*\.$",
        ),
        (
            {"network": "lab.nets:Torso"},
            r"^unit_resets is 'redo', but must be 'off' with network 'lab\.nets:Torso', [^.]*\.$",
        ),
        ({"crelu": True}, r"^unit_resets is 'redo', but must be 'off' with crelu, [^.]*\.$"),
        ({"optimizer": "muon"}, r"^unit_resets is 'redo', but must be 'off' with optimizer 'muon', [^.]*\.$"),
        ({"reset_interval": 0}, r"^reset_interval is 0, but must be at least 1\.$"),
    ],
)
def test_impossible_resets_are_refused_in_a_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pjp.TrainConfig(unit_resets="redo", **fields).validate()
