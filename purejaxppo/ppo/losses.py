"""Losses on one minibatch: pure functions of arrays, each a mean over samples.

Notation of PAPER section 2: r is the probability ratio pi_new / pi_old, A the advantage, phi the pre-activations.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array


# Ratios are computed from log ratios of at most 60: float32's exp overflows at 88, and the gradient of a *clipped*
# sample, which is 0, would become 0 x inf = NaN.
LOG_RATIO_RANGE = (-math.inf, 60.0)
_LARGEST_SQUARED_RATIO = 1e15  # the square, times an advantage, over 2 eps, is still a float32


def probability_ratio(
    log_prob: Array, old_log_prob: Array, log_ratio_range: tuple[float, float] = LOG_RATIO_RANGE
) -> Array:
    """r = exp(log_prob - old_log_prob), the log ratio clamped to a range outside of which there is no gradient."""
    return jnp.exp(jnp.clip(log_prob - old_log_prob, *log_ratio_range))


def normalize_advantage(advantage: Array) -> Array:
    """(A - mean) / max(std, 1e-6) over samples [B], of a minibatch or a rollout, with the biased deviation."""
    return (advantage - advantage.mean()) / jnp.maximum(advantage.std(), 1e-6)


def ppo_clip(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """PPO-Clip loss (Schulman et al. 2017, arXiv 1707.06347, eq. 7), a scalar to minimise.

        -E[min(r A, clip(r, 1 - eps, 1 + eps) A)],   r = exp(log_prob - old_log_prob)

    All arrays are [B]; the advantage is used as it is (normalise it before). Log ratios are clamped from above only, as
    in training on discrete actions; for continuous ones see `distributions.Normal.log_ratio_range`.
    """
    return -clip_surrogate(probability_ratio(log_prob, old_log_prob), advantage, clip_eps).mean()


def clip_surrogate(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """PPO-Clip's objective of each sample [B], to maximise: min(r A, clip(r, 1 - eps, 1 + eps) A)."""
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def spo_surrogate(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """Simple Policy Optimization (Xie et al. 2024, arXiv 2401.16025), of each sample [B], to maximise.

    r A - |A| (r - 1)^2 / (2 eps),   largest at r = 1 + eps sign(A)
    """
    ratio = jnp.minimum(ratio, _LARGEST_SQUARED_RATIO)
    return ratio * advantage - jnp.abs(advantage) * jnp.square(ratio - 1.0) / (2.0 * clip_eps)


def unclipped_surrogate(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """r A of each sample [B], the objective of PPO-KL (arXiv 1707.06347, eq. 8) without its penalty; no clip_eps."""
    del clip_eps
    return ratio * advantage


def dpo_surrogate(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """Discovered Policy Optimisation (Lu et al. 2022, arXiv 2210.05639, section 6.2), of each sample [B], to maximise.

        r A - f,   f = relu(x - alpha tanh(x / alpha)), x = (r - 1) A, alpha = 2     where A >= 0
                   f = relu(y - beta tanh(y / beta)),   y = log(r) A,  beta = 0.6    where A < 0

    No clip_eps: the two constants of the paper take its place.
    """
    del clip_eps
    ratio = jnp.maximum(ratio, jnp.finfo(ratio.dtype).tiny)  # of one that has vanished the logarithm has no gradient
    further, log_further = (ratio - 1.0) * advantage, jnp.log(ratio) * advantage
    drift = jnp.where(advantage >= 0, _beyond_tanh(further, 2.0), _beyond_tanh(log_further, 0.6))
    return ratio * advantage - drift


def _beyond_tanh(x: Array, scale: float) -> Array:
    return jax.nn.relu(x - scale * jnp.tanh(x / scale))


SURROGATES = {"clip": clip_surrogate, "spo": spo_surrogate, "dpo": dpo_surrogate, "unclipped": unclipped_surrogate}


def clip_fraction(ratio: Array, advantage: Array, clip_eps: Array | float) -> Array:
    """Share of the samples [B] on which the clipped branch is strictly the smaller one, so that their gradient is 0."""
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return (clipped * advantage < ratio * advantage).mean()


def value_loss(value: Array, target: Array) -> Array:
    """Mean squared error of values [B] against their targets [B], without clipping; not halved."""
    return jnp.square(value - target).mean()


def clipped_value_loss(value: Array, old_value: Array, target: Array, clip_eps: Array | float) -> Array:
    """PPO2's clipped value loss, a scalar; not halved.

        E[max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)]

    All arrays are [B]; V_old is what the critic said when the rollout was collected. No gradient comes from a sample
    whose value has moved towards its target R by more than eps. CleanRL, OpenAI baselines and purejaxrl halve it: with
    their coefficient `vf_coef` our `value_coef` is half of it. Not in the paper (arXiv 1707.06347); Engstrom et al.
    2020 (arXiv 2005.12729) and Andrychowicz et al. 2021 (arXiv 2006.05990) measured what it does, and found no gain.
    """
    clipped = old_value + jnp.clip(value - old_value, -clip_eps, clip_eps)
    return jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)).mean()


def pfo(pre_activation: Array, old_pre_activation: Array) -> Array:
    """Proximal Feature Optimization: E ||phi_new(s) - phi_old(s)||^2 / D, for pre-activations (or features) [B, D].

    The mean over samples *and* dimensions, as in the reference implementation of "No Representation, No Trust"
    (arXiv 2405.00662); the paper writes the squared L2 norm, D times as large.
    """
    return jnp.square(pre_activation - old_pre_activation).mean()


def pfo_cosine(pre_activation: Array, old_pre_activation: Array) -> Array:
    """PFO with cosine distance: E[1 - cos(phi_new(s), phi_old(s))], for pre-activations (or features) [B, D].

    A sample whose pre-activations are all 0 counts as cosine 0 and gives no gradient.
    """
    return 1.0 - cosine_of_samples(pre_activation, old_pre_activation).mean()


def cosine_of_samples(pre_activation: Array, old_pre_activation: Array) -> Array:
    """cos(phi_new(s), phi_old(s)) of each sample [B], for [B, D]; 0, without gradient, where either is all zeros."""
    product = jnp.sum(pre_activation * old_pre_activation, axis=-1)
    squares = jnp.sum(pre_activation**2, axis=-1) * jnp.sum(old_pre_activation**2, axis=-1)
    is_defined = squares > 0
    # The inner `where` keeps the gradient of the square root finite at 0.
    return jnp.where(is_defined, product / jnp.sqrt(jnp.where(is_defined, squares, 1.0)), 0.0)


def squared_change(pre_activation: Array, old_pre_activation: Array) -> Array:
    """PFO's L2 distance of each sample [B]: ||phi_new(s) - phi_old(s)||^2 / D, for [B, D]."""
    return jnp.square(pre_activation - old_pre_activation).mean(axis=-1)


def cosine_change(pre_activation: Array, old_pre_activation: Array) -> Array:
    """PFO's cosine distance of each sample [B]: 1 - cos(phi_new(s), phi_old(s)), for [B, D]."""
    return 1.0 - cosine_of_samples(pre_activation, old_pre_activation)


# Of each loss term the hyper-parameter that multiplies it: where that is 0 in every run, a program needs no such term.
COEFFICIENTS = {
    "entropy_loss": "entropy_coef",
    "value_loss": "value_coef",
    "pfo_loss": "pfo_coef",
    "critic_pfo_loss": "critic_pfo_coef",
    "weight_spectral_loss": "weight_spectral_coef",
    "feature_spectral_loss": "feature_spectral_coef",
    "critic_feature_spectral_loss": "critic_feature_spectral_coef",
    "l2_init_loss": "l2_init_coef",
    "parseval_loss": "parseval_coef",
}
PFO_PENALTIES = {"l2": pfo, "cosine": pfo_cosine}
PFO_CHANGES = {"l2": squared_change, "cosine": cosine_change}
