"""The optimisation phase: optimiser, minibatches, learning rate, and which network each loss reaches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from purejaxppo.config import TrainConfig
from purejaxppo.distributions import Categorical
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import NetworkOutput, Params, make_actor_critic
from purejaxppo.ppo.interventions.optimizers import (
    clip_scale,
    flattened,
    init_adam,
    init_optimizers,
    scheduled_learning_rates,
    step_weights,
)
from purejaxppo.ppo.measures import corners, minibatch_metrics
from purejaxppo.ppo.minibatches import shuffled_indices
from purejaxppo.ppo.rollout import Rollout, next_values, prepare_batch
from purejaxppo.ppo.state import Batch, Learner, RunState
from purejaxppo.ppo.terms import loss_terms, sum_of_terms
from purejaxppo.ppo.update import gradient_step, update_networks

KEY = jax.random.key(0)
T, N, OBS, ACTIONS = 4, 2, 3, 5

# One compiled program is quicker than its operations one by one; the learner is static.
prepare_batch = jax.jit(prepare_batch, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def minibatch_update(
    learner: Learner, hparams: HyperParams, rate: Any, state: RunState, batch: Batch, key: jax.Array
) -> tuple[RunState, Metrics]:
    """One gradient step of every network on one minibatch, and its metrics. rate: of all optimisers, or by name."""
    weights, unravel = flattened(state.params)
    before = state.replace(params=weights)
    rates = rate if isinstance(rate, dict) else dict.fromkeys(state.optimizer, rate)
    after, norms, outputs = gradient_step(learner, hparams, rates, unravel, before, batch, key)
    metrics = minibatch_metrics(learner, hparams, rates, unravel, before, after, norms, outputs, batch, key)
    return after.replace(params=unravel(after.params)), metrics


@partial(jax.jit, static_argnums=1)
def minibatch_loss(
    params: Params, learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array]]:
    """Total loss of one minibatch; its terms, each without its coefficient, and the policy's outputs."""
    state = state.replace(params=params)
    outputs = learner.both(state, batch.obs)
    terms = loss_terms(learner, hparams, state, outputs, batch, key)
    return sum_of_terms(learner, terms), ({name: value for name, (_, value) in terms.items()}, outputs[0].outputs)


@partial(jax.jit, static_argnums=0)
def update(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    key: jax.Array = KEY,
    *,
    num_epochs: jax.Array | int | None = None,
    is_measured: jax.Array | bool = True,
) -> tuple[RunState, Metrics]:
    """All epochs over one rollout: as many as the configuration says, or as an argument does."""
    num_epochs = learner.config.num_epochs if num_epochs is None else num_epochs
    return update_networks(learner, hparams, state, batch, key, num_epochs, is_measured)


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make_learner(**fields: Any) -> Learner:
    """A learner on observations [3] with 5 actions. Nothing in the optimisation phase looks at the environment."""
    fields = {"num_envs": N, "num_steps": T, "minibatch_size": 4, "num_epochs": 20, "hidden_sizes": (6, 4)} | fields
    config = TrainConfig(**fields).validate()
    networks = make_actor_critic(config, (OBS,), ACTIONS, state_independent_scale=False)
    return Learner(config, None, networks, Categorical(ACTIONS))


def make_state(learner: Learner, params: Params | None = None) -> RunState:
    """The state before the first update, with parameters drawn by NumPy; no environment in it."""
    if params is None:
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(learner.networks.init, KEY)
        params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return RunState(
        params=params,
        optimizer=init_optimizers(learner, params),
        env_state=None,
        obs=jnp.zeros((N, OBS)),
        episodes=None,
        observation_statistics=None,
        key=KEY,
        update=jnp.zeros((), jnp.int32),
        status=jnp.zeros((), jnp.int32),
    )


def make_rollout() -> tuple[Rollout, np.ndarray]:
    """Random experience [T, N] in which one episode terminates and one meets its time limit."""
    terminated, truncated = np.zeros((T, N), bool), np.zeros((T, N), bool)
    terminated[1, 0] = truncated[2, 1] = True
    return random_rollout(terminated, truncated)


