"""The compiled program as a whole: probe environments, vmap, compilations, keys, divergence, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.ppo.state import make_learner
from purejaxppo.training.train import make_trainer

SMALL = pjp.TrainConfig(
    env="gymnax/CartPole-v1", total_steps=1024, num_envs=4, num_steps=32, minibatch_size=64, num_epochs=2,
    hidden_sizes=(16, 16), num_log_points=4, num_plasticity_points=0,
)  # fmt: skip
PROBE = pjp.TrainConfig(
    env="probe/ValueOnly", total_steps=40_000, num_envs=8, num_steps=16, minibatch_size=64, num_epochs=4,
    hidden_sizes=(32,), activation="tanh", num_log_points=10, diagnostics=False,
)  # fmt: skip
PROBE_HPARAMS = pjp.HyperParams(learning_rate=3e-3, gamma=0.5, entropy_coef=0.0)
# Shared by the tests, so that each is compiled once for every number of runs.
train_one = jax.jit(pjp.make_train(SMALL))
train_many = jax.jit(jax.vmap(pjp.make_train(SMALL)))


def stack(*hparams):
    return jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *hparams)


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


def train_probe(name, **changes):
    """Learner and final state of a short run on a probe environment."""
    config = dataclasses.replace(PROBE, env=f"probe/{name}", **changes)
    result = jax.jit(pjp.make_train(config))(PROBE_HPARAMS, jax.random.key(0))
    return make_learner(config), result.state, result.metrics


@pytest.mark.parametrize("seed_count", [3])
def test_runs_of_one_program_equal_the_runs_alone(seed_count):
    many = [pjp.HyperParams(learning_rate=10**-k, pfo_coef=float(k)) for k in range(2, 2 + seed_count)]
    together = train_many(stack(*many), keys(*range(seed_count)))
    for index, hparams in enumerate(many):
        result = train_one(hparams, jax.random.key(index))
        # Over the first updates only: rounding differs with the width of the program and then grows.
        for name in ("return_mean", "policy_loss", "value_loss", "pfo_loss", "entropy", "policy_preactivation_norm"):
            actual, expected = together.metrics[name][index, 1:3], result.metrics[name][1:3]
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-5, err_msg=name)


def test_segments_make_the_run():
    trainer, hparams, key = make_trainer(SMALL), pjp.HyperParams(), jax.random.key(1)
    whole = train_one(hparams, key)
    segment, state, points = jax.jit(trainer.segment), jax.jit(trainer.init)(hparams, key), []
    for _ in range(SMALL.num_logs):
        state, metrics = segment(hparams, state)
        points.append(metrics)
    assert state.update == SMALL.num_updates
    assert_close(state.params, whole.state.params, rtol=1e-3, atol=1e-4)
    for name in ("return_mean", "kl", "policy_rank"):
        np.testing.assert_allclose([p[name] for p in points], whole.metrics[name][1:], rtol=1e-2, atol=1e-4)


def test_a_sweep_over_floats_and_seeds_compiles_once_and_then_never_again():
    count = 0
    train = pjp.make_train(dataclasses.replace(SMALL, total_steps=256, num_log_points=1, diagnostics=False))

    def counted(hparams, key):
        nonlocal count
        count += 1
        return train(hparams, key).metrics["return_mean"]

    program = jax.jit(jax.vmap(counted))
    for rate in (1e-4, 1e-3):
        for pfo in (0.0, 1.0):
            program(stack(*[pjp.HyperParams(learning_rate=rate, pfo_coef=pfo)] * 2), keys(0, 1)).block_until_ready()
    assert count == 1
    assert program._cache_size() == 1


def test_same_seed_same_bits_and_other_seed_other_run():
    first, again, other = (train_one(pjp.HyperParams(), jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first.metrics, again.metrics)
    assert not np.array_equal(first.metrics["policy_loss"], other.metrics["policy_loss"])


def test_same_seed_gives_the_same_first_weights_in_every_configuration():
    variants = [{}, {"num_epochs": 7, "pfo_layers": "all"}, {"num_steps": 64, "lr_schedule": "linear"}]
    trainers = [make_trainer(dataclasses.replace(SMALL, **v)) for v in variants]
    states = [jax.jit(trainer.init)(pjp.HyperParams(), jax.random.key(5)) for trainer in trainers]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, states[0].params, state.params)
        np.testing.assert_array_equal(states[0].obs, state.obs)


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        trainer = make_trainer(dataclasses.replace(SMALL, total_steps=128, num_log_points=1, diagnostics=False))
        state = trainer.init(pjp.HyperParams(), jax.random.key(0))
        jax.block_until_ready(trainer.segment(pjp.HyperParams(), state))


def test_a_diverging_run_is_frozen_and_marked_and_the_others_do_not_notice():
    healthy, broken = pjp.HyperParams(), pjp.HyperParams(learning_rate=1e30)
    mixed = train_many(stack(healthy, broken, healthy), keys(0, 1, 2))
    clean = train_many(stack(healthy, healthy, healthy), keys(0, 1, 2))
    assert mixed.state.status.tolist() == [0, 1, 0]
    assert all(np.isfinite(leaf[1]).all() for leaf in jax.tree.leaves(mixed.state.params))
    assert np.isnan(mixed.metrics.scalars[1, 1:]).all()
    assert np.isfinite(mixed.metrics["policy_rank"][1, 0])  # before training all was well
    for index in (0, 2):
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a[i], b[i]), mixed.metrics, clean.metrics)


def test_training_can_be_differentiated_with_respect_to_a_hyperparameter():
    train = pjp.make_train(dataclasses.replace(SMALL, total_steps=128, num_log_points=1))

    def final_loss(rate):
        return train(pjp.HyperParams(learning_rate=rate), jax.random.key(0)).metrics["value_loss"][1:].sum()

    step = 1e-4
    rates = jnp.array([1e-3 - step, 1e-3, 1e-3 + step])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(final_loss)))(rates)
    assert np.isfinite(gradients).all()
    np.testing.assert_allclose(gradients[1], (values[2] - values[0]) / (2 * step), rtol=0.1)


def test_diagnostics_do_not_change_learning():
    on = train_one(pjp.HyperParams(), jax.random.key(0))
    off = jax.jit(pjp.make_train(dataclasses.replace(SMALL, diagnostics=False)))(pjp.HyperParams(), jax.random.key(0))
    assert_close(on.metrics["return_mean"][:3], off.metrics["return_mean"][:3])
    assert_close(on.metrics["policy_loss"][1:3], off.metrics["policy_loss"][1:3], rtol=1e-3, atol=1e-5)


def test_before_and_after_agree_when_nothing_is_learned():
    result = train_one(pjp.HyperParams(learning_rate=0.0), jax.random.key(0))
    metrics = result.metrics
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["policy_rank_change"], 0.0)
    np.testing.assert_allclose(metrics["ratio_mean"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(metrics["pfo_loss"][1:], 0.0, atol=1e-10)
    np.testing.assert_array_equal(metrics["policy_rank"], metrics["policy_rank_before"])


def test_linear_schedule_ends_near_zero():
    config = dataclasses.replace(SMALL, lr_schedule="linear", diagnostics=False)
    rates = jax.jit(pjp.make_train(config))(pjp.HyperParams(learning_rate=1.0e-3), jax.random.key(0)).metrics
    per_update = 1e-3 * (1 - np.arange(config.num_updates) / config.num_updates)
    np.testing.assert_allclose(
        rates["learning_rate"][1:], per_update[config.updates_per_log - 1 :: config.updates_per_log]
    )


def test_pfo_holds_preactivations_back():
    settings = [pjp.HyperParams(learning_rate=1e-2, pfo_coef=c, critic_pfo_coef=c) for c in (0.0, 1.0, 100.0)]
    drift = train_many(stack(*settings), keys(0, 0, 0)).metrics
    assert (np.diff(drift["policy_preactivation_drift"][:, 1:].mean(axis=1)) < 0).all()
    critic = drift["critic_preactivation_drift"][:, 1:].mean(axis=1)  # at 1 the value loss outweighs it
    assert critic[2] < 0.5 * critic[0]


@pytest.mark.parametrize("changes", [
    {"share_trunk": True, "initialization": "orthogonal"},
    {"pfo_layers": "all", "pfo_distance": "cosine", "time_limit": "terminate", "activation": "gelu"},
    {"env": "brax/inverted_pendulum", "normalize_observations": "fixed", "time_aware": True},
    {
        "env": "gymnax/Pendulum-v1", "normalize_observations": "running", "sticky_actions": 0.0,
        "action_distribution": "normal", "activation": "tanh",
    },
    {"env": "gymnax/Acrobot-v1", "sticky_actions": 0.25, "share_trunk": True, "trunk_optimizers": "two"},
    {"env": "gymnax/Breakout-MinAtar", "torso": "minatar_conv", "sign_reward": True, "pfo_layers": "all"},
    {"activation": "leaky_relu", "minibatch_size": 50},
], ids=lambda changes: "-".join(str(value) for value in changes.values()))  # fmt: skip
def test_every_variant_trains(changes):
    config = dataclasses.replace(SMALL, total_steps=256, num_log_points=2, **changes)
    hparams = pjp.HyperParams(pfo_coef=1.0, critic_pfo_coef=1.0)
    result = jax.jit(jax.vmap(pjp.make_train(config), (None, 0)))(hparams, keys(0, 1))
    assert result.state.status.tolist() == [0, 0]
    assert np.isfinite(result.metrics["policy_effective_rank"]).all()
    trainer = make_trainer(config)  # of which only the weights are asked for, not the environments
    start = jax.jit(jax.vmap(lambda hparams, key: trainer.init(hparams, key).params, (None, 0)))(hparams, keys(0, 1))
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), result.state.params, start)
    assert all(jax.tree.leaves(moved))


def test_the_last_update_is_diagnosed_on_its_own_rollout():
    """Two updates between log points: the diagnosis compares the networks around the second one only."""
    config = dataclasses.replace(SMALL, total_steps=256, num_log_points=1)
    assert config.updates_per_log == 2
    hparams = pjp.HyperParams(learning_rate=1e-2)
    double, single = (make_trainer(dataclasses.replace(config, num_log_points=n)) for n in (1, 2))
    start = jax.jit(double.init)(hparams, jax.random.key(0))
    _, both = jax.jit(double.segment)(hparams, start)
    segment = jax.jit(single.segment)
    _, second = segment(hparams, segment(hparams, start)[0])
    for name in ("kl", "policy_rank", "policy_feature_drift", "value_mean_before", "minibatch_kl_first_epoch_first"):
        np.testing.assert_allclose(both[name], second[name], rtol=1e-3, atol=1e-5, err_msg=name)


def latent_mode(learner, state, obs):
    """Most probable action at an observation, in the environment's units."""
    outputs = learner.networks.policy(state.params, jnp.asarray([obs])).outputs
    return np.asarray(learner.distribution.to_environment(learner.distribution.mode(outputs))).item()


@pytest.mark.parametrize("form", ["", "Continuous"], ids=["discrete", "continuous"])
@pytest.mark.parametrize(
    "probe", ["ValueOnly", "ValueByObservation", "Discounting", "Action", "ActionByObservation"]
)  # fmt: skip
def test_probe_environments_are_solved(probe, form):
    """Each probe isolates one part of the algorithm; values and actions against its known answer."""
    learner, state, _ = train_probe(probe + form)
    observations = {"ValueOnly": [0.0], "Discounting": [0.0, 1.0], "Action": [0.0]}.get(probe, [-1.0, 1.0])
    for obs in observations:
        if not probe.startswith("Action"):  # there the policy's own spread keeps the value below the optimum
            value = learner.networks.critic(state.params, jnp.asarray([obs])).outputs.item()
            assert abs(value - learner.env.optimal_value(obs, PROBE_HPARAMS.gamma)) < 0.1, (obs, value)
        else:
            action = latent_mode(learner, state, obs)
            assert abs(action - learner.env.optimal_action(obs)) < 0.2, (obs, action)
