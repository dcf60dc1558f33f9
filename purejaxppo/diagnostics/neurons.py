"""Units and their statistics: dead neurons, norms, means and deviations of features, diversity of the policy.

Variances and standard deviations divide by n - 1, here and in all diagnostics, as the reference implementation's do.
Mathematics over rows (one sample each) is kept apart from means over samples, so that a diagnosis reads each matrix
only a few times.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.errors import ConfigError

Array = jax.Array

_DEAD_TANH_STD = 1e-3
_DEAD_ACTIVATIONS = ("relu", "gelu", "leaky_relu", "tanh")


@struct.dataclass(kw_only=True)
class RowMoments:
    """Of each row of features [..., N, D]: squared L2 norm, mean and variance over dimensions; each [..., N]."""

    square: Array
    mean: Array
    variance: Array


@struct.dataclass(kw_only=True)
class FeatureStatistics:
    """Means over samples of the L2 norm, and of mean and standard deviation over dimensions; each [...]."""

    norm: Array
    mean: Array
    std: Array


def dead_neurons(features: Array, activation: str) -> Array:
    """Number [...] (int32) of dead units among post-activations [..., N, D].

    Dead means, for relu and gelu: 0 on every sample; leaky_relu: < 0 on every sample; tanh: standard deviation over
    samples < 1e-3 (the reference implementation's rules). A unit with a NaN is not counted.
    Raises ConfigError for another activation.
    """
    if activation not in _DEAD_ACTIVATIONS:
        raise ConfigError(f"activation is {activation!r}, but must be one of {sorted(_DEAD_ACTIVATIONS)}.")
    if activation == "tanh":
        is_dead = mean_and_variance(features, axis=-2)[1] < _DEAD_TANH_STD**2
    elif activation == "leaky_relu":
        is_dead = features.max(axis=-2) < 0
    else:
        is_dead = (features == 0).all(axis=-2)
    return is_dead.sum(axis=-1, dtype=jnp.int32)


def feature_statistics(features: Array) -> FeatureStatistics:
    """Norm, mean and deviation of features [..., N, D]; fields are defined in `FeatureStatistics`."""
    return mean_over_samples(row_moments(features))


def row_moments(features: Array) -> RowMoments:
    """Moments of each row of features [..., N, D]; fields are defined in `RowMoments`."""
    mean, variance = mean_and_variance(features, axis=-1)
    return RowMoments(square=squared_norm(features), mean=mean, variance=variance)


def mean_over_samples(rows: RowMoments) -> FeatureStatistics:
    """`feature_statistics` from the moments [..., N] of the rows."""
    return FeatureStatistics(
        norm=jnp.sqrt(rows.square).mean(axis=-1),
        mean=rows.mean.mean(axis=-1),
        std=jnp.sqrt(rows.variance).mean(axis=-1),
    )


def joint_norm(layers: Sequence[Array]) -> Array:
    """Mean over samples [...] of the L2 norm of all `layers` [..., N, D_l] side by side."""
    return jnp.sqrt(sum_over_layers([squared_norm(layer) for layer in layers])).mean(axis=-1)


def policy_variance(*moments: Array) -> Array:
    """Variance across the N states of each of `moments` [..., N, A], averaged ("action diversity" of the paper).

    Pass the probabilities of a categorical policy, or loc and scale of a continuous one.
    """
    return mean_and_variance(jnp.concatenate(moments, axis=-1), axis=-2)[1].mean(axis=-1)


def squared_norm(x: Array) -> Array:
    """Squared L2 norm [..., N] of the rows of x [..., N, D]."""
    return jnp.square(x).sum(axis=-1)


def sum_over_layers(parts: Sequence[Array]) -> Array:
    """Sum of equally shaped arrays."""
    return sum(parts[1:], start=parts[0])


def mean_and_variance(x: Array, axis: int) -> tuple[Array, Array]:
    """Mean and unbiased variance along `axis`; the variance of a single value is NaN.

    One pass over the differences to the first value: deviations of 1e-3 around 1e3 come out right in float32, and as
    the first value takes part in the variance, rounding is amplified n-fold at worst.
    """
    count = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    difference = x - first
    total = difference.sum(axis=axis)
    squares = jnp.square(difference).sum(axis=axis) - jnp.square(total) / count
    mean = first.squeeze(axis) + total / count
    return mean, jnp.maximum(squares, 0) / (count - 1) if count > 1 else jnp.full_like(mean, jnp.nan)
