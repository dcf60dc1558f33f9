"""One contract for every environment, and each adapter against its own library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import envs
from purejaxppo.envs.base import Box, Discrete, auto_reset, strongly_typed
from purejaxppo.envs.names import BRAX_BACKENDS, BRAX_NAMES, OURS
from purejaxppo.envs.suites import SUITES

NUM_ENVS, NUM_STEPS, LIMIT = 4, 40, 7
# Random play topples this one after 9 to 60 steps: a limit in between shows both ends.
OTHER_LIMITS = {"brax/inverted_pendulum": 16}

# Physics that takes more than ten seconds to compile; the contract is the adapter's, so quick ones stand for it.
SLOW = {f"brax/{name}" for name in BRAX_NAMES} - {"brax/fast", "brax/inverted_pendulum"}
# Environments whose first state is always the same one, by their own definition.
SAME_FIRST_STATE = {
    "brax/fast",
    "gymnax/Asterix-MinAtar",
    "gymnax/DeepSea-bsuite",
    "gymnax/DiscountingChain-bsuite",
    "gymnax/FourRooms-misc",
    "gymnax/FrozenLake-misc",
    "gymnax/Pong-misc",
    "gymnax/Seaquest-MinAtar",
    "gymnax/SpaceInvaders-MinAtar",
    "probe/Action",
    "probe/ActionContinuous",
    "probe/Discounting",
    "probe/DiscountingContinuous",
    "probe/ValueOnly",
    "probe/ValueOnlyContinuous",
}
every_environment = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in envs.list_environments()
        if name.split("/")[0] in OURS
    ],
)


def random_action(key, space):
    """An action of one environment; Box actions also fall outside the bounds, which the adapter must clip."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n)
    low, high = jnp.array(space.low), jnp.array(space.high)
    return jax.random.uniform(key, space.shape, minval=1.2 * low, maxval=1.2 * high)


def play(env, key, num_steps=NUM_STEPS, num_envs=NUM_ENVS, reference=None):
    """Random play: first observations [N, ...], steps [T, N, ...], and what a reference makes of the same actions.

    reference: reset(key) -> state and step(key, state, action) -> (state, anything). It runs in the same program, so
    that what it has in common with the environment is compiled once.
    """
    reference_reset, reference_step = reference or no_reference(env)

    def one_step(carry, key):
        state, reference_state = carry
        key_action, key_step = jax.random.split(key)
        action = jax.vmap(lambda k: random_action(k, env.action_space))(jax.random.split(key_action, num_envs))
        keys = jax.random.split(key_step, num_envs)
        step = jax.vmap(env.step)(keys, state, action)
        reference_state, expected = jax.vmap(reference_step)(keys, reference_state, action)
        return (step.state, reference_state), {"step": step, "before": state, "action": action, "expected": expected}

    key_reset, key_play = jax.random.split(key)
    keys = jax.random.split(key_reset, num_envs)
    first_obs, first_state = jax.vmap(env.reset)(keys)
    carry = first_state, jax.vmap(reference_reset)(keys)
    _, record = jax.lax.scan(one_step, carry, jax.random.split(key_play, num_steps))
    return {"first_obs": first_obs, **record}


def rows(tree, num_rows):
    """Every leaf as float64 [num_rows, -1], side by side."""
    leaves = [np.asarray(leaf, np.float64).reshape(num_rows, -1) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves, axis=1)


@every_environment
def test_contract(name):
    """Everything a caller relies on; one test, so that each environment is compiled once."""
    env = envs.make(name, max_episode_steps=OTHER_LIMITS.get(name, LIMIT))

    reference = REFERENCES[name.split("/")[0]](env)

    @jax.jit
    def program(key):
        return play(env, key, reference=reference), jax.vmap(env.reset)(jax.random.split(jax.random.key(9), 64))

    record, fresh = program(jax.random.key(0))
    check_description(env, name)
    check_reset_and_step_agree_on_every_leaf(env)
    check_shapes_and_dtypes(env, record)
    check_episodes_end_once_and_at_the_limit(env, record["step"])
    check_final_obs_is_obs_until_the_end(record["step"])
    check_first_states_are_fresh(name, record["step"], fresh)
    check_the_key_decides(name, record, program)
    if name.startswith("gymnax/"):
        check_equals_gymnax(env, record["step"], record["expected"])
    if name.startswith("brax/"):
        check_equals_brax(env, record["step"], record["expected"])