def random_rollout(terminated: np.ndarray, truncated: np.ndarray) -> tuple[Rollout, np.ndarray]:
    """Random experience [T, N], and every step's last observation: while an episode goes on, it is the next one."""
    obs = np.asarray(random(1, T, N, OBS))
    is_over = terminated | truncated
    is_over[-1] = True
    final_obs = np.where(is_over[..., None], random(3, T, N, OBS), np.roll(obs, -1, axis=0))
    last_obs = np.zeros((T + 1, N, OBS), np.float32)  # of each environment's cuts in order, then of the last step
    for n in range(N):
        cuts = np.flatnonzero(truncated[:, n])
        last_obs[: len(cuts), n] = final_obs[cuts, n]
    last_obs[-1] = final_obs[-1]
    rollout = Rollout(
        obs=jnp.asarray(obs),
        action=jnp.arange(T * N).reshape(T, N) % ACTIONS,
        reward=random(2, T, N),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        last_obs=jnp.asarray(last_obs),
    )
    return rollout, final_obs


def make_batch(learner: Learner, state: RunState, hparams: HyperParams | None = None) -> Batch:
    return prepare_batch(learner, hparams or HyperParams(), state, make_rollout()[0])


# --- The optimiser


def adam_step(
    hparams: HyperParams, rate: jax.Array, grads: Params, moments: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """Clip the gradient's global norm, then one Adam step, for one network."""
    (weights, unravel), (gradients, _) = flattened({"policy": params}), flattened({"policy": grads})
    learner = make_learner()
    after, moments, _ = step_weights(
        learner, hparams, {"policy": rate}, unravel, weights, gradients, {"policy": moments}
    )
    return unravel(after)["policy"], moments["policy"]


def init_optimizer(params: Params) -> optax.OptState:
    return init_adam(ravel_pytree(params)[0])


def test_adam_step_equals_optax_for_many_runs_at_once() -> None:
    """Several steps with traced learning rates, decays, epsilons and clips, against optax's own chain with constants.

    rtol 1e-4: we divide by |g| + 1e-6 (PyTorch's epsilon, 2e-6 relative where a norm of 0.5 is clipped; optax has
    none), and a traced 1 - beta2 is rounded to float32 (1.3e-5 relative for 0.999, half of that after the root).
    """
    hparams = HyperParams(
        learning_rate=jnp.array([1e-3, 1e-2, 1e-3]),
        max_grad_norm=jnp.array([0.5, 1e9, 2.0]),
        adam_beta1=jnp.array([0.9, 0.0, 0.5]),
        adam_beta2=jnp.array([0.999, 0.9, 0.9]),
        adam_eps=jnp.array([1e-8, 1e-3, 1e-5]),
    )
    axes = HyperParams(**{name: 0 if jnp.ndim(value) else None for name, value in vars(hparams).items()})
    step = jax.jit(jax.vmap(adam_step, (axes, 0, None, 0, 0)))
    start = {"kernel": random(0, 4, 3), "bias": random(1, 3)}
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), start)
    opt_state = jax.vmap(init_optimizer)(params)
    # Norms from far below every clip to far above; Adam forgets a constant scale, so only their changes show clipping.
    grads = [jax.tree.map(lambda x, i=i: 10.0 ** (i - 3) * random(i, *x.shape), start) for i in range(6)]
    for grad in grads:
        params, opt_state = step(hparams, hparams.learning_rate, grad, opt_state, params)
    for s in range(3):
        run = {name: float(x[s]) for name, x in vars(hparams).items() if jnp.ndim(x)}
        optimizer = optax.chain(
            optax.clip_by_global_norm(run["max_grad_norm"]),
            optax.adam(run["learning_rate"], b1=run["adam_beta1"], b2=run["adam_beta2"], eps=run["adam_eps"]),
        )
        expected, expected_state = start, optimizer.init(start)
        for grad in grads:
            updates, expected_state = optimizer.update(grad, expected_state, expected)
            expected = optax.apply_updates(expected, updates)
        moved = jax.tree.map(lambda x, y, s=s: x[s] - y, params, start)
        expected_moved = jax.tree.map(lambda x, y: x - y, expected, start)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6), moved, expected_moved)


