"""How far an update moved the policy and its representation: ratios, KL estimators, drift. After against before."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from purejaxppo.diagnostics.neurons import squared_norm, sum_over_layers

Array = jax.Array

RATIO_SUBSETS = ("", "_above", "_below")
RATIO_STATISTICS = ("mean", "std", "min", "max")
_COSINE_FLOOR = 1e-8  # norms below it count as this, so the cosine with a zero vector is 0 (PyTorch's convention)


def kl_k1(log_ratio: Array) -> Array:
    """KL(old || new) estimated by the mean of -log r, r = new / old on the old policy's actions; log_ratio [..., N]."""
    return -log_ratio.mean(axis=-1)


def kl_k3(log_ratio: Array) -> Array:
    """KL(old || new) estimated by the mean of r - 1 - log r (Schulman 2020), never negative; log_ratio [..., N]."""
    return k3_terms(log_ratio).mean(axis=-1)


def k3_terms(log_ratio: Array) -> Array:
    """r - 1 - log r of each sample; close to r = 1 by its series, where the difference would be rounding noise."""
    series = jnp.square(log_ratio) * (0.5 + log_ratio / 6)  # relative error below 1e-5 for |log r| < 0.01
    return jnp.where(jnp.abs(log_ratio) < 0.01, series, jnp.expm1(log_ratio) - log_ratio)


def ratio_statistics(log_ratio: Array, clip_eps: Array | float) -> dict[str, Array]:
    """Statistics of the ratios r = exp(log_ratio [N]): over all samples, above 1 + eps, and below 1 - eps.

    `ratio[_above|_below]_{mean,std,min,max}`, `ratio_{above,below}_fraction` and
    `excess_ratio` = ratio_above_mean / ratio_below_mean. NaN where no sample is outside (std: where fewer than two
    are).
    """
    table, fraction = ratio_table(log_ratio, clip_eps)
    metrics = {
        f"ratio{subset}_{statistic}": table[row, column]
        for row, subset in enumerate(RATIO_SUBSETS)
        for column, statistic in enumerate(RATIO_STATISTICS)
    }
    return metrics | {
        "ratio_above_fraction": fraction[1],
        "ratio_below_fraction": fraction[2],
        "excess_ratio": table[1, 0] / table[2, 0],
    }


def ratio_table(log_ratio: Array, clip_eps: Array | float) -> tuple[Array, Array]:
    """Table [3, 4] of RATIO_SUBSETS x RATIO_STATISTICS of ratios exp(log_ratio [N]), and each subset's share [3].

    Masked reductions of fixed shape: nothing depends on how many samples are outside.
    """
    ratio = jnp.exp(log_ratio)
    masks = jnp.stack([jnp.full(ratio.shape, True), ratio > 1 + clip_eps, ratio < 1 - clip_eps])  # [3, N]
    ratios = jnp.broadcast_to(ratio[None, :], masks.shape)
    count = masks.astype(ratio.dtype).sum(axis=1)
    mean = jnp.where(masks, ratios, 0).sum(axis=1) / count  # 0 / 0 is the NaN of an empty set
    squares = jnp.where(masks, jnp.square(ratios - mean[:, None]), 0).sum(axis=1)
    std = jnp.sqrt(squares / jnp.where(count > 1, count - 1, jnp.nan))
    low = jnp.where(masks, ratios, jnp.inf).min(axis=1)
    high = jnp.where(masks, ratios, -jnp.inf).max(axis=1)
    table = jnp.stack([mean, std, low, high], axis=1)
    return jnp.where((count == 0)[:, None], jnp.nan, table), count / ratio.shape[0]


def drift(before: Array, after: Array) -> tuple[Array, Array]:
    """Mean squared difference [...] and mean cosine similarity over samples [...] of features [..., N, D].

    The cosine with a zero vector counts as 0.
    """
    return joint_drift([before], [after])


def joint_drift(before: Sequence[Array], after: Sequence[Array]) -> tuple[Array, Array]:
    """`drift` of all layers [..., N, D_l] side by side."""
    pairs = list(zip(before, after, strict=True))
    difference = sum_over_layers([squared_norm(a - b) for b, a in pairs])
    cosine = cosine_of_rows(
        sum_over_layers([(b * a).sum(axis=-1) for b, a in pairs]),
        sum_over_layers([squared_norm(b) for b in before]),
        sum_over_layers([squared_norm(a) for a in after]),
    )
    return difference.mean(axis=-1) / sum(b.shape[-1] for b in before), cosine.mean(axis=-1)


def cosine_of_rows(product: Array, square_before: Array, square_after: Array) -> Array:
    """Cosine similarities [...] from scalar products and squared norms [...]; 0 where a norm is."""
    norm_before, norm_after = (jnp.maximum(jnp.sqrt(x), _COSINE_FLOOR) for x in (square_before, square_after))
    return product / norm_before / norm_after  # one norm at a time: their product may underflow