def check_description(env, name):
    assert env.name == name
    assert type(env.max_episode_steps) is int
    assert (len(env.observation_shape), env.observation_dtype) in ((1, np.dtype("float32")), (3, np.dtype(bool))) or (
        name.split("/")[0] in SUITES and len(env.observation_shape) == 3
    )
    space = env.action_space
    assert hash(space) == hash(space)
    if isinstance(space, Box):
        assert len(space.low) == len(space.high) == int(np.prod(space.shape))
        assert all(type(bound) is float for bound in space.low + space.high)
        assert all(low < high for low, high in zip(space.low, space.high, strict=True))
    else:
        assert type(space.n) is int
        assert space.n >= 2


def check_reset_and_step_agree_on_every_leaf(env):
    """Same tree, shapes and dtypes, nothing weakly typed: what `scan` and `where` need."""
    action = jax.eval_shape(lambda key: random_action(key, env.action_space), jax.random.key(0))
    first = jax.eval_shape(env.reset, jax.random.key(0))
    step = jax.eval_shape(env.step, jax.random.key(0), first[1], action)

    def typed(tree):
        return jax.tree.structure(tree), [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]

    assert typed(first) == typed((step.obs, step.state))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((first, step)))


def check_shapes_and_dtypes(env, record):
    step, batch = record["step"], (NUM_STEPS, NUM_ENVS)
    assert record["first_obs"].shape == (NUM_ENVS, *env.observation_shape)
    assert step.obs.shape == step.final_obs.shape == (*batch, *env.observation_shape)
    assert record["first_obs"].dtype == step.obs.dtype == step.final_obs.dtype == env.observation_dtype
    assert step.reward.shape == step.terminated.shape == step.truncated.shape == batch
    assert step.reward.dtype == jnp.float32
    assert step.terminated.dtype == step.truncated.dtype == jnp.bool_
    assert np.isfinite(step.reward).all()
    assert np.isfinite(np.asarray(step.final_obs, np.float32)).all()


def check_episodes_end_once_and_at_the_limit(env, step):
    terminated, truncated = np.asarray(step.terminated), np.asarray(step.truncated)
    assert (terminated | truncated).any()
    elapsed = np.zeros(NUM_ENVS, int)
    for t in range(NUM_STEPS):
        elapsed += 1
        np.testing.assert_array_equal(truncated[t], (elapsed == env.max_episode_steps) & ~terminated[t])
        elapsed[terminated[t] | truncated[t]] = 0


def check_final_obs_is_obs_until_the_end(step):
    goes_on = ~np.asarray(step.terminated | step.truncated)
    np.testing.assert_array_equal(np.asarray(step.obs)[goes_on], np.asarray(step.final_obs)[goes_on])


def check_first_states_are_fresh(name, step, fresh):
    """After an end stands a first state; not the same one each time, unless the environment has but one."""
    done = np.asarray(step.terminated | step.truncated)
    starts = rows((np.asarray(step.obs)[done], jax.tree.map(lambda x: np.asarray(x)[done], step.state)), done.sum())
    fresh = rows(fresh, 64)
    has_one_start = name in SAME_FIRST_STATE
    assert (len(np.unique(fresh, axis=0)) == 1) == has_one_start
    assert (len(np.unique(starts, axis=0)) == 1) == has_one_start
    low, high = fresh.min(axis=0), fresh.max(axis=0)
    slack = 0.5 * (high - low) + 1e-6  # 64 draws do not reach the ends of the range
    assert ((starts >= low - slack) & (starts <= high + slack)).mean() > 0.95


def check_the_key_decides(name, record, program):
    again, other = program(jax.random.key(0))[0], program(jax.random.key(1))[0]
    for one, two in zip(jax.tree.leaves(record["step"]), jax.tree.leaves(again["step"]), strict=True):
        np.testing.assert_array_equal(one, two)
    total = NUM_STEPS * NUM_ENVS
    is_constant = name.startswith(("probe/ValueOnly", "probe/Discounting"))
    assert (rows(record["step"], total) != rows(other["step"], total)).any() != is_constant


def gymnax_reference(env):
    """gymnax's own `step`, auto-reset and all."""
    import gymnax

    raw_env, params = gymnax.make(env.name.removeprefix("gymnax/"))
    params = params.replace(max_steps_in_episode=env.max_episode_steps)

    def reset(key):
        with jax.numpy_rank_promotion("allow"):
            return strongly_typed(raw_env.reset(key, params)[1])

    def step(key, state, action):
        with jax.numpy_rank_promotion("allow"):
            out = raw_env.step(key, state, clipped(action, env.action_space), params)
        return strongly_typed(out[1]), out

    return reset, step


