"""A PPO in the style of PureJaxRL: one closure, dicts of capitals, a scan of scans; and the recipe for such a one, run.

For environments of gymnax 0.0.9, `step(key, state, action, params) -> (obs, state, reward, done, info)`, or like them.
Called as a script it trains and leaves runs/theirs/results.nc: `purejaxrl_style.py RECIPES.md [ENV]`, without ENV in a
corridor that needs no gymnax.
"""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState


class ActorCritic(nn.Module):
    action_dim: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        actor = nn.tanh(nn.Dense(64)(x))
        actor = nn.tanh(nn.Dense(64)(actor))
        logits = nn.Dense(self.action_dim)(actor)
        critic = nn.tanh(nn.Dense(64)(x))
        critic = nn.tanh(nn.Dense(64)(critic))
        return logits, nn.Dense(1)(critic)[..., 0]


class Transition(NamedTuple):
    done: Any
    action: Any
    value: Any
    reward: Any
    log_prob: Any
    obs: Any
    info: Any


class Corridor:
    """Ten cells; action 1 steps right, 0 left; the right end pays 1 and ends the episode, and so do 50 steps."""

    num_actions = 2

    def reset(self, key: Any, params: Any) -> Any:
        start = jax.random.randint(key, (), 2, 7)
        return jax.nn.one_hot(start, 10), (start, jnp.int32(0))

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        position, age = jnp.clip(state[0] + 2 * action - 1, 0, 9), state[1] + 1
        done = (position == 9) | (age >= 50)
        first_obs, first = self.reset(key, params)
        obs = jnp.where(done, first_obs, jax.nn.one_hot(position, 10))
        state = jax.tree.map(partial(jnp.where, done), first, (position, age))
        return obs, state, jnp.float32(position == 9), done, {}


def log_prob_of(logits: Any, action: Any) -> Any:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]


def make_train(config: Any, diagnose: Any) -> Any:
    env, env_params = config["ENV"], config["ENV_PARAMS"]
    network = ActorCritic(env.num_actions)

    def train(rng: Any) -> Any:
        rng, rng_init, rng_reset = jax.random.split(rng, 3)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(rng_reset, config["NUM_ENVS"]), env_params)
        tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(config["LR"], eps=1e-5))
        params = network.init(rng_init, obs[0])
        train_state = TrainState.create(apply_fn=network.apply, params=params, tx=tx)

        def _env_step(runner: Any, unused: Any) -> Any:
            train_state, env_state, obs, episode_return, rng = runner
            rng, rng_action, rng_step = jax.random.split(rng, 3)
            logits, value = network.apply(train_state.params, obs)
            action = jax.random.categorical(rng_action, logits)
            next_obs, env_state, reward, done, _ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(rng_step, config["NUM_ENVS"]), env_state, action, env_params
            )
            episode_return = episode_return + reward
            info = {"returned_episode": done, "returned_episode_returns": episode_return}
            step = Transition(done, action, value, reward, log_prob_of(logits, action), obs, info)
            return (train_state, env_state, next_obs, jnp.where(done, 0.0, episode_return), rng), step

        def _loss(params: Any, batch: Any) -> Any:
            steps, advantages, targets = batch
            logits, value = network.apply(params, steps.obs)
            ratio = jnp.exp(log_prob_of(logits, steps.action) - steps.log_prob)
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            policy_loss = -jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages).mean()
            entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
            return policy_loss + 0.5 * jnp.square(value - targets).mean() - 0.01 * entropy

        def _update_step(runner: Any, unused: Any) -> Any:
            runner, traj_batch = jax.lax.scan(_env_step, runner, None, config["NUM_STEPS"])
            train_state, env_state, obs, episode_return, rng = runner
            _, last_value = network.apply(train_state.params, obs)

            def _advantage(carry: Any, step: Any) -> Any:
                gae, next_value = carry
                delta = step.reward + 0.99 * next_value * (1 - step.done) - step.value
                gae = delta + 0.99 * 0.95 * (1 - step.done) * gae
                return (gae, step.value), gae

            start = (jnp.zeros_like(last_value), last_value)
            _, advantages = jax.lax.scan(_advantage, start, traj_batch, reverse=True)
            batch = (traj_batch, advantages, advantages + traj_batch.value)
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

            def _update_epoch(carry: Any, unused: Any) -> Any:
                train_state, rng = carry
                rng, rng_shuffle = jax.random.split(rng)
                order = jax.random.permutation(rng_shuffle, batch[1].shape[0])
                minibatches = jax.tree.map(lambda x: x[order].reshape(4, -1, *x.shape[1:]), batch)

                def _update_minibatch(train_state: Any, minibatch: Any) -> Any:
                    return train_state.apply_gradients(grads=jax.grad(_loss)(train_state.params, minibatch)), None

                train_state, _ = jax.lax.scan(_update_minibatch, train_state, minibatches)
                return (train_state, rng), None

            (train_state, rng), _ = jax.lax.scan(_update_epoch, (train_state, rng), None, 4)
            metric = traj_batch.info
            obs_seen = traj_batch.obs.reshape(-1, *traj_batch.obs.shape[2:])
            metric = {**metric, **diagnose(network, train_state.params, obs_seen)}
            return (train_state, env_state, obs, episode_return, rng), metric

        runner = (train_state, env_state, obs, jnp.zeros(config["NUM_ENVS"]), rng)
        runner, metrics = jax.lax.scan(_update_step, runner, None, config["NUM_UPDATES"])
        return {"runner_state": runner, "metrics": metrics}

    return train


def recipe(page: str, name: str) -> str:
    """The code of the page under a name."""
    (code,) = re.findall(rf"<!-- recipe: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    return code


def main() -> None:
    page, names = Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:]
    if names:
        import gymnax

        env, env_params = gymnax.make(names[0])  # of version 0.0.9
    else:
        env, env_params = Corridor(), None
    known: dict[str, Any] = {}
    exec(recipe(page, "purejaxrl, measure"), known)
    known["make_train"] = lambda config: make_train(config, known["diagnose"])
    known["config"] = {"ENV": env, "ENV_PARAMS": env_params, "ENV_NAME": names[0] if names else "mine/Corridor"}
    known["config"] |= {"NUM_SEEDS": 4, "NUM_ENVS": 8, "NUM_STEPS": 64, "NUM_UPDATES": 12, "LR": 3e-3}
    exec(recipe(page, "purejaxrl, import"), known)
    print(known["dataset"]["return_mean"].values.mean(axis=0).round(2).tolist())


if __name__ == "__main__":
    main()
