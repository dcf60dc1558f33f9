"""What features know about a target, and what the critic does: linear probe and explained variance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo import blas
from purejaxppo.diagnostics.neurons import variance

Array = jax.Array

# A unit adds nothing where the others explain all but this share of its norm: a hundred roundings of float32.
_CUTOFF = 100 * 2.0**-23
_UNROLL = 4  # a step is a few microseconds on a CPU, of which the loop itself would be a good part


def probe_r2(features: Array, target: Array) -> Array:
    """R^2 [] of the ordinary least squares fit of target [N] by features [N, D] and an intercept.

    The share of the target's variance that a linear probe explains, in the sample; NaN for a constant target. Computed
    by orthogonalisation with pivoting, so that dead and collinear units add nothing: units count as far as the others
    leave more than 1e-5 of their norm (after centring). As in every regression, N noisy samples of D independent
    features give D / N on average where there is nothing to explain.
    """
    ones = jnp.ones((features.shape[0], 1), features.dtype)
    # Minus the mean, which keeps the rounding of a large one out of the regression.
    augmented = jnp.concatenate([ones, features - features.mean(axis=0)[None], centred(target)[:, None]], axis=1)
    # At least as tall as wide: rows of zeros change nothing.
    augmented = jnp.pad(augmented, [(0, max(augmented.shape[1] - augmented.shape[0], 0)), (0, 0)])
    return r2_of_factor(_factor(augmented))


@blas.one_at_a_time
def _factor(augmented: Array) -> Array:
    return jnp.linalg.qr(augmented, mode="r")


def centred(target: Array) -> Array:
    """Target [N] minus its mean, within [-1, 1]; exactly 0 for a constant one."""
    difference = target - target[:1]
    difference = difference - difference.mean()
    largest = jnp.abs(difference).max()
    return difference / jnp.where(largest == 0, 1, largest)


def r2_of_factor(factor: Array) -> Array:
    """`probe_r2` [] from R [D + 2, D + 2] of [1 | F - mean | target] = Q R.

    R without its first row, which is the mean's, holds the centred columns in an orthonormal basis. Modified
    Gram-Schmidt takes out of all of them, target included, the direction of the unit of which most is left.
    """
    columns = factor[:, 1:]
    scale = jnp.abs(columns).max(axis=0)
    columns = columns / jnp.where(scale == 0, 1, scale)[None, :]
    norm = jnp.sqrt(jnp.square(columns).sum(axis=0))
    columns = (columns / jnp.where(norm == 0, 1, norm)[None, :])[1:]  # of norm 1 before the mean's row goes
    total = jnp.square(columns[:, -1]).sum()

    def take_out_one(_: Array, left: Array) -> Array:
        squares = jnp.square(left).sum(axis=0)[:-1]
        pivot = jnp.argmax(squares)
        is_new = squares[pivot] > _CUTOFF**2
        direction = jnp.where(is_new, left[:, pivot] * jax.lax.rsqrt(squares[pivot]), 0)
        along = jnp.matmul(direction, left, precision=jax.lax.Precision.HIGHEST)
        return left - direction[:, None] * along[None, :]

    left = jax.lax.fori_loop(0, columns.shape[1] - 1, take_out_one, columns, unroll=_UNROLL)
    return 1 - jnp.square(left[:, -1]).sum() / total


def explained_variance(target: Array, value: Array) -> Array:
    """1 - var(target - value) / var(target) [...] of target and value [..., N]; NaN for a constant target.

    1 for a perfect critic, 0 for a constant one, negative for one that is worse than that.
    """
    total = variance(target, axis=-1)
    return 1 - variance(target - value, axis=-1) / jnp.where(total == 0, jnp.nan, total)
