"""PPO written a second time, plainly: NumPy in float64, loops, and none of the package's own code.

An `Oracle` reads the initial parameters, observations, environment states, the run's key and, where they are fixed, the
observation statistics off the state that `trainer.init` returned. From there on it shares with the package the
environments' `step` and the rules by which keys are split, nothing else (and `init`, which draws the weights of units
that are reset). `Oracle.segment()` gives the metrics that
`trainer.segment` must give; `params`, `moments`, `mean`, `var` and `obs` are what its state must hold.

Functions that take `xp` are written once and used twice: with NumPy for values, and with jax.numpy, in float64 as well,
for JAX to differentiate the loss. N samples, D features, A actions; "old" is what collected the rollout.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow

from purejaxppo import envs

Array = Any
LOG_RATIO_RANGE = (np.log(1e-7), np.log(1e9))  # continuous actions
LARGEST_LOG_RATIO = 60.0  # discrete actions
CORNERS = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}


# --- Networks


def network(xp: Any, layers: dict[str, Any], head: str, x: Array, activation: str) -> SimpleNamespace:
    """h_l = activation(z_l), z_l = h_{l-1} W_l + b_l: outputs [N, K], every z_l [N, D_l], and the last h [N, D]."""
    zs = []
    for name in sorted(name for name in layers if name.startswith("hidden_")):
        zs.append(affine(layers[name], x))
        x = {"relu": lambda z: xp.where(z > 0, z, 0.0), "tanh": xp.tanh}[activation](zs[-1])
    outputs = affine(layers[head], x)
    if head == "policy_head" and "log_scale" in layers:
        outputs = xp.concatenate([outputs, xp.broadcast_to(layers["log_scale"], outputs.shape)], axis=1)
    return SimpleNamespace(outputs=outputs, preactivations=zs, features=x)


def affine(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"][None, :]


def both(xp: Any, params: dict[str, Any], x: Array, activation: str) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Policy and critic on network inputs x [N, *]."""
    layers = {name: params.get(name, params.get("shared")) for name in ("policy", "critic")}
    policy, critic = (network(xp, layers[name], f"{name}_head", x, activation) for name in layers)
    return policy, critic


def flat(tree: Any) -> Array:
    """All numbers of nested dicts as one vector, in the order of sorted names."""
    if isinstance(tree, dict):
        return np.concatenate([flat(tree[name]) for name in sorted(tree)])
    return np.asarray(tree, np.float64).ravel()


def unflat(vector: Array, tree: Any) -> Any:
    """The inverse of `flat`: the numbers in the shapes of `tree`."""
    if not isinstance(tree, dict):
        return vector.reshape(np.shape(tree))
    found, start = {}, 0
    for name in sorted(tree):
        size = flat(tree[name]).size
        found[name] = unflat(vector[start : start + size], tree[name])
        start += size
    return found


def float64(tree: Any) -> Any:
    return {k: float64(v) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree, np.float64)


# --- Distributions


class Categorical:
    """p_a = exp(y_a) / sum_b exp(y_b) for outputs y [N, A]."""

    is_continuous = False

    def __init__(self, num_actions: int):
        self.num_actions = num_actions

    def sample(self, outputs: Array, key: Array) -> Array:
        return np.asarray(jax.random.categorical(key, jnp.asarray(outputs, jnp.float32)))

    def noise(self, key: Array, num_samples: int) -> Array:
        return np.zeros((num_samples, 0))  # nothing is sampled for the entropy

    def log_probs(self, xp: Any, y: Array) -> Array:
        y = y - y.max(axis=1, keepdims=True)
        return y - xp.log(xp.exp(y).sum(axis=1, keepdims=True))

    def log_prob(self, xp: Any, y: Array, action: Array) -> Array:
        is_chosen = action[:, None] == np.arange(self.num_actions)[None, :]
        return xp.where(is_chosen, self.log_probs(xp, y), 0.0).sum(axis=1)

    def entropy(self, xp: Any, y: Array, noise: Array) -> Array:
        log_p = self.log_probs(xp, y)
        return -(xp.exp(log_p) * log_p).sum(axis=1)

    def kl(self, xp: Any, old: Array, new: Array) -> Array:
        log_old, log_new = self.log_probs(xp, old), self.log_probs(xp, new)
        return (xp.exp(log_old) * (log_old - log_new)).sum(axis=1)

    def change(self, xp: Any, old: Array, new: Array) -> Array:
        return self.kl(xp, old, new)

    def moments(self, y: Array) -> Array:
        return np.exp(self.log_probs(np, y))

    def to_environment(self, action: Array) -> Array:
        return action


