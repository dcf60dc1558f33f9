"""Elapsed time in the observation, episode statistics against a loop, observation statistics against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_envs import NUM_ENVS, play

from purejaxppo import envs
from purejaxppo.envs.wrappers import EpisodeStatistics, ObservationStatistics, TimeAware, sign_reward
from purejaxppo.results import registry


@pytest.mark.parametrize("name", ["gymnax/CartPole-v1", "probe/Discounting", "brax/fast"])
def test_time_aware_appends_the_elapsed_share(name):
    plain = envs.make(name, max_episode_steps=12)
    timed = envs.make(name, max_episode_steps=12, time_aware=True)
    assert isinstance(timed, TimeAware)
    assert timed.observation_shape == (plain.observation_shape[0] + 1,)
    assert (timed.name, timed.action_space, timed.max_episode_steps) == (plain.name, plain.action_space, 12)
    one, two = (jax.jit(lambda key, env=env: play(env, key, num_steps=40))(jax.random.key(5)) for env in (plain, timed))

    # The wrapped environment is untouched, but for the rounding of two programs
    for found, expected in (
        (two["first_obs"], one["first_obs"]),
        (two["step"].obs, one["step"].obs),
        (two["step"].final_obs, one["step"].final_obs),
    ):
        np.testing.assert_allclose(found[..., :-1], expected, rtol=1e-5, atol=1e-6)
    for field in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one["step"], field), getattr(two["step"], field))

    # ... and the last entry is the elapsed share, from -1 at a first observation to 1 at the limit's final one
    np.testing.assert_array_equal(two["first_obs"][:, -1], np.full(NUM_ENVS, -1.0))
    done = np.asarray(two["step"].terminated | two["step"].truncated)
    assert done.any()
    elapsed = np.zeros(NUM_ENVS, int)
    for t in range(40):
        elapsed += 1
        np.testing.assert_allclose(two["step"].final_obs[t, :, -1], 2 * elapsed / 12 - 1, rtol=1e-6, atol=1e-7)
        elapsed[done[t]] = 0
        np.testing.assert_allclose(two["step"].obs[t, :, -1], 2 * elapsed / 12 - 1, rtol=1e-6, atol=1e-7)


def test_time_aware_state_is_typed_for_a_scan():
    env = envs.make("gymnax/CartPole-v1", time_aware=True)
    first = jax.eval_shape(env.reset, jax.random.key(0))
    step = jax.eval_shape(env.step, jax.random.key(0), first[1], jnp.int32(0))
    assert jax.tree.map(lambda x: (x.dtype, x.weak_type), first) == jax.tree.map(
        lambda x: (x.dtype, x.weak_type), (step.obs, step.state)
    )


def loop_statistics(reward, learning, done, num_forgotten):
    """The metrics of the episodes that end at or after step `num_forgotten`, found one by one."""
    finished = []
    for env in range(reward.shape[1]):
        start = 0
        for t in range(len(reward)):
            if done[t, env]:
                if t >= num_forgotten:
                    span = slice(start, t + 1)
                    finished.append((reward[span, env].sum(), learning[span, env].sum(), t + 1 - start))
                start = t + 1
    if not finished:
        return dict.fromkeys(METRICS, np.nan) | {"episode_count": 0.0}
    returns, learning_returns, lengths = map(np.array, zip(*finished, strict=True))
    return {
        "return_mean": returns.mean(),
        "return_max": returns.max(),
        "learning_return_mean": learning_returns.mean(),
        "learning_return_max": learning_returns.max(),
        "episode_length_mean": lengths.mean(),
        "episode_length_max": lengths.max(),
        "episode_count": len(lengths),
    }


METRICS = (
    "return_mean",
    "return_max",
    "learning_return_mean",
    "learning_return_max",
    "episode_length_mean",
    "episode_length_max",
    "episode_count",
)
STEPS, ENVS = 12, 3


@jax.jit
def run_statistics(stats, reward, learning, done):
    return jax.lax.scan(lambda s, x: (s.update(*x), None), stats, (reward, learning, done))[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    probability=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    num_intervals=st.sampled_from([1, 2, 3, 4]),
    offset=st.sampled_from([-50.0, 0.0]),
)
def test_episode_statistics_equal_the_loop(seed, probability, num_intervals, offset):
    rng = np.random.default_rng(seed)
    reward = (rng.normal(size=(STEPS, ENVS)) + offset).astype(np.float32)  # all negative: a maximum must not start at 0
    learning = np.sign(reward)
    done = rng.random((STEPS, ENVS)) < probability
    stats, length = EpisodeStatistics.init(ENVS), STEPS // num_intervals
    for interval in range(num_intervals):
        stats = stats.reset_interval()
        span = slice(interval * length, (interval + 1) * length)
        stats = run_statistics(stats, reward[span], learning[span], done[span])
        so_far = slice(0, span.stop)
        expected = loop_statistics(reward[so_far], learning[so_far], done[so_far], span.start)
        metrics = stats.metrics()
        assert set(metrics) == set(METRICS)
        for name, value in expected.items():
            assert metrics[name].shape == ()
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_episode_metrics_are_in_the_registry():
    assert set(EpisodeStatistics.init(1).metrics()) <= set(registry.METRICS)


update_observations = jax.jit(ObservationStatistics.update)  # compiled once for each batch size


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    chunks=st.lists(st.sampled_from([1, 2, 5, 64]), min_size=1, max_size=8),
    shape=st.sampled_from([(3,), (2, 2)]),
    mean=st.sampled_from([0.0, -3.0, 1000.0]),
    scale=st.sampled_from([0.1, 1.0, 20.0]),
)
def test_observation_statistics_equal_numpy(seed, chunks, shape, mean, scale):
    """Any way of cutting the data gives numpy's mean and population variance of the whole."""
    data = np.random.default_rng(seed).normal(mean, scale, (sum(chunks), *shape)).astype(np.float32)
    stats = ObservationStatistics.init(shape)
    for batch in np.split(data, np.cumsum(chunks)[:-1]):
        stats = update_observations(stats, batch)
    whole = data.astype(np.float64)
    assert float(stats.count) == len(data)
    np.testing.assert_allclose(stats.mean, whole.mean(axis=0), rtol=1e-5, atol=1e-5 * scale)
    # float32 keeps about 7 digits of each sample: the variance cannot be better than (1e-7 mean)^2 plus rounding
    np.testing.assert_allclose(stats.var, whole.var(axis=0), rtol=2e-4, atol=1e-3 * scale**2 * (mean != 0) + 1e-7)
    sample, expected = jnp.asarray(data[0]), (whole[0] - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var) + 1e-8)
    running, fixed = (stats.normalize(sample, kind) for kind in ("running", "fixed"))
    np.testing.assert_allclose(running, np.clip(expected, -10, 10), rtol=1e-3, atol=1e-3)
    expected = (whole[0] - np.asarray(stats.mean)) / np.maximum(np.sqrt(np.asarray(stats.var)), 1e-6)
    np.testing.assert_allclose(fixed, expected, rtol=1e-3, atol=1e-3)