def test_the_first_step_of_adam_is_the_learning_rate_in_every_coordinate() -> None:
    params = {"bias": jnp.array([1.0, 2.0])}
    grads = {"bias": jnp.array([3.0, -4.0])}
    after, _ = adam_step(HyperParams(), jnp.float32(0.1), grads, init_optimizer(params), params)
    np.testing.assert_allclose(after["bias"], [0.9, 2.1], rtol=1e-5)
    np.testing.assert_allclose(after["bias"] - params["bias"], [-0.1, 0.1], rtol=1e-5)


def test_a_gradient_beyond_the_limit_is_scaled_to_it_and_one_within_is_left_alone() -> None:
    np.testing.assert_allclose(clip_scale(HyperParams(max_grad_norm=0.5), 5.0), 0.1, rtol=1e-6)
    assert clip_scale(HyperParams(max_grad_norm=0.6), jnp.float32(0.5)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "final", "expected"),
    [("constant", 0.0, [0.5, 0.5, 0.5]), ("linear", 0.0, [0.5, 0.25, 0.0]), ("linear", 0.2, [0.5, 0.3, 0.1])],
)
@pytest.mark.parametrize("is_separate", [False, True])
def test_learning_rates_at_the_start_in_the_middle_and_after_the_end(
    schedule: str, final: float, expected: list[float], is_separate: bool
) -> None:
    fields = {"lr_schedule": schedule, "lr_final_fraction": final, "separate_learning_rates": is_separate}
    learner = make_learner(**fields, total_steps=10 * N * T, num_log_points=5)
    assert learner.config.num_updates == 10
    states = [make_state(learner).replace(update=jnp.int32(u)) for u in (0, 5, 10)]
    hparams = HyperParams(learning_rate=0.5, critic_learning_rate=2.0)
    found = [scheduled_learning_rates(learner, hparams, state) for state in states]
    np.testing.assert_allclose([rates["policy"] for rates in found], expected, rtol=1e-6)
    np.testing.assert_allclose([rates["critic"] for rates in found], np.multiply(4**is_separate, expected), rtol=1e-6)


# --- Minibatches


class Counters:
    """In place of the networks: the value of sample i is the parameter w[i], so a step moves the samples seen."""

    def both(self, params: Params, obs: jax.Array, activation: Any = None) -> tuple[NetworkOutput, NetworkOutput]:
        index = obs[:, 0].astype(int)
        logits = jnp.tile(params["policy"][None], (len(index), 1))
        values = params["critic"][index][:, None]
        return tuple(NetworkOutput(outputs=x, features=x, preactivations=(values,)) for x in (logits, values))


COUNTERS = Counters()


def count_visits(*, minibatch_size: int, key: jax.Array = KEY) -> np.ndarray:
    """How often each of 12 samples is in a minibatch of one call of `update_networks` with three epochs.

    Adam without memory moves every parameter that has a gradient by exactly the learning rate, here 1, towards its
    target, here far away: afterwards the parameters are the counts.
    """
    config = TrainConfig(num_envs=3, num_steps=4, minibatch_size=minibatch_size, num_epochs=3)
    learner = Learner(config.validate(), None, COUNTERS, Categorical(ACTIONS))
    state = make_state(learner, {"policy": jnp.zeros(ACTIONS), "critic": jnp.zeros(12)})
    hparams = HyperParams(learning_rate=1.0, adam_beta1=0.0, adam_beta2=0.0)
    batch = Batch(
        obs=jnp.arange(12.0)[:, None],
        action=jnp.zeros(12, jnp.int32),
        log_prob=jnp.zeros(12),
        policy_outputs=jnp.zeros((12, ACTIONS)),
        policy_phi=jnp.zeros((12, 1)),
        critic_phi=jnp.zeros((12, 1)),
        advantage=jnp.zeros(12),
        value_target=jnp.full(12, 1e4),
    )
    after, _ = update(learner, hparams, state, batch, key)
    return np.asarray(after.params["critic"]).round(3)


def test_every_sample_is_used_once_per_epoch() -> None:
    np.testing.assert_array_equal(count_visits(minibatch_size=4), 3.0)


def test_an_incomplete_last_minibatch_is_dropped_and_another_one_each_epoch() -> None:
    """12 = 2 x 5 + 2: each of the three epochs uses 10 samples, and leaves out other two than the one before."""
    visits = count_visits(minibatch_size=5)
    assert visits.sum() == 30
    assert set(visits) - {0.0, 3.0}
    assert visits.max() == 3.0