def check_equals_gymnax(env, step, expected):
    """Every transition is the one gymnax's own `step` makes with the same keys and limit."""
    obs, state, reward, terminated, truncated, info = expected

    def encoded(raw):
        raw = np.asarray(raw)
        if env.observation_dtype == np.dtype(bool):
            assert np.isin(raw, (0, 1)).all()  # nothing is lost by keeping it as bool
        if env.name == "gymnax/FrozenLake-misc":
            return np.eye(16)[raw]
        if env.name == "gymnax/DiscountingChain-bsuite":  # gymnax shows time / limit; we keep its own limit there, 100
            raw = raw * np.array([1.0, LIMIT / 100])
        return raw.reshape(step.obs.shape)

    assert_close(step.final_obs, encoded(info["final_observation"]))
    assert_close(step.obs, encoded(obs))
    assert_close(step.reward, reward)
    assert_close(step.terminated, terminated)
    assert_close(step.truncated, truncated & ~terminated)
    if env.name != "gymnax/DeepSea-bsuite":  # gymnax carries two counters of its own over DeepSea's episodes
        jax.tree.map(assert_close, step.state, state)


def brax_reference(env):
    """The bare brax environment with its whole state; the time limit and fresh resets written out."""
    from purejaxppo.envs.brax import brax, without_known_warnings

    with without_known_warnings():
        raw_env = brax.envs.get_environment(env.name.removeprefix("brax/"), backend="spring")

    def reset(key):
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):
            return strongly_typed(raw_env.reset(key)), jnp.int32(0)

    def step(key, state, action):
        before, elapsed = state
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):
            after = strongly_typed(raw_env.step(before, clipped(action, env.action_space)))
        fresh = reset(key)
        is_over = (after.done > 0) | (elapsed + 1 == env.max_episode_steps)
        new = jax.tree.map(lambda first, stepped: jnp.where(is_over, first, stepped), fresh, (after, elapsed + 1))
        return new, (after.obs, new[0].obs, after.reward, after.done > 0)

    return reset, step


def check_equals_brax(env, step, expected):
    final_obs, obs, reward, terminated = expected
    assert_close(step.final_obs, final_obs)
    assert_close(step.obs, obs)
    assert_close(step.reward, reward)
    assert_close(step.terminated, terminated)
    if env.name in OTHER_LIMITS:
        assert step.terminated.any()
        assert step.truncated.any()


def no_reference(env):
    del env
    return (lambda key: ()), (lambda key, state, action: ((), ()))


REFERENCES = {"gymnax": gymnax_reference, "brax": brax_reference, "probe": no_reference}


def clipped(action, space):
    return action if isinstance(space, Discrete) else jnp.clip(action, jnp.array(space.low), jnp.array(space.high))