class Gaussian:
    """Independent normals N(m, s^2), m = y[:, :A]; s = exp(y[:, A:]), or with `is_squashed` softplus(y + c) + 0.01.

    c makes s(0) = 1. Squashed, the action is tanh(x) of a sample x; x is what is kept, and densities are of tanh(x).
    """

    is_continuous = True

    def __init__(self, space: Any, is_squashed: bool):
        self.low, self.high = (np.asarray(x, np.float64)[None, :] for x in (space.low, space.high))
        self.is_squashed = is_squashed

    def loc_scale(self, xp: Any, y: Array) -> tuple[Array, Array]:
        loc, raw = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        return loc, xp.logaddexp(raw + np.log(np.expm1(0.99)), 0.0) + 0.01 if self.is_squashed else xp.exp(raw)

    def noise(self, key: Array, num_samples: int) -> Array:
        return np.asarray(jax.random.normal(key, (num_samples, self.low.shape[1])), np.float64)

    def sample(self, outputs: Array, key: Array) -> Array:
        loc, scale = self.loc_scale(np, outputs)
        return np.float32(loc + scale * self.noise(key, len(loc)))

    def log_prob(self, xp: Any, y: Array, x: Array) -> Array:
        loc, scale = self.loc_scale(xp, y)
        terms = -0.5 * ((x - loc) / scale) ** 2 - xp.log(scale) - 0.5 * np.log(2 * np.pi)
        if self.is_squashed:  # minus log of d tanh(x) / dx = 1 - tanh(x)^2 = 1 / cosh(x)^2
            terms = terms + 2 * (xp.logaddexp(x, -x) - np.log(2))
        return terms.sum(axis=1)

    def entropy(self, xp: Any, y: Array, noise: Array) -> Array:
        """Exact; squashed: -log p of one sample, through which the gradient flows."""
        loc, scale = self.loc_scale(xp, y)
        if self.is_squashed:
            return -self.log_prob(xp, y, loc + scale * noise)
        return (xp.log(scale) + 0.5 * np.log(2 * np.pi * np.e)).sum(axis=1)

    def kl(self, xp: Any, old: Array, new: Array) -> Array:
        (m0, s0), (m1, s1) = self.loc_scale(xp, old), self.loc_scale(xp, new)
        return (xp.log(s1) - xp.log(s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5).sum(axis=1)

    def change(self, xp: Any, old: Array, new: Array) -> Array:
        return ((self.loc_scale(xp, new)[0] - self.loc_scale(xp, old)[0]) ** 2).mean(axis=1)

    def moments(self, y: Array) -> Array:
        return np.concatenate(self.loc_scale(np, y), axis=1)

    def to_environment(self, x: Array) -> Array:
        action = np.tanh(np.float64(x)) if self.is_squashed else x
        return np.float32((self.high + self.low) / 2 + (self.high - self.low) / 2 * action)


# --- The algorithm


class Oracle:
    """One run, from `trainer.init(hparams, key)`'s state on; `segment()` is one log interval."""

    def __init__(self, config: Any, hparams: Any, state: Any, init: Any = None):
        assert config.unit_resets in ("off", "redo")
        assert (config.pfo_layers, config.pfo_distance) == ("last", "l2")
        assert (config.pfo_mode, config.torso, config.shrink_and_perturb) == ("penalty", "mlp", "off")
        assert (config.policy_objective in ("clip", "dpo"), config.optimizer) == (True, "adam")
        assert not any((config.layer_norm, config.rms_norm, config.crelu, config.residual))
        assert not any((config.weight_spectral, config.feature_spectral))
        self.config = config
        # As the package sees them: 1 - beta2 differs by 1e-5 between 0.999 and its float32.
        self.hparams = SimpleNamespace(**{k: float(np.float32(x)) for k, x in vars(hparams).items()})
        self.env = envs.make(config.env, time_aware=config.time_aware, max_episode_steps=config.max_episode_steps)
        self.num_raw = self.env.observation_shape[0] - config.time_aware  # entries without the elapsed time
        self.step_env = jax.jit(jax.vmap(self.env.step))
        space = self.env.action_space
        is_squashed = config.action_distribution == "tanh_normal"
        self.distribution = Gaussian(space, is_squashed) if hasattr(space, "low") else Categorical(space.n)
        self.params, self.key, self.env_state = float64(state.params), state.key, state.env_state
        self.initial, self.init = self.params, init
        self.units_reset = dict.fromkeys(self.params, 0)
        self.num_updates_done, self.kl_factor = 0, 1.0
        self.lengths = np.zeros(config.num_envs, int)  # of the episodes under way
        self.returns = np.zeros((config.num_envs, 2))  # raw, and of the reward after its sign
        self.discounted, self.seen_discounted = np.zeros(config.num_envs), []  # of the episodes under way; all so far
        self.obs = self.with_time(state.obs)
        self.normalization = config.normalize_observations
        self.mean, self.var = np.zeros(self.num_raw), np.ones(self.num_raw)
        if self.normalization == "fixed":
            given = state.observation_statistics.mean, state.observation_statistics.var
            self.mean, self.var = (np.asarray(x, np.float64)[: self.num_raw] for x in given)
        self.seen: list[Array] = []  # every observation so far, for running statistics
        self.previous = self.params  # one gradient step back
        self.sizes: list[dict[str, float]] = []  # of every rollout: its last step's terms, and what they are added to
        self.reset_moments()
        self.gradient = jax.jit(jax.grad(lambda *arguments: self.losses(jnp, *arguments)[0]))

    def with_time(self, obs: Array) -> Array:
        """Observations [N, *] in float64, the last entry, with `time_aware`, being -1 + 2 elapsed / limit."""
        obs = np.array(obs, np.float64)
        if self.config.time_aware:
            obs[:, -1] = -1 + 2 * self.lengths / self.env.max_episode_steps
        return obs

    def network_input(self, obs: Array) -> Array:
        """running: (o - mean) / sqrt(var + 1e-8) within [-10, 10]; fixed: (o - mean) / max(sqrt(var), 1e-6)."""
        raw, time = obs[:, : self.num_raw], obs[:, self.num_raw :]
        if self.normalization == "running":
            raw = np.clip((raw - self.mean) / np.sqrt(self.var + 1e-8), -10, 10)
        elif self.normalization == "fixed":
            raw = (raw - self.mean) / np.maximum(np.sqrt(self.var), 1e-6)
        return np.concatenate([raw, time], axis=1)

    def both(self, x: Array) -> tuple[SimpleNamespace, SimpleNamespace]:
        return both(np, self.params, x, self.config.activation)

    def collect(self, key: Array) -> SimpleNamespace:
        """num_steps of every environment; lists over time of what happened, each [num_envs, ...]."""
        config, names = self.config, ("obs", "action", "reward", "terminated", "truncated", "final_obs")
        rollout = SimpleNamespace(**{name: [] for name in names})
        for key_step in jax.random.split(key, config.num_steps):
            key_action, key_env = jax.random.split(key_step)
            action = self.distribution.sample(self.both(self.network_input(self.obs))[0].outputs, key_action)
            step = self.step_env(
                jax.random.split(key_env, config.num_envs), self.env_state, self.distribution.to_environment(action)
            )
            raw = np.asarray(step.reward, np.float64)
            reward = (raw > 0) * 1.0 - (raw < 0) * 1.0 if config.sign_reward else raw
            terminated, truncated = np.asarray(step.terminated), np.asarray(step.truncated)
            self.lengths, self.returns = self.lengths + 1, self.returns + np.stack([raw, reward], axis=1)
            reward = self.normalized(reward, terminated | truncated)
            final_obs = self.with_time(step.final_obs)
            for i in np.flatnonzero(terminated | truncated):
                self.finished.append((*self.returns[i], self.lengths[i]))
                self.returns[i], self.lengths[i] = 0, 0
            if config.time_limit == "terminate":
                terminated, truncated = terminated | truncated, np.zeros_like(truncated)
            for name, x in zip(names, (self.obs, action, reward, terminated, truncated, final_obs), strict=True):
                getattr(rollout, name).append(x)
            self.env_state, self.obs = step.state, self.with_time(step.obs)
        return rollout

    def normalized(self, reward: Array, is_over: Array) -> Array:
        """Rewards [N] over the deviation of all discounted returns so far, and 1e-4 of a prior sample of variance 1."""
        if self.config.normalize_rewards == "off":
            return reward
        self.discounted = self.hparams.gamma * self.discounted + reward
        self.seen_discounted += self.discounted.tolist()
        self.discounted = np.where(is_over, 0, self.discounted)
        seen = np.array(self.seen_discounted)
        mean = seen.sum() / (seen.size + 1e-4)
        var = (((seen - mean) ** 2).sum() + 1e-4 * (1 + mean**2)) / (seen.size + 1e-4)
        return np.clip(reward / np.sqrt(var + 1e-8), -10, 10)

    def advantages(self, rollout: SimpleNamespace) -> Array:
        """A_t = delta_t + gamma lambda A_{t+1} while the episode goes on, delta_t = r_t + gamma V(s'_t) - V(s_t).

        V(s'_t) is 0 at a termination, and at a time limit, where the sum stops, the value of the last observation.
        """
        gamma, following, found = self.hparams.gamma, 0.0, []
        for t in reversed(range(self.config.num_steps)):
            value, next_value = (
                self.both(self.network_input(x[t]))[1].outputs[:, 0] for x in (rollout.obs, rollout.final_obs)
            )
            delta = rollout.reward[t] + gamma * np.where(rollout.terminated[t], 0, next_value) - value
            is_over = rollout.terminated[t] | rollout.truncated[t]
            following = delta + gamma * self.hparams.gae_lambda * np.where(is_over, 0, following)
            found.insert(0, following)
        return np.concatenate(found)

    def make_batch(self, rollout: SimpleNamespace) -> dict[str, Array]:
        """All samples in the order t, then environment, with what the old networks say about them."""
        obs = np.concatenate(rollout.obs)
        x = self.network_input(obs)
        policy, critic = self.both(x)
        action, advantage = np.concatenate(rollout.action), self.advantages(rollout)
        is_normalized = self.config.advantage_normalization == "batch"
        return {
            "obs": obs,
            "x": x,
            "action": action,
            "advantage": normalized(np, advantage) if is_normalized else advantage,
            "target": advantage + critic.outputs[:, 0],
            "old_value": critic.outputs[:, 0],
            "old_outputs": policy.outputs,
            "old_log_prob": self.distribution.log_prob(np, policy.outputs, action),
        }

    def held(self, output: SimpleNamespace) -> Array:
        """What of a network the proximity term is about, [N, D]."""
        of = {"preactivations": output.preactivations[-1], "features": output.features, "outputs": output.outputs}
        return of[self.config.pfo_features]

    def proximity(self, batch: dict[str, Array], own: Array, other: Array, collected: Any) -> dict[str, Array]:
        """Where the networks are held (inputs x, [N, *]) and to what, from rows of this minibatch and of the next one.

        collected: the parameters with which the rollout was collected.
        """
        x = batch["x"][own if self.config.pfo_states == "minibatch" else other]
        reference = collected if self.config.pfo_reference == "rollout" else self.previous
        policy, critic = both(np, reference, x, self.config.activation)
        return {"held_x": x, "policy_reference": self.held(policy), "critic_reference": self.held(critic)}

    def proximity_coefs(self) -> dict[str, float]:
        """As they are; with pfo_auto, share x mean size of the loss / mean of the term, over at most 100 rollouts."""
        hparams, seen = self.hparams, self.sizes[-100:]
        fixed = {"pfo_loss": hparams.pfo_coef, "critic_pfo_loss": hparams.critic_pfo_coef}
        if not self.config.pfo_auto or len(self.sizes) < max(1, hparams.pfo_warmup):
            return fixed
        mean = {name: np.mean([sizes[name] for sizes in seen]) for name in (*fixed, "policy_loss", "value_loss")}
        loss = {"pfo_loss": mean["policy_loss"], "critic_pfo_loss": mean["value_loss"]}
        return {
            name: hparams.pfo_target_share * loss[name] / (mean[name] + 1e-8) if coef > 0 else 0.0
            for name, coef in fixed.items()
        }

    def losses(self, xp: Any, params: dict[str, Any], batch: dict[str, Array], noise: Array, kl_coef: float) -> Any:
        """The loss on a minibatch, and its terms without their coefficients.

        L = -E min(r A, clip(r, 1 +- eps) A) - c_ent E H + c_v E (V - target)^2 + c_pfo E d(phi, phi_ref)
            + c_critic_pfo (the same of the critic) + beta E KL(old || new),   A normalised, r = pi / pi_old

        d: |phi - phi_ref|^2 / D, or of outputs what `change` says, of V (V - V_ref)^2;
        with value_clipping the larger one of (V - target)^2 and (V_old + clip(V - V_old, +- eps) - target)^2; with
        l2_init c_init |theta - theta_0|^2, with parseval c_parseval sum |W W^T - s I|^2 of hidden layers W [units, in].
        """
        outputs = both(xp, params, batch["x"], self.config.activation)
        total, terms = self.terms(xp, params, *outputs, batch, noise, kl_coef)
        pfo = self.pfo_terms(xp, params, batch)
        return total + sum(batch[name.replace("loss", "coef")] * term for name, term in pfo.items()), terms | pfo

    def pfo_terms(self, xp: Any, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        policy, critic = map(self.held, both(xp, params, batch["held_x"], self.config.activation))
        change = (policy - batch["policy_reference"]) ** 2
        if self.config.pfo_features == "outputs":
            change = self.distribution.change(xp, batch["policy_reference"], policy)
        return {"pfo_loss": change.mean(), "critic_pfo_loss": ((critic - batch["critic_reference"]) ** 2).mean()}

    def terms(
        self, xp: Any, params: Any, policy: Any, critic: Any, batch: dict[str, Array], noise: Array, kl_coef: float
    ) -> tuple[Any, dict[str, Any]]:
        """The same from what policy and critic give for the minibatch, without PFO."""
        hparams = self.hparams
        a = batch["advantage"]
        a = normalized(xp, a) if self.config.advantage_normalization == "minibatch" else a
        value, errors = critic.outputs[:, 0], (critic.outputs[:, 0] - batch["target"]) ** 2
        if self.config.value_clipping:
            low, high = (batch["old_value"] + sign * hparams.value_clip_eps for sign in (-1, 1))
            limited = xp.where(value < low, low, xp.where(value > high, high, value))
            errors = xp.maximum(errors, (limited - batch["target"]) ** 2)
        log_ratio = self.distribution.log_prob(xp, policy.outputs, batch["action"]) - batch["old_log_prob"]
        low, high = LOG_RATIO_RANGE if self.distribution.is_continuous else (-np.inf, LARGEST_LOG_RATIO)
        r = xp.exp(xp.where(log_ratio < low, low, xp.where(log_ratio > high, high, log_ratio)))
        # min(r A, clip(r) A): where A > 0 only the upper limit can be the smaller one, where A < 0 only the lower.
        limited = xp.where(a > 0, xp.minimum(r, 1 + hparams.clip_eps), xp.maximum(r, 1 - hparams.clip_eps))
        entropy = self.distribution.entropy(xp, policy.outputs, noise).mean()
        kl = self.distribution.kl(xp, batch["old_outputs"], policy.outputs).mean()
        terms = {
            "policy_loss": -(limited * a if self.config.policy_objective == "clip" else dpo(xp, r, a)).mean(),
            "entropy_loss": -entropy,
            "value_loss": errors.mean(),
        }
        coefs = (1.0, hparams.entropy_coef, hparams.value_coef)
        total = sum(coef * term for coef, term in zip(coefs, terms.values(), strict=True))
        if self.config.kl_penalty:
            terms["kl_loss"], total = kl, total + kl_coef * kl
        layers = [(name, layer) for network in params.values() for name, layer in network.items()]
        if self.config.l2_init:
            pairs = zip(jax.tree.leaves(params), jax.tree.leaves(self.initial), strict=True)
            terms["l2_init_loss"] = sum(((x - y) ** 2).sum() for x, y in pairs)
            total = total + hparams.l2_init_coef * terms["l2_init_loss"]
        if self.config.parseval:
            terms["parseval_loss"] = 0.0
            for w in [layer["kernel"].T for name, layer in layers if name.startswith("hidden_")]:
                terms["parseval_loss"] += ((w @ w.T - hparams.parseval_scale * np.eye(len(w))) ** 2).sum()
            total = total + hparams.parseval_coef * terms["parseval_loss"]
        clip_fraction = (limited * a < r * a).mean()
        return total, terms | {"minibatch_kl": kl, "minibatch_entropy": entropy, "clip_fraction": clip_fraction}

    def parts(self) -> dict[str, tuple[str, list[str]]]:
        """Optimiser -> its network in `params`, and the layers there that it owns; two may own a shared trunk."""
        if self.config.trunk_optimizers == "one" or not self.config.share_trunk:
            return {name: (name, sorted(layers)) for name, layers in self.params.items()}
        trunk = [name for name in self.params["shared"] if not name.endswith("_head") and name != "log_scale"]
        scale = ["log_scale"] if "log_scale" in self.params["shared"] else []
        return {"policy": ("shared", [*trunk, "policy_head", *scale]), "critic": ("shared", [*trunk, "critic_head"])}

    def part(self, tree: dict[str, Any], name: str) -> dict[str, Any]:
        network, layers = self.parts()[name]
        return {layer: tree[network][layer] for layer in layers}

    def reset_moments(self) -> None:
        sizes = {name: flat(self.part(self.params, name)).size for name in self.parts()}
        self.moments = {name: {"mu": np.zeros(n), "nu": np.zeros(n), "count": 0} for name, n in sizes.items()}

    def clip(self, grads: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Scale, in place, each optimiser's part of the gradient by min(1, max_norm / (norm + 1e-6)), one by one.

        Gives the norms that each one found and left. Where two own a trunk, the second finds it scaled by the first.
        """
        norms = {}
        for name, (network, layers) in self.parts().items():
            norm = np.linalg.norm(flat(self.part(grads, name)))
            scale = min(1.0, self.hparams.max_grad_norm / (norm + 1e-6))
            for layer in layers:
                grads[network][layer] = unflat(scale * flat(grads[network][layer]), grads[network][layer])
            norms[name] = (norm, norm * scale)
        return norms

    def adam(self, name: str, grads: dict[str, Any], learning_rate: float, before: dict[str, Any]) -> None:
        """One step of an optimiser, in place: -rate m' / (sqrt(v') + eps), m', v' the moments without their bias.

        With weight_decay also - rate x weight_decay_rate x the weights before all steps.
        """
        (network, _), moments, hparams = self.parts()[name], self.moments[name], self.hparams
        gradient, weights = flat(self.part(grads, name)), self.part(self.params, name)
        b1, b2 = hparams.adam_beta1, hparams.adam_beta2
        moments["count"] += 1
        moments["mu"] = b1 * moments["mu"] + (1 - b1) * gradient
        moments["nu"] = b2 * moments["nu"] + (1 - b2) * gradient**2
        m, v = moments["mu"] / (1 - b1 ** moments["count"]), moments["nu"] / (1 - b2 ** moments["count"])
        step = -learning_rate * m / (np.sqrt(v) + hparams.adam_eps)
        if self.config.weight_decay:
            step -= learning_rate * hparams.weight_decay_rate * flat(self.part(before, name))
        self.params = self.params | {network: self.params[network] | unflat(flat(weights) + step, weights)}

    def minibatch(
        self,
        batch: dict[str, Array],
        other: Array,
        noise: Array,
        rates: dict[str, float],
        kl_coef: float,
        is_stopped: bool,
    ) -> dict[str, float]:
        """One gradient step, unless stopped; losses and gradients from before it, weights from after it.

        other: network inputs of another minibatch, on which churn is measured; none where there is no other.
        """
        terms = self.losses(np, self.params, batch, noise, kl_coef)[1]
        with jax.enable_x64(True):
            grads = float64(self.gradient(self.params, batch, noise, kl_coef))
        norms, before = self.clip(grads), self.params
        for name in () if is_stopped else self.parts():
            self.adam(name, grads, rates["critic" if name == "critic" else "policy"], before)
        if self.config.weight_clipping and not is_stopped:
            self.params = clipped(self.params, self.hparams.weight_clip_scale)
        if not is_stopped:
            self.previous = before
        found = terms | {"learning_rate": rates["policy"], "policy_churn": np.nan, "critic_churn": np.nan}
        if len(other):
            (p0, v0), (p1, v1) = (both(np, params, other, self.config.activation) for params in (before, self.params))
            found["policy_churn"] = self.distribution.kl(np, p0.outputs, p1.outputs).mean()
            found["critic_churn"] = np.abs(v1.outputs - v0.outputs).mean()
        for name in self.parts():
            for network in ("policy", "critic") if name == "shared" else (name,):
                found[f"{network}_gradient_norm"], found[f"{network}_gradient_norm_clipped"] = norms[name]
                old, new = flat(self.part(before, name)), flat(self.part(self.params, name))
                found[f"{network}_step_norm"], found[f"{network}_weight_norm"] = map(np.linalg.norm, (new - old, new))
        return found

    def learn(self, batch: dict[str, Array], key: Array) -> dict[str, float]:
        """All epochs; metrics of the four corner minibatches, and of the KL's interventions."""
        config, hparams = self.config, self.hparams
        kl_coef, rates = hparams.kl_coef * self.kl_factor, dict.fromkeys(("policy", "critic"), hparams.learning_rate)
        if config.separate_learning_rates:
            rates["critic"] = hparams.critic_learning_rate
        if config.lr_schedule == "linear":  # a straight line through (0, 1) and (U, final fraction)
            share = np.interp(self.num_updates_done, [0, config.num_updates], [1, config.lr_final_fraction])
            rates = {name: rate * share for name, rate in rates.items()}
        if config.reset_optimizer:
            self.reset_moments()
        if config.adam_rel:
            for moments in self.moments.values():
                moments["count"] = 0
        history, num_steps_done, is_stopped = [], 0, False
        collected, pfo_coefs = self.params, self.proximity_coefs()
        for epoch in range(config.num_epochs):
            key_shuffle, key_loss = jax.random.split(jax.random.fold_in(key, epoch))
            order = shuffled(key_shuffle, config.batch_size)
            history.append([])
            parts = [order[i : i + config.minibatch_size] for i in range(0, len(order), config.minibatch_size)]
            parts = [rows for rows in parts if len(rows) == config.minibatch_size]
            for i, key_minibatch in enumerate(jax.random.split(key_loss, config.num_minibatches)):
                rows, other = parts[i], parts[i + 1] if i + 1 < len(parts) else parts[0]
                noise = self.distribution.noise(key_minibatch, len(rows))
                taken = {name: x[rows] for name, x in batch.items()} | self.proximity(batch, rows, other, collected)
                taken |= {name.replace("loss", "coef"): coef for name, coef in pfo_coefs.items()}
                other_x = batch["x"][other if len(parts) > 1 else []]
                history[-1].append(self.minibatch(taken, other_x, noise, rates, kl_coef, is_stopped))
                if not is_stopped:
                    sizes = history[-1][-1]
                num_steps_done += not is_stopped
                # The minibatch that goes too far has still been learned from.
                is_stopped |= config.kl_stop and history[-1][-1]["minibatch_kl"] > hparams.kl_stop_limit
        value_size = hparams.value_coef * sizes["value_loss"]
        self.sizes.append(sizes | {"policy_loss": abs(sizes["policy_loss"]), "value_loss": value_size})
        found = {f"{name}{s}": x for s, (e, m) in CORNERS.items() for name, x in history[e][m].items()}
        if config.pfo_auto:
            found |= {name.replace("loss", "auto_coef"): coef for name, coef in pfo_coefs.items()}
        if config.kl_stop:
            found["minibatches_done_fraction"] = num_steps_done / (config.num_epochs * config.num_minibatches)
        if config.kl_penalty:
            found["kl_coef"] = kl_coef
            kl = np.mean([minibatch["minibatch_kl"] for minibatch in history[-1]])
            if kl > 1.5 * hparams.kl_target:
                self.kl_factor *= hparams.kl_increment
            elif kl < hparams.kl_target / 1.5:
                self.kl_factor *= hparams.kl_decrement
        return found

    def redo(self, batch: dict[str, Array], key: Array) -> None:
        """Units with mean |h| <= tau times their layer's mean: weights to them fresh, from them 0, moments of both 0.

        h on as many random samples as a minibatch has.
        """
        key_fresh, key_rows, _ = jax.random.split(jax.random.fold_in(key, 0x72657365), 3)
        rows = shuffled(key_rows, self.config.batch_size)[: self.config.minibatch_size]
        fresh, outputs = float64(self.init(key_fresh)), self.both(batch["x"][rows])
        act = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[self.config.activation]
        self.params = jax.tree.map(np.array, self.params)
        touched = jax.tree.map(np.zeros_like, self.params)
        for network, layers in self.params.items():
            zs = outputs[network == "critic"].preactivations
            names = [f"hidden_{i}" for i in range(len(zs))]
            heads = [name for name in layers if name.endswith("_head")]
            chosen = []
            for name, z in zip(names, zs, strict=True):
                activity = np.abs(act(z)).mean(axis=0)
                chosen.append(activity <= self.hparams.reset_threshold * activity.mean())
                for part in ("kernel", "bias"):
                    layers[name][part][..., chosen[-1]] = fresh[network][name][part][..., chosen[-1]]
                    touched[network][name][part][..., chosen[-1]] = 1
                self.units_reset[network] += int(chosen[-1].sum())
            for readers, units in zip([*([name] for name in names[1:]), heads], chosen, strict=True):
                for reader in readers:
                    layers[reader]["kernel"][units] = 0
                    touched[network][reader]["kernel"][units] = 1
        for name, moments in self.moments.items():
            is_kept = flat(self.part(touched, name)) == 0
            moments["mu"], moments["nu"] = moments["mu"] * is_kept, moments["nu"] * is_kept

    def update(self) -> tuple[dict[str, float], dict[str, Array], tuple[SimpleNamespace, SimpleNamespace]]:
        """Metrics of the epochs, the batch, and what the networks gave for it before."""
        key_collect, key_update = jax.random.split(jax.random.fold_in(self.key, self.num_updates_done))
        rollout = self.collect(key_collect)
        batch = self.make_batch(rollout)
        before, self.params_before = self.both(batch["x"]), self.params
        found = self.learn(batch, key_update)
        if self.config.unit_resets == "redo":
            if (self.num_updates_done + 1) % self.config.reset_interval == 0:
                self.redo(batch, key_update)
            counts = {name: self.units_reset.get(name, self.units_reset.get("shared")) for name in ("policy", "critic")}
            found |= {f"{name}_units_reset": count for name, count in counts.items()}
        if self.normalization == "running":
            self.seen.append(np.concatenate(rollout.obs)[:, : self.num_raw])
            self.mean, self.var = np.concatenate(self.seen).mean(axis=0), np.concatenate(self.seen).var(axis=0)
        self.num_updates_done += 1
        return found, batch, before

    def segment(self) -> dict[str, Any]:
        """`updates_per_log` updates: episodes of all of them, everything else of the last one."""
        self.finished: list[tuple[float, float, int]] = []  # raw return, learning return, length
        for _ in range(self.config.updates_per_log):
            found, batch, before = self.update()
        for name, column in zip(("return", "learning_return", "episode_length"), range(3), strict=True):
            values = [episode[column] for episode in self.finished] or [np.nan]
            found |= {f"{name}_mean": np.mean(values), f"{name}_max": np.max(values)}
        found["episode_count"] = len(self.finished)
        after = self.both(batch["x"])
        if self.normalization == "running":  # what its next statistics do to the policy
            moved = self.both(self.network_input(batch["obs"]))[0]
            found["statistics_kl"] = self.distribution.kl(np, after[0].outputs, moved.outputs).mean()
            found["statistics_drift"] = ((moved.preactivations[-1] - after[0].preactivations[-1]) ** 2).mean()
        return found | self.diagnose(batch, before, after)

    def diagnose(self, batch: dict[str, Array], before: tuple[Any, Any], after: tuple[Any, Any]) -> dict[str, Any]:
        """Policy and value, trust region and representation, after against before, on the whole rollout."""
        dist, target = self.distribution, batch["target"]
        keys = jax.random.split(jax.random.fold_in(self.key, jnp.int32(-1 - self.num_updates_done)), 3)
        found: dict[str, Any] = self.without_gradient(batch, after, dist.noise(keys[2], len(target)))
        for suffix, (policy, critic), key in (("_before", before, keys[0]), ("", after, keys[1])):
            y, value = policy.outputs, critic.outputs[:, 0]
            found[f"entropy{suffix}"] = dist.entropy(np, y, dist.noise(key, len(y))).mean()
            found[f"policy_variance{suffix}"] = slow.policy_variance(dist.moments(y))
            found[f"value_mean{suffix}"], found[f"value_std{suffix}"] = value.mean(), value.std(ddof=1)
            found[f"value_explained_variance{suffix}"] = slow.explained_variance(target, value)
        log_ratio = dist.log_prob(np, after[0].outputs, batch["action"]) - batch["old_log_prob"]
        found["kl"] = dist.kl(np, before[0].outputs, after[0].outputs).mean()
        found["kl_k1"], found["kl_k3"] = -log_ratio.mean(), (np.exp(log_ratio) - 1 - log_ratio).mean()
        found |= slow.ratio_statistics(log_ratio, self.hparams.clip_eps)
        for index, name in enumerate(("policy", "critic")):
            measures = slow.representation(before[index], after[index], self.config.activation)
            measures["probe_r2"] = slow.probe_r2(after[index].features, target)
            layers = self.params.get(name, self.params.get("shared"))
            old = self.params_before.get(name, self.params_before.get("shared"))
            measures["weight_change"] = np.linalg.norm(flat(layers) - flat(old))
            norms = {k: np.linalg.norm(layer["kernel"], 2) for k, layer in layers.items() if isinstance(layer, dict)}
            measures["head_spectral_norm"] = norms[f"{name}_head"]
            measures["weight_spectral_norm_max"] = max(norm for k, norm in norms.items() if k.startswith("hidden_"))
            found |= {f"{name}_{field}": value for field, value in measures.items()}
        return found

    def without_gradient(self, batch: dict[str, Array], after: tuple[Any, Any], noise: Array) -> dict[str, int]:
        """Units of the last hidden layers whose |d PPO's loss / d feature| is small beside their layer's mean."""

        def loss(features: tuple[Array, Array]) -> Array:
            found = []
            for name, x in zip(("policy", "critic"), features, strict=True):
                layers = self.params.get(name, self.params.get("shared"))
                rest = {k: layer for k, layer in layers.items() if not k.startswith("hidden_")}
                found.append(network(jnp, rest, f"{name}_head", x, self.config.activation))
            terms = self.terms(jnp, self.params, *found, batch, noise, 0.0)[1]
            coefs = {"policy_loss": 1.0, "entropy_loss": self.hparams.entropy_coef}
            coefs["value_loss"] = self.hparams.value_coef
            return sum(coef * terms[name] for name, coef in coefs.items())

        with jax.enable_x64(True):
            slopes = [np.asarray(x) for x in jax.grad(loss)((after[0].features, after[1].features))]
        slopes = [slopes[0] + slopes[1]] * 2 if self.config.share_trunk else slopes
        numbers = map(slow.dormant_neurons, slopes)
        return {f"{name}_gradient_inactive_neurons": n for name, n in zip(("policy", "critic"), numbers, strict=True)}


def normalized(xp: Any, a: Array) -> Array:
    """Advantages [N] of mean 0 and deviation 1, unless all are equal."""
    return (a - a.mean()) / xp.maximum(a.std(), 1e-6)


def dpo(xp: Any, r: Array, a: Array) -> Array:
    """r A - max(0, x - c tanh(x / c)): x = (r - 1) A, c = 2 where A >= 0; x = log(r) A, c = 0.6 where A < 0."""
    x, c = xp.where(a >= 0, (r - 1) * a, xp.log(r) * a), xp.where(a >= 0, 2.0, 0.6)
    excess = x - c * xp.tanh(x / c)
    return r * a - xp.where(excess > 0, excess, 0.0)


def clipped(params: dict[str, Any], scale: float) -> dict[str, Any]:
    """Weights and biases of every layer within +-scale / sqrt(fan_in)."""
    found = {}
    for network, layers in params.items():
        bounds = {k: scale / np.sqrt(len(layer["kernel"])) for k, layer in layers.items() if isinstance(layer, dict)}
        within = {k: {part: np.clip(x, -bound, bound) for part, x in layers[k].items()} for k, bound in bounds.items()}
        found[network] = layers | within
    return found


def shuffled(key: Array, size: int) -> Array:
    """0 .. size - 1, sorted by those bits of a random word each that are left when the index takes the lowest ones."""
    words = np.asarray(jax.random.bits(key, (size,), jnp.uint32)).astype(np.uint64)
    index_bits = int(np.ceil(np.log2(size)))
    return np.argsort(words % 2 ** (32 - index_bits), kind="stable")
