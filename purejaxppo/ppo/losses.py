"""Losses on one minibatch: pure functions of arrays, each a mean over samples.

Notation of PAPER section 2: r is the probability ratio pi_new / pi_old, A the advantage, phi the pre-activations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


# Ratios are computed from log ratios of at most this: float32's exp overflows at 88, and the gradient of a *clipped*
# sample, which is 0, would become 0 x inf = NaN.
_LARGEST_LOG_RATIO = 60.0


def _ratio(log_prob: Array, old_log_prob: Array) -> Array:
    return jnp.exp(jnp.minimum(log_prob - old_log_prob, _LARGEST_LOG_RATIO))


def normalize_advantage(advantage: Array) -> Array:
    """(A - mean) / max(std, 1e-6) over the minibatch [B], with the biased standard deviation."""
    return (advantage - advantage.mean()) / jnp.maximum(advantage.std(), 1e-6)


def ppo_clip(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """PPO-Clip loss (Schulman et al. 2017, arXiv 1707.06347, eq. 7), a scalar to minimise.

        -E[min(r A, clip(r, 1 - eps, 1 + eps) A)],   r = exp(log_prob - old_log_prob)

    All arrays are [B]; the advantage is used as it is (normalise it before).
    """
    ratio = _ratio(log_prob, old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


def clip_fraction(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """Share of the samples [B] on which the clipped branch is strictly the smaller one, so that their gradient is 0."""
    ratio = _ratio(log_prob, old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return (clipped * advantage < ratio * advantage).mean()


def value_loss(value: Array, target: Array) -> Array:
    """Mean squared error of values [B] against their targets [B], without clipping; not halved."""
    return jnp.square(value - target).mean()


def pfo(pre_activation: Array, old_pre_activation: Array) -> Array:
    """Proximal Feature Optimization: E ||phi_new(s) - phi_old(s)||^2 / D, for pre-activations [B, D].

    The mean over samples *and* dimensions, as in the reference implementation of "No Representation, No Trust"
    (arXiv 2405.00662); the paper writes the squared L2 norm, D times as large.
    """
    return jnp.square(pre_activation - old_pre_activation).mean()


def pfo_cosine(pre_activation: Array, old_pre_activation: Array) -> Array:
    """PFO with cosine distance: E[1 - cos(phi_new(s), phi_old(s))], for pre-activations [B, D].

    A sample whose pre-activations are all 0 counts as cosine 0 and gives no gradient.
    """
    product = jnp.sum(pre_activation * old_pre_activation, axis=-1)
    squares = jnp.sum(pre_activation**2, axis=-1) * jnp.sum(old_pre_activation**2, axis=-1)
    is_defined = squares > 0
    # The inner `where` keeps the gradient of the square root finite at 0.
    return 1.0 - jnp.where(is_defined, product / jnp.sqrt(jnp.where(is_defined, squares, 1.0)), 0.0).mean()
