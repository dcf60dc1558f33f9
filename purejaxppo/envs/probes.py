"""Probe environments: tiny tasks with known answers, each of which isolates one part of an actor-critic learner.

A learner that fails `ValueOnly` cannot fit a constant value; that passes it and fails `ValueByObservation`, cannot tell
observations apart; `Discounting`: gets the bootstrap or gamma wrong; `Action`: gets the policy gradient wrong;
`ActionByObservation`: cannot condition the policy. (The idea is folklore; rejax ships five such environments.)
Every probe has a continuous form with one action in [-1, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.envs.base import Box, Discrete, Environment, Step, auto_reset, clip_to_box


@struct.dataclass(kw_only=True)
class ProbeState:
    """obs [1]: what the agent sees now. elapsed: int32, steps since the episode began."""

    obs: Array
    elapsed: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Environment):
    """A task over one-number observations that ends after `num_steps` steps; built by the functions below.

    reward_of: (obs, action) -> reward, both scalars. next_obs: the observation after every step.
    optimal_value: (obs, gamma) -> value of an optimal policy at an observation it acts on.
    optimal_action: (obs) -> the only optimal action, or None where every action is as good.
    """

    name: str
    action_space: Discrete | Box
    first_obs: Callable[[Array], Array]
    reward_of: Callable[[Array, Array], Array]
    optimal_value: Callable[[float, float], float]
    optimal_action: Callable[[float], float] | None = None
    num_steps: int = 1
    next_obs: float = 0.0
    max_episode_steps: int | None = None
    observation_shape: tuple[int, ...] = (1,)
    observation_dtype: np.dtype = dataclasses.field(default=np.dtype("float32"))

    def reset(self, key: Array) -> tuple[Array, ProbeState]:
        obs = jnp.reshape(self.first_obs(key), (1,))
        return obs, ProbeState(obs=obs, elapsed=jnp.int32(0))

    def step(self, key: Array, state: ProbeState, action: Array) -> Step:
        if isinstance(self.action_space, Box):
            action = clip_to_box(action, self.action_space)[0]
        elapsed = state.elapsed + 1
        obs = jnp.full((1,), self.next_obs, jnp.float32)
        limit = self.max_episode_steps
        return auto_reset(
            self.reset,
            key,
            obs=obs,
            state=ProbeState(obs=obs, elapsed=elapsed),
            reward=jnp.asarray(self.reward_of(state.obs[0], action), jnp.float32),
            terminated=elapsed >= self.num_steps,
            truncated=jnp.bool_(False) if limit is None else elapsed >= limit,
        )


def value_only(name: str, is_continuous: bool) -> Probe:
    """One step from observation 0, reward 1.

    Known answer: V(0) = 1 for every gamma and every policy.
    """
    return Probe(
        name=name,
        action_space=_actions(is_continuous),
        first_obs=_zero,
        reward_of=lambda obs, action: jnp.float32(1.0),
        optimal_value=lambda obs, gamma: 1.0,
    )


def value_by_observation(name: str, is_continuous: bool) -> Probe:
    """One step from observation -1 or +1, equally likely; the reward is the observation.

    Known answer: V(obs) = obs for every gamma and every policy.
    """
    return Probe(
        name=name,
        action_space=_actions(is_continuous),
        first_obs=_sign,
        reward_of=lambda obs, action: obs,
        optimal_value=lambda obs, gamma: obs,
    )


def discounting(name: str, is_continuous: bool) -> Probe:
    """Two steps, observations 0 then 1; reward 0 for the first, 1 for the second.

    Known answer: V(0) = gamma and V(1) = 1 for every policy, since the reward of a step equals its observation.
    """
    return Probe(
        name=name,
        action_space=_actions(is_continuous),
        first_obs=_zero,
        reward_of=lambda obs, action: obs,
        num_steps=2,
        next_obs=1.0,
        optimal_value=lambda obs, gamma: 1.0 if obs == 1.0 else gamma,
    )


def action(name: str, is_continuous: bool) -> Probe:
    """One step from observation 0; the reward depends on the action alone.

    Discrete: action 1 gives +1, action 0 gives -1. Continuous: 1 - (a - 0.5)^2.
    Known answer: always action 1, or always a = 0.5; V(0) = 1 under it, for every gamma. A uniform policy has V(0) = 0,
    or 1 - (1/3 + 1/4) = 5/12.
    """
    if is_continuous:
        reward_of, best = (lambda obs, a: 1.0 - (a - 0.5) ** 2), 0.5
    else:
        reward_of, best = (lambda obs, a: jnp.where(a == 1, 1.0, -1.0)), 1
    return Probe(
        name=name,
        action_space=_actions(is_continuous),
        first_obs=_zero,
        reward_of=reward_of,
        optimal_value=lambda obs, gamma: 1.0,
        optimal_action=lambda obs: best,
    )


def action_by_observation(name: str, is_continuous: bool) -> Probe:
    """One step from observation -1 or +1, equally likely; the best action depends on it.

    Discrete: +1 if the action is 1 at observation +1, or 0 at -1; else -1. Continuous: 1 - (a - obs / 2)^2.
    Known answer: action 1 at +1 and 0 at -1, or a = obs / 2; V(obs) = 1 under it, for every gamma. The best policy that
    ignores the observation has an average return of 0, or 1 - 1/4 = 3/4.
    """
    if is_continuous:
        reward_of, best = (lambda obs, a: 1.0 - (a - 0.5 * obs) ** 2), lambda obs: 0.5 * obs
    else:
        reward_of, best = (lambda obs, a: jnp.where((a == 1) == (obs > 0), 1.0, -1.0)), lambda obs: int(obs > 0)
    return Probe(
        name=name,
        action_space=_actions(is_continuous),
        first_obs=_sign,
        reward_of=reward_of,
        optimal_value=lambda obs, gamma: 1.0,
        optimal_action=best,
    )


_PROBES = {
    "ValueOnly": value_only,
    "ValueByObservation": value_by_observation,
    "Discounting": discounting,
    "Action": action,
    "ActionByObservation": action_by_observation,
}


def make_probe(name: str, max_episode_steps: int | None = None) -> Probe:
    """The probe `probe/{name}`; the suffix "Continuous" selects the continuous form. KeyError for an unknown name."""
    probe = _PROBES[name.removesuffix("Continuous")](f"probe/{name}", name.endswith("Continuous"))
    return dataclasses.replace(probe, max_episode_steps=max_episode_steps)


def _actions(is_continuous: bool) -> Discrete | Box:
    return Box((1,), (-1.0,), (1.0,)) if is_continuous else Discrete(2)


def _zero(key: Array) -> Array:
    del key
    return jnp.float32(0.0)


def _sign(key: Array) -> Array:
    return jax.random.rademacher(key, (), jnp.float32)
