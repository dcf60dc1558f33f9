"""What features know about a target, and what the critic does: linear probe and explained variance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo.diagnostics import routes
from purejaxppo.diagnostics.neurons import variance

Array = jax.Array


def probe_r2(features: Array, target: Array) -> Array:
    """R^2 [] of the ordinary least squares fit of target [N] by features [N, D] and an intercept.

    The share of the target's variance that a linear probe explains, in the sample; NaN for a constant target. Dead and
    collinear units add nothing: units count as far as the others leave more than 1e-6 of their norm after centring
    (1e-3 on a TPU, see `routes`). As in every regression, N noisy samples of D independent features give D / N on
    average where there is nothing to explain.
    """
    return routes.regression_r2(features, centred(target))


def centred(target: Array) -> Array:
    """Target [N] minus its mean, within [-1, 1]; exactly 0 for a constant one."""
    difference = target - target[:1]
    difference = difference - difference.mean()
    largest = jnp.abs(difference).max()
    return difference / jnp.where(largest == 0, 1, largest)


def explained_variance(target: Array, value: Array) -> Array:
    """1 - var(target - value) / var(target) [...] of target and value [..., N]; NaN for a constant target.

    1 for a perfect critic, 0 for a constant one, negative for one that is worse than that.
    """
    total = variance(target, axis=-1)
    return 1 - variance(target - value, axis=-1) / jnp.where(total == 0, jnp.nan, total)
