"""Units and their statistics: dead and dormant neurons, norms, deviations and collinearity of features, diversity.

Variances and standard deviations divide by n - 1, here and in all diagnostics, as the reference implementation's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.errors import ConfigError

Array = jax.Array

_DEAD_TANH_STD = 1e-3
_DORMANT_SHARE = 0.025  # tau of Sokar et al. 2023
_DEAD_ACTIVATIONS = ("relu", "gelu", "leaky_relu", "tanh")


@struct.dataclass(kw_only=True)
class FeatureStatistics:
    """Means over samples of the L2 norm, and of mean and standard deviation over dimensions; each [...]."""

    norm: Array
    mean: Array
    std: Array


def dead_neurons(features: Array, activation: str) -> Array:
    """Number [...] (float32) of dead units among post-activations [..., N, D]; NaN where any of these is NaN.

    Dead means, for relu and gelu: 0 on every sample; leaky_relu: < 0 on every sample; tanh: standard deviation over
    samples < 1e-3 (the reference implementation's rules).
    Raises ConfigError for another activation.
    """
    count = is_dead(features, activation).sum(axis=-1, dtype=jnp.float32)
    return jnp.where(jnp.isnan(features.max(axis=-2)).any(axis=-1), jnp.nan, count)  # that maximum is taken anyway


def is_dead(features: Array, activation: str) -> Array:
    """Which units [..., D] are dead; see `dead_neurons`."""
    if activation not in _DEAD_ACTIVATIONS:
        raise ConfigError(f"activation is {activation!r}, but must be one of {sorted(_DEAD_ACTIVATIONS)}.")
    if activation == "tanh":
        return variance(features, axis=-2) < _DEAD_TANH_STD**2
    if activation == "leaky_relu":
        return features.max(axis=-2) < 0
    return (features.max(axis=-2) == 0) & (features.min(axis=-2) == 0)


def dormant_neurons(features: Array) -> Array:
    """Number [...] (int32) of dormant units among post-activations [..., N, D] (Sokar et al. 2023, arXiv 2302.12902).

    Dormant means: mean |activation| over samples at most 0.025 times the layer's mean of that; in a layer of zeros, all
    are. 0 for a layer with a NaN.
    """
    return is_dormant(features).sum(axis=-1, dtype=jnp.int32)


def always_active_neurons(preactivations: Array) -> Array:
    """Number [...] (int32) of units whose pre-activations [..., N, D] are positive on every sample.

    Of relu and leaky_relu units these are "linearised": on this data they compute a linear function of the layer before
    (Lyle et al. 2024, arXiv 2402.18762). 0 for a layer of NaN.
    """
    return (preactivations.min(axis=-2) > 0).sum(axis=-1, dtype=jnp.int32)


def is_dormant(features: Array) -> Array:
    """Which units [..., D] are dormant; see `dormant_neurons`."""
    activity = jnp.abs(features).mean(axis=-2)
    return activity <= _DORMANT_SHARE * activity.mean(axis=-1, keepdims=True)


def collinearity(features: Array) -> Array:
    """Mean cosine similarity [...] of all N^2 pairs of rows of features [..., N, D]: |sum_n f_n / |f_n||^2 / N^2.

    1 where all samples' features point the same way, 1 / N at least without zeros where they are orthogonal; a row of
    zeros has similarity 0 with every row.
    """
    square = squared_norm(features)
    weight = jnp.where(square == 0, 0, jax.lax.rsqrt(jnp.where(square == 0, 1, square)))
    total = jnp.matmul(weight[..., None, :], features, precision=jax.lax.Precision.HIGHEST)[..., 0, :]
    return squared_norm(total / features.shape[-2])


def feature_statistics(features: Array) -> FeatureStatistics:
    """Norm, mean and deviation of features [..., N, D]; fields are defined in `FeatureStatistics`."""
    total, square = features.sum(axis=-1), squared_norm(features)
    return FeatureStatistics(
        norm=jnp.sqrt(square).mean(axis=-1),
        mean=total.mean(axis=-1) / features.shape[-1],
        std=deviation_of_rows(total, square, features.shape[-1]).mean(axis=-1),
    )


def joint_norm(layers: Sequence[Array]) -> Array:
    """Mean over samples [...] of the L2 norm of all `layers` [..., N, D_l] side by side."""
    return jnp.sqrt(sum_over_layers([squared_norm(layer) for layer in layers])).mean(axis=-1)


def policy_variance(*moments: Array) -> Array:
    """Variance across the N states of each of `moments` [..., N, A], averaged ("action diversity" of the paper).

    Pass the probabilities of a categorical policy, or loc and scale of a continuous one.
    """
    return variance(jnp.concatenate(moments, axis=-1), axis=-2).mean(axis=-1)


def squared_norm(x: Array) -> Array:
    """Squared L2 norm [..., N] of the rows of x [..., N, D]."""
    return jnp.square(x).sum(axis=-1)


def deviation_of_rows(total: Array, square: Array, num_dimensions: Array | int) -> Array:
    """Standard deviation of rows of D numbers from their sums and sums of squares [...]; NaN for D = 1.

    From sums, because they are read off large matrices without writing a centred copy of them; the price is accuracy
    where a row's mean is a hundred times its deviation, which features of a network never come near.
    """
    squares = jnp.maximum(square - jnp.square(total) / num_dimensions, 0)
    return jnp.sqrt(squares / (num_dimensions - 1))


def sum_over_layers(parts: Sequence[Array]) -> Array:
    """Sum of equally shaped arrays."""
    return sum(parts[1:], start=parts[0])


def variance(x: Array, axis: int) -> Array:
    """Unbiased variance along `axis`; NaN where there is only one value.

    From differences to the first value: deviations of 1e-3 around 1e3 come out right in float32, and as the first
    value takes part in the variance, rounding is amplified n-fold at worst.
    """
    count = x.shape[axis]
    difference = x - jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    squares = jnp.square(difference).sum(axis=axis) - jnp.square(difference.sum(axis=axis)) / count
    return jnp.maximum(squares, 0) / (count - 1) if count > 1 else jnp.full_like(squares, jnp.nan)