def test_another_key_shuffles_otherwise() -> None:
    first, second = (count_visits(minibatch_size=5, key=jax.random.key(k)) for k in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 1024])
def test_shuffled_indices_are_a_permutation(size: int) -> None:
    np.testing.assert_array_equal(np.sort(shuffled_indices(KEY, size)), np.arange(size))


@pytest.mark.parametrize("bits", [14, 18, 20])
def test_minibatches_of_large_rollouts_are_of_all_times(bits: int) -> None:
    """The mean place of 64 samples out of all has a deviation of 1 / sqrt(12 x 64)."""
    places = np.asarray(shuffled_indices(KEY, 2**bits)) / 2**bits
    assert np.std(places.reshape(-1, 64).mean(axis=1)) == pytest.approx(1 / np.sqrt(12 * 64), rel=0.15)


def test_every_index_is_as_likely_in_every_place() -> None:
    """Chi-square of 6 indices x 6 places over 6000 shuffles: 25 degrees of freedom, 1 in 10^5 beyond 66."""
    orders = np.asarray(jax.vmap(lambda k: shuffled_indices(k, 6))(jax.random.split(KEY, 6000)))
    counts = np.stack([np.bincount(place, minlength=6) for place in orders.T])
    assert ((counts - 1000) ** 2 / 1000).sum() < 66
    pairs = np.bincount(orders[:, 0] * 6 + orders[:, 1], minlength=36).reshape(6, 6)
    off_diagonal = pairs[~np.eye(6, dtype=bool)]
    assert ((off_diagonal - 200) ** 2 / 200).sum() < 72


def test_metrics_are_taken_only_where_asked_for_and_change_no_step() -> None:
    learner = make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    measured, metrics = update(learner, HyperParams(), state, batch, is_measured=True)
    unmeasured, nothing = update(learner, HyperParams(), state, batch, is_measured=False)
    jax.tree.map(np.testing.assert_array_equal, measured.params, unmeasured.params)
    assert metrics["policy_weight_norm"] > 0
    assert np.isfinite(metrics.scalars).all()
    assert np.isnan(nothing.scalars).all()


def test_metrics_are_a_mapping() -> None:
    metrics = Metrics.of({"a": jnp.float32(1.0), "b": jnp.float32(2.0), "spectrum": jnp.arange(3.0)})
    assert list(metrics) == list(metrics.keys()) == ["a", "b", "spectrum"]
    assert [np.asarray(x).tolist() for x in metrics.values()] == [1.0, 2.0, [0.0, 1.0, 2.0]]
    assert {name: np.asarray(x).tolist() for name, x in metrics.items()}["b"] == 2.0


def test_corners_are_the_first_and_last_minibatch_of_the_first_and_last_epoch() -> None:
    """Of three epochs (tens) of four minibatches (ones); the plain name is the very last."""
    first, last = (
        Metrics(names=("x",), scalars=10.0 * epoch + jnp.arange(4.0)[:, None], spectra={}) for epoch in (0, 2)
    )
    assert {name: int(value) for name, value in corners(first, last).items()} == {
        "x_first_epoch_first": 0,
        "x_first_epoch_last": 3,
        "x_last_epoch_first": 20,
        "x": 23,
    }


def test_a_number_of_epochs_that_comes_as_an_argument_makes_the_steps_of_a_fixed_one() -> None:
    """Three epochs, fixed in one program and given to another that was made for one; the last epoch is measured."""
    fixed, other = make_learner(num_epochs=3), make_learner(num_epochs=1)
    state = make_state(fixed)
    batch = make_batch(fixed, state)
    expected, metrics = update(fixed, HyperParams(), state, batch)
    for num_epochs, is_same in ((jnp.int32(3), True), (jnp.int32(2), False)):
        found, found_metrics = update(other, HyperParams(), state, batch, num_epochs=num_epochs)
        for a, b in ((found.params, expected.params), (found_metrics.scalars, metrics.scalars)):
            assert is_same == np.allclose(ravel_pytree(a)[0], ravel_pytree(b)[0], rtol=1e-5, atol=1e-5)


# --- The loss