def test_normalize_clips_and_takes_any_leading_axes_and_dtype():
    stats = ObservationStatistics.init((2,))
    obs = jnp.array([[[-30.0, 5.0]], [[0.5, 30.0]]])
    np.testing.assert_allclose(stats.normalize(obs, "running"), [[[-10.0, 5.0]], [[0.5, 10.0]]], rtol=1e-6)
    np.testing.assert_allclose(stats.normalize(obs[0, 0], "running"), [-10.0, 5.0])
    bits = jnp.array([[True, False], [True, True], [False, False], [True, True]])
    stats = stats.update(bits)
    np.testing.assert_allclose(stats.mean, [0.75, 0.5])
    np.testing.assert_allclose(stats.var, [0.1875, 0.25])
    for kind in ("running", "fixed"):
        assert stats.normalize(bits, kind).dtype == jnp.float32


def test_a_constant_observation_normalises_to_zero():
    stats = ObservationStatistics.init((1,)).update(jnp.full((8, 1), 3.0))
    for kind in ("running", "fixed"):
        np.testing.assert_array_equal(stats.normalize(jnp.full((8, 1), 3.0), kind), np.zeros((8, 1)))


def test_fixed_statistics_do_not_clip_and_have_a_floor():
    """(obs - mean) / max(std, 1e-6): no clip, and no deviation below 1e-6, while `running` adds 1e-8."""
    stats = ObservationStatistics(
        mean=jnp.array([1.0, 0.0, 0.0]), var=jnp.array([4.0, 1e-16, 0.25e-12]), count=jnp.float32(9.0)
    )
    obs = jnp.array([[[1001.0, 1e-3, 2e-6]], [[-999.0, 0.0, -2e-6]]])
    expected = [[[500.0, 1e3, 2.0]], [[-500.0, 0.0, -2.0]]]
    np.testing.assert_allclose(stats.normalize(obs, "fixed"), expected, rtol=1e-6)


def test_long_counts_stay_finite():
    """2e9 samples: n m overflows int32 and loses float32's precision; the weighted form does neither."""
    stats = ObservationStatistics(mean=jnp.array([1.0]), var=jnp.array([4.0]), count=jnp.float32(2.0**31))
    after = stats.update(jnp.full((1024, 1), 1.0))
    assert float(after.count) == 2.0**31 + 1024
    np.testing.assert_allclose(after.mean, [1.0])
    np.testing.assert_allclose(after.var, [4.0], rtol=1e-5)


def test_sign_reward():
    np.testing.assert_array_equal(sign_reward(jnp.array([-3.5, 0.0, 200.0])), [-1.0, 0.0, 1.0])
