"""Sticky actions, on an environment whose observations tell what was carried out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_envs import play
from tiny_envs import Walk, with_walk

import purejaxppo as pjp
from purejaxppo import envs
from purejaxppo.envs.wrappers import StickyActions
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.state import make_learner

NUM_STEPS, NUM_ENVS = 300, 8


def played(sticky_actions: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions asked for, actions carried out, and ends [T, N] of random play."""
    env = with_walk(envs.make, "tiny/Walk", sticky_actions=sticky_actions)
    record = jax.jit(lambda key: play(env, key, num_steps=NUM_STEPS, num_envs=NUM_ENVS))(jax.random.key(3))
    step = record["step"]
    carried_out = np.asarray(step.final_obs[..., 1]).astype(int)
    return np.asarray(record["action"]), carried_out, np.asarray(step.terminated | step.truncated)


def test_a_quarter_of_the_steps_repeats_the_previous_action_and_none_across_an_end() -> None:
    """At the start of an episode the previous action is 0."""
    asked, carried_out, is_over = played(0.25)
    previous = np.zeros((NUM_STEPS, NUM_ENVS), int)
    previous[1:] = np.where(is_over[:-1], 0, carried_out[:-1])
    assert ((carried_out == asked) | (carried_out == previous)).all()
    is_first = np.ones((NUM_STEPS, NUM_ENVS), bool)
    is_first[1:] = is_over[:-1]
    for which, tolerance in ((~is_first, 0.05), (is_first, 0.1)):  # four standard deviations of 1200 and of 400 steps
        told = which & (asked != previous)
        share = (carried_out == previous)[told].mean()
        assert abs(share - 0.25) < tolerance, (told.sum(), share)
    leaked = is_first[1:] & (carried_out[:-1] != 0) & (carried_out[1:] == carried_out[:-1])
    assert (asked[1:] == carried_out[1:])[leaked].all()


def test_without_stickiness_nothing_changes_to_the_bit() -> None:
    env = with_walk(envs.make, "tiny/Walk", sticky_actions=0.0)
    assert type(env) is Walk
    asked, carried_out, _ = played(0.0)
    np.testing.assert_array_equal(asked, carried_out)


def test_the_configuration_makes_environments_sticky_inside_of_what_appends_the_time() -> None:
    """Descriptions are those of the environment; reset and step agree on every leaf, as a scan needs it."""
    config = pjp.TrainConfig(env="tiny/Walk", sticky_actions=0.25, num_envs=2, num_steps=4, minibatch_size=8)
    env = with_walk(make_learner, config).env
    assert isinstance(env, StickyActions)
    for name in ("name", "observation_shape", "observation_dtype", "action_space", "max_episode_steps"):
        assert getattr(env, name) == getattr(Walk(None), name)
    timed = with_walk(make_learner, dataclasses.replace(config, time_aware=True)).env
    assert timed.observation_shape == (4,)
    for one in (env, timed):
        first = jax.eval_shape(one.reset, jax.random.key(0))
        step = jax.eval_shape(one.step, jax.random.key(0), first[1], jnp.int32(0))
        kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), x) for x in (first, (step.obs, step.state))]
        assert kinds[0] == kinds[1]


def test_continuous_actions_are_refused() -> None:
    sentence = r"^sticky_actions is 0\.25, but must be 0 for probe/ActionContinuous: its actions are continuous\.$"
    with pytest.raises(ConfigError, match=sentence):
        pjp.make_train(pjp.TrainConfig(env="probe/ActionContinuous", sticky_actions=0.25))


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_is_at_least_0_and_below_1(probability: float) -> None:
    with pytest.raises(ConfigError, match=rf"^sticky_actions is {probability}, but must be at least 0 and below 1\.$"):
        pjp.TrainConfig(sticky_actions=probability).validate()