@pytest.mark.parametrize(("pfo_layers", "pfo_distance"), [("last", "cosine"), ("all", "l2")])
def test_pfo_terms_compare_the_chosen_layers_by_the_chosen_distance(pfo_layers: str, pfo_distance: str) -> None:
    learner = make_learner(pfo_layers=pfo_layers, pfo_distance=pfo_distance)
    old, new = make_state(learner), make_state(learner)
    new = new.replace(params=jax.tree.map(lambda x: x + 0.1 * random(7, *x.shape), new.params))
    batch = make_batch(learner, old)
    _, (terms, _) = minibatch_loss(new.params, learner, HyperParams(), new, batch, KEY)
    before, after = (learner.networks.both(state.params, batch.obs) for state in (old, new))
    for name, x, y in zip(("pfo_loss", "critic_pfo_loss"), before, after, strict=True):
        x, y = (np.concatenate(z.preactivations[-1 if pfo_layers == "last" else 0 :], axis=-1) for z in (x, y))
        cosine = (x * y).sum(axis=-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
        expected = ((x - y) ** 2).mean() if pfo_distance == "l2" else (1 - cosine).mean()
        np.testing.assert_allclose(terms[name], expected, rtol=1e-4)


def test_total_loss_is_the_weighted_sum_of_its_terms() -> None:
    learner = make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    batch = batch.replace(policy_phi=batch.policy_phi + 1, critic_phi=random(5, 8, 4))
    hparams = HyperParams(entropy_coef=0.3, value_coef=0.7, pfo_coef=2.0, critic_pfo_coef=5.0)
    total, (terms, _) = minibatch_loss(state.params, learner, hparams, state, batch, KEY)
    coefs = {"policy_loss": 1, "entropy_loss": 0.3, "value_loss": 0.7, "pfo_loss": 2, "critic_pfo_loss": 5}
    np.testing.assert_allclose(total, sum(coef * terms[name] for name, coef in coefs.items()), rtol=1e-5)
    assert all(terms[name] != 0 for name in coefs if name != "policy_loss")


def test_the_first_minibatch_of_an_update_is_where_the_rollout_left_the_policy() -> None:
    """Nothing has moved yet: ratio 1, so no clipping and a mean-free loss; no KL, no drift, the entropy it had."""
    learner = make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    _, metrics = update(learner, HyperParams(learning_rate=1e-2), state, batch)
    for name in ("policy_loss", "clip_fraction", "minibatch_kl", "pfo_loss", "critic_pfo_loss"):
        np.testing.assert_allclose(metrics[f"{name}_first_epoch_first"], 0.0, atol=1e-5, err_msg=name)
    for name in ("minibatch_kl", "pfo_loss", "critic_pfo_loss"):
        assert metrics[name] > 1e-4, name


@pytest.mark.parametrize("pfo_coef", [0.0, 100.0])
def test_pfo_holds_the_preactivations(pfo_coef: float) -> None:
    learner = make_learner()
    state = make_state(learner)
    hparams = HyperParams(learning_rate=1e-2, pfo_coef=pfo_coef)
    _, metrics = update(learner, hparams, state, make_batch(learner, state))
    assert (metrics["pfo_loss"] < 0.01) == (pfo_coef > 0)


def test_old_quantities_of_the_batch_are_those_of_the_network_that_collected_it() -> None:
    """Rows are time-major; the value of the final observation, not of the next one, is what a time limit is worth."""
    learner = make_learner(pfo_layers="all")
    state, (rollout, final_obs) = make_state(learner), make_rollout()
    hparams = HyperParams(gamma=0.9, gae_lambda=0.0)
    batch = prepare_batch(learner, hparams, state, rollout)
    for t, n in ((0, 0), (1, 0), (2, 1), (3, 1)):
        row = t * N + n
        policy, critic = learner.networks.both(state.params, rollout.obs[t, n])
        next_value = learner.networks.critic(state.params, jnp.asarray(final_obs[t, n])).outputs[0]
        target = rollout.reward[t, n] + 0.9 * next_value * ~rollout.terminated[t, n]
        log_prob = jax.nn.log_softmax(policy.outputs)[rollout.action[t, n]]
        np.testing.assert_array_equal(batch.obs[row], rollout.obs[t, n])
        np.testing.assert_allclose(batch.log_prob[row], log_prob, rtol=1e-5)
        np.testing.assert_allclose(batch.policy_outputs[row], policy.outputs, rtol=1e-5)
        np.testing.assert_allclose(batch.policy_phi[row], jnp.concatenate(policy.preactivations), rtol=1e-5)
        np.testing.assert_allclose(batch.critic_phi[row], jnp.concatenate(critic.preactivations), rtol=1e-5)
        np.testing.assert_allclose(batch.value_target[row], target, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.advantage[row], target - critic.outputs[0], rtol=1e-4, atol=1e-5)


def test_last_observations_are_valued_where_they_count_in_every_run_and_differentiably() -> None:
    """Three runs side by side: nothing cut off, single episodes cut off, all of them at every step."""
    learner = make_learner()
    state = make_state(learner)
    never = np.zeros((T, N), bool)
    some = np.asarray(jax.random.bernoulli(KEY, 0.3, (T, N)))
    each = [random_rollout(never.copy(), truncated) for truncated in (never, some, ~never)]
    rollouts = jax.tree.map(lambda *runs: jnp.stack(runs), *each)

    def of_all(params: Any, rollout: tuple[Rollout, jax.Array]) -> jax.Array:
        return learner.networks.critic(params, rollout[1]).outputs[..., 0]

    def shipped(params: Any, rollout: tuple[Rollout, jax.Array]) -> jax.Array:
        value = learner.networks.critic(params, rollout[0].obs).outputs[..., 0]
        return next_values(learner, state.replace(params=params), rollout[0], value)

    found, expected = (jax.jit(jax.vmap(f, (None, 0)))(state.params, rollouts) for f in (shipped, of_all))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    weights = random(7, 3, T, N)
    gradients = [
        jax.jit(jax.grad(lambda params, f=f: (weights * jax.vmap(f, (None, 0))(params, rollouts)).sum()))(state.params)
        for f in (shipped, of_all)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


def test_large_rollouts_are_passed_through_the_networks_a_minibatch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are those of one pass, in the same order."""
    learner = make_learner()
    state, obs = make_state(learner), random(1, T * N, OBS)
    at_once = learner.both_of_rollout(state, obs)
    monkeypatch.setattr("purejaxppo.ppo.state._LARGE", 0)
    assert learner.config.num_minibatches > 1
    in_blocks = learner.both_of_rollout(state, obs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), in_blocks, at_once)


# --- One optimiser and one clip per network


@pytest.mark.parametrize("share_trunk", [False, True])
def test_a_huge_value_loss_moves_the_policy_only_where_they_share_a_trunk(share_trunk: bool) -> None:
    """Separate networks are clipped apart: in one clip over both, the critic's gradient would drown the policy's."""
    learner = make_learner(share_trunk=share_trunk)
    state = make_state(learner)
    batch = make_batch(learner, state)
    policies = []
    for target in (batch.value_target, 1e6 + batch.value_target):
        after, metrics = minibatch_update(
            learner, HyperParams(), jnp.float32(1e-2), state, batch.replace(value_target=target), KEY
        )
        policies.append(after.params["shared" if share_trunk else "policy"]["policy_head"])
        for network in ("policy", "critic"):
            assert metrics[f"{network}_gradient_norm_clipped"] <= 0.5 + 1e-6
    is_same = all(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), *policies)))
    assert is_same is not share_trunk


@pytest.mark.parametrize("share_trunk", [False, True])
def test_reported_norms_are_those_of_the_gradient_and_of_the_new_weights(share_trunk: bool) -> None:
    learner = make_learner(share_trunk=share_trunk)
    state = make_state(learner)
    batch = make_batch(learner, state)
    after, metrics = minibatch_update(learner, HyperParams(), jnp.float32(1e-2), state, batch, KEY)
    grads, _ = jax.jit(jax.grad(minibatch_loss, has_aux=True), static_argnums=1)(
        state.params, learner, HyperParams(), state, batch, KEY
    )
    for network in ("policy", "critic"):
        name = "shared" if share_trunk else network
        moved = jax.tree.map(lambda x, y: x - y, after.params[name], state.params[name])
        for metric, tree in {"gradient": grads[name], "step": moved, "weight": after.params[name]}.items():
            norm = np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(tree)))
            np.testing.assert_allclose(metrics[f"{network}_{metric}_norm"], norm, rtol=1e-4, err_msg=metric)
