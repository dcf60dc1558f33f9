"""What follows a step at a time limit: the critic's value of the observation that the environment ended with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tiny_envs import with_walk

import purejaxppo as pjp
from purejaxppo.envs.base import Environment, Step
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo.rollout import collect, next_values, prepare_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Learner, make_learner
from purejaxppo.training.train import make_trainer

NUM_STEPS, NUM_ENVS, LIMIT = 16, 5, 5
CONFIG = pjp.TrainConfig(
    env="tiny/Walk", total_steps=NUM_STEPS * NUM_ENVS, num_envs=NUM_ENVS, num_steps=NUM_STEPS, minibatch_size=20,
    max_episode_steps=LIMIT, hidden_sizes=(6,), num_log_points=1, num_epochs=1, diagnostics=False,
)  # fmt: skip
HPARAMS = HyperParams(gamma=0.9, gae_lambda=0.8)


@struct.dataclass(kw_only=True)
class Tape:
    """env: the state of what is recorded; final_obs: [T, *obs], of the latest T steps, the latest last."""

    env: Any
    final_obs: jax.Array


class Recorded(Environment):
    """An environment that remembers every step's true last observation, whatever becomes of it."""

    def __init__(self, env: Environment):
        self._env = env
        for name in ("name", "observation_shape", "observation_dtype", "action_space", "max_episode_steps"):
            setattr(self, name, getattr(env, name))

    def reset(self, key: jax.Array) -> tuple[jax.Array, Tape]:
        obs, state = self._env.reset(key)
        return obs, Tape(env=state, final_obs=jnp.zeros((NUM_STEPS, *obs.shape)))

    def step(self, key: jax.Array, state: Tape, action: jax.Array) -> Step:
        step = self._env.step(key, state.env, action)
        tape = jnp.concatenate([state.final_obs[1:], step.final_obs[None]])
        return step.replace(state=Tape(env=step.state, final_obs=tape))


@pytest.mark.parametrize("time_limit", ["bootstrap", "terminate"])
def test_every_cut_is_worth_the_value_of_its_own_last_observation(time_limit: str) -> None:
    """Three environments over two rollouts, so that the second begins in the middle of episodes."""
    learner = with_walk(make_learner, pjp.TrainConfig(**vars(CONFIG) | {"time_limit": time_limit}))
    learner = Learner(learner.config, Recorded(learner.env), learner.networks, learner.distribution)

    @jax.jit
    def program(key: jax.Array) -> Any:
        key_init, *keys = jax.random.split(key, 3)
        state = init_run(learner, key_init)
        for key_rollout in keys:
            state, rollout = collect(learner, state, key_rollout)
        value = learner.critic(state, rollout.obs).outputs[..., 0]
        found = next_values(learner, state, rollout, value)
        return state, rollout, value, found, prepare_batch(learner, HPARAMS, state, rollout)

    state, rollout, value, found, batch = program(jax.random.key(2))
    is_bootstrap = time_limit == "bootstrap"
    assert rollout.last_obs.shape == ((-(-NUM_STEPS // LIMIT) if is_bootstrap else 0) + 1, NUM_ENVS, 3)
    terminated, truncated = np.asarray(rollout.terminated), np.asarray(rollout.truncated)
    num_cuts = truncated.sum(axis=0)
    assert (len(set(num_cuts.tolist())) > 1 and num_cuts.max() >= 2) if is_bootstrap else not num_cuts.any()
    assert terminated.any()
    final_obs = np.moveaxis(np.asarray(state.env_state.final_obs), 0, 1)  # [T, N, *obs]
    of_final = np.asarray(jax.jit(learner.critic)(state, jnp.asarray(final_obs)).outputs[..., 0])
    np.testing.assert_allclose(found[~terminated], of_final[~terminated], rtol=1e-5, atol=1e-6)

    expected = np.zeros((NUM_STEPS + 1, NUM_ENVS))
    for t in reversed(range(NUM_STEPS)):
        for n in range(NUM_ENVS):
            worth = 0.0 if terminated[t, n] else of_final[t, n]
            goes_on = not (terminated[t, n] or truncated[t, n])
            delta = float(rollout.reward[t, n]) + 0.9 * worth - float(value[t, n])
            expected[t, n] = delta + 0.9 * 0.8 * goes_on * expected[t + 1, n]
    np.testing.assert_allclose(batch.advantage, expected[:-1].reshape(-1), rtol=1e-4, atol=1e-5)


def test_an_environment_that_cuts_more_often_than_it_says_marks_the_run_as_diverged() -> None:
    """Rather than bootstrapping from some other observation; the weights stay those of the start."""
    fields = {"env": "tiny/UntruthfulWalk", "max_episode_steps": 4, "minibatch_size": 80}
    trainer = with_walk(make_trainer, pjp.TrainConfig(**vars(CONFIG) | fields))
    state = trainer.init(HPARAMS, jax.random.key(0))
    after, metrics = jax.jit(trainer.segment)(HPARAMS, state)
    assert after.status == 1
    assert np.isnan(metrics["value_loss"])
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
