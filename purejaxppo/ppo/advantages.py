"""Generalised advantage estimation that keeps terminations and time limits apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """Advantages [T, ...] by generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - terminated_t)(1 - truncated_t) A_{t+1}

    All arrays are [T, ...]. `next_value` is the value of the true last observation s'_t of each transition, which is
    not the first observation of the next episode. At a time limit the sum stops, but s'_t is still worth its value; to
    treat time limits as terminations, pass them as terminated.
    """
    is_going_on = 1.0 - (terminated | truncated).astype(value.dtype)
    delta = reward + gamma * (1.0 - terminated.astype(value.dtype)) * next_value - value
    decay = gamma * gae_lambda * is_going_on

    def backward(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, decay_t = step
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages
