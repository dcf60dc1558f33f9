"""Stacked frames against a loop in NumPy, on an environment whose observations tell everything, with both ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_envs import play
from tiny_envs import Walk, with_walk

import purejaxppo as pjp
from purejaxppo import envs
from purejaxppo.envs.wrappers import FrameStack, StickyActions, TimeAware, innermost
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.state import make_learner
from purejaxppo.render import newest

NUM_FRAMES, NUM_STEPS, NUM_ENVS = 3, 40, 4


def test_frames_are_those_of_the_episode_oldest_first() -> None:
    """The bare environment gives the single frames: with the same keys and actions it makes the same steps."""
    env = with_walk(envs.make, "tiny/Walk", frame_stack=NUM_FRAMES)
    bare = Walk(None)
    reference = (lambda key: bare.reset(key)[1]), bare_step(bare)
    record = jax.jit(lambda key: play(env, key, NUM_STEPS, NUM_ENVS, reference))(jax.random.key(3))
    one, step = jax.tree.map(np.asarray, (record["expected"], record["step"]))
    first = np.asarray(record["first_obs"])
    size = bare.observation_shape[0]
    assert np.array_equal(first[:, :size], first[:, -size:])
    for lane in range(NUM_ENVS):
        frames = [first[lane, :size]] * NUM_FRAMES
        for t in range(NUM_STEPS):
            frames = [*frames[1:], one.final_obs[t, lane]]
            np.testing.assert_array_equal(step.final_obs[t, lane], np.concatenate(frames))
            if one.terminated[t, lane] or one.truncated[t, lane]:
                frames = [one.obs[t, lane]] * NUM_FRAMES
            np.testing.assert_array_equal(step.obs[t, lane], np.concatenate(frames))
    assert step.terminated.any()
    assert step.truncated.any()
    np.testing.assert_array_equal(step.reward, one.reward)


def bare_step(env: Walk):
    def step(key, state, action):
        result = env.step(key, state, action)
        return result.state, result

    return step


def test_images_are_stacked_by_channel_in_their_own_dtype() -> None:
    env = envs.make("gymnax/Breakout-MinAtar", frame_stack=4)
    obs, _ = jax.eval_shape(env.reset, jax.random.key(0))
    assert (obs.shape, obs.dtype) == (env.observation_shape, env.observation_dtype) == ((10, 10, 16), jnp.bool_)


def test_scalar_observations_have_no_axis_to_stack_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "observation_shape", ())
    sentence = r"^frame_stack is 2, but must be 1 for tiny/Walk: its observation is a scalar\.$"
    with pytest.raises(ConfigError, match=sentence):
        FrameStack(Walk(None), 2)


def test_one_frame_is_the_environment_as_it_is() -> None:
    assert type(with_walk(envs.make, "tiny/Walk", frame_stack=1)) is Walk
    with pytest.raises(ConfigError, match=r"^frame_stack is 0, but must be at least 1\.$"):
        pjp.TrainConfig(frame_stack=0).validate()


def test_sticky_actions_are_inside_and_the_time_is_outside() -> None:
    config = pjp.TrainConfig(env="tiny/Walk", sticky_actions=0.25, frame_stack=NUM_FRAMES, time_aware=True)
    config = dataclasses.replace(config, num_envs=2, num_steps=4, minibatch_size=8)
    env = with_walk(make_learner, config).env
    assert isinstance(env, TimeAware)
    assert isinstance(env._env, FrameStack)
    assert isinstance(env._env._env, StickyActions)
    assert env.observation_shape == (NUM_FRAMES * 3 + 1,)
    first = jax.eval_shape(env.reset, jax.random.key(0))
    step = jax.eval_shape(env.step, jax.random.key(0), first[1], jnp.int32(0))
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), x) for x in (first, (step.obs, step.state))]
    assert kinds[0] == kinds[1]
    assert type(innermost(first[1])).__name__ == "WalkState"
    np.testing.assert_array_equal(newest(config, np.arange(10)), [6, 7, 8])