def assert_close(ours, theirs):
    """Equal, but for rounding."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_limits_are_the_original_environments():
    original = {
        "gymnax/CartPole-v1": 500,
        "gymnax/Acrobot-v1": 500,
        "gymnax/MountainCar-v0": 200,
        "gymnax/MountainCarContinuous-v0": 999,
        "gymnax/Pendulum-v1": 200,
        "gymnax/Freeway-MinAtar": 2500,
        "gymnax/BernoulliBandit-misc": 100,
        "brax/fast": 1000,
        "probe/ValueOnly": None,
    }
    assert {name: envs.make(name).max_episode_steps for name in original} == original
    assert type(envs.make("gymnax/BernoulliBandit-misc").max_episode_steps) is int  # gymnax keeps it as a float


@pytest.mark.parametrize(
    ("name", "limit"), [("gymnax/Pendulum-v1", 200), ("gymnax/BernoulliBandit-misc", 100), ("brax/fast", 1000)]
)
def test_truncates_at_the_own_limit(name, limit):
    env = envs.make(name)
    step = jax.jit(lambda key: play(env, key, num_steps=2 * limit + 1, num_envs=2))(jax.random.key(0))["step"]
    expected = np.zeros((2 * limit + 1, 2), bool)
    expected[[limit - 1, 2 * limit - 1]] = True
    np.testing.assert_array_equal(step.truncated, expected)
    assert not step.terminated.any()


def test_a_lower_limit_leaves_the_environment_as_it_is():
    """DiscountingChain shows time / max_steps_in_episode: a lower limit must not change what it shows."""
    full, cut = (
        envs.make("gymnax/DiscountingChain-bsuite"),
        envs.make("gymnax/DiscountingChain-bsuite", max_episode_steps=5),
    )
    key = jax.random.key(0)
    one, two = (jax.jit(lambda env=env: play(env, key, num_steps=5))()["step"] for env in (full, cut))
    np.testing.assert_array_equal(one.final_obs, two.final_obs)
    assert two.truncated[-1].all()
    assert not one.truncated.any()


@pytest.mark.parametrize("name", ["gymnax/FourRooms-misc", "gymnax/CartPole-v1", "brax/inverted_pendulum"])
def test_can_be_made_while_tracing(name):
    """What an environment is made of must be constants, also when the code that makes it is being traced."""
    made = []

    def first_obs(key):
        made.append(envs.make(name))
        return made[0].reset(key)[0]

    jax.eval_shape(first_obs, jax.random.key(0))
    jax.eval_shape(made[0].reset, jax.random.key(0))


def test_termination_wins_over_the_limit():
    step = auto_reset(
        lambda key: (jnp.zeros(1), jnp.int32(0)),
        jax.random.key(0),
        obs=jnp.ones(1),
        state=jnp.int32(3),
        reward=jnp.float32(1.0),
        terminated=jnp.bool_(True),
        truncated=jnp.bool_(True),
    )
    assert (bool(step.terminated), bool(step.truncated)) == (True, False)
    assert (float(step.obs[0]), float(step.final_obs[0]), int(step.state)) == (0.0, 1.0, 0)


@pytest.mark.parametrize("name", ["gymnax/CartPole-v1", "brax/fast", "probe/ActionByObservation"])
def test_no_key_is_used_twice(name):
    env = envs.make(name)
    action = random_action(jax.random.key(2), env.action_space)
    with jax.debug_key_reuse(True):
        _, state = jax.jit(env.reset)(jax.random.key(0))
        jax.jit(env.step)(jax.random.key(1), state, action)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BRAX_BACKENDS)
def test_brax_backends(backend):
    env = envs.make("brax/inverted_pendulum", brax_backend=backend, max_episode_steps=LIMIT)
    step = jax.jit(lambda key: play(env, key, num_steps=LIMIT))(jax.random.key(0))["step"]
    assert np.isfinite(step.final_obs).all()
    assert (step.terminated | step.truncated).any(axis=0).all()


CLASSIC_CONTROL = {  # name -> (the original's internal state from our state, action for the original)
    "CartPole-v1": (lambda s: (s.x, s.x_dot, s.theta, s.theta_dot), int),
    "MountainCar-v0": (lambda s: (s.position, s.velocity), int),
    "Acrobot-v1": (lambda s: (s.joint_angle1, s.joint_angle2, s.velocity_1, s.velocity_2), int),
    "Pendulum-v1": (lambda s: (s.theta, s.theta_dot), np.asarray),
    "MountainCarContinuous-v0": (lambda s: (s.position, s.velocity), np.asarray),
}


@pytest.mark.parametrize("name", CLASSIC_CONTROL)
def test_dynamics_equal_the_original_gymnasium(name):
    """Each transition, from the same state with the same action; the original computes in float64."""
    gymnasium = pytest.importorskip("gymnasium")
    internal_state, to_action = CLASSIC_CONTROL[name]
    env, original = envs.make(f"gymnax/{name}"), gymnasium.make(name).unwrapped
    original.reset(seed=0)
    record = jax.jit(lambda key: play(env, key, num_steps=60, num_envs=1))(jax.random.key(3))
    step = record["step"]
    low, high = (env.action_space.low, env.action_space.high) if isinstance(env.action_space, Box) else (None, None)
    for t in range(60):
        state = jax.tree.map(lambda x, t=t: float(x[t, 0]), record["before"])
        original.state = np.array(internal_state(state))
        if hasattr(original, "steps_beyond_terminated"):
            original.steps_beyond_terminated = None
        action = np.asarray(record["action"][t, 0])
        obs, reward, terminated, _, _ = original.step(to_action(action if low is None else np.clip(action, low, high)))
        np.testing.assert_allclose(step.final_obs[t, 0], obs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(step.reward[t, 0], reward, rtol=1e-4, atol=1e-4)
        assert bool(step.terminated[t, 0]) == bool(terminated)
