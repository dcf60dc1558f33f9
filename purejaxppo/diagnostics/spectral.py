"""Singular values of feature matrices, the five rank measures of the paper built on them, and weights' spectral norms.

Notation: F is N samples x D dimensions, sigma_1 >= sigma_2 >= ... its min(N, D) singular values. Neither rows nor
columns are centred or normalised: the definitions don't.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.diagnostics import routes
from purejaxppo.errors import ConfigError

Array = jax.Array

_TAIL = 0.01  # the share of the spectrum that PCA rank and srank may leave out: 1 - 0.99
# Partial sums this close to the threshold count as having reached it. Geometric spectra can meet 0.99 exactly; float32
# rounding (some 1e-8 there) would otherwise decide.
_TIE = 1e-7
_FEATURE_RANK_CUTOFF = 0.01
# The rank measures, and the other measures of a spectrum, by the names that they have among the metrics.
RANKS = ("rank", "effective_rank", "srank", "feature_rank", "numerical_rank")
SINGULAR_VALUES = ("sigma_1", "sigma_2", "sigma_min", "participation_ratio", "condition_number")
# G^(2^11) tells eigenvalues apart that differ by a thousandth: with k <= 512 of them, however close together, the mean
# eigenvalue that it weights is low by at most W((k - 1) / e) / 2^11 < 0.2 %, the spectral norm by half of that.
_NUM_SQUARINGS = 11


@struct.dataclass(kw_only=True)
class SpectralMeasures:
    """Spectrum of feature matrices [..., N, D] and what is read off it; K = min(N, D).

    All floats, ranks too, so that a matrix with a non-finite entry can say NaN in every field.

    singular_values: [..., K], descending.
    effective_rank: [...], exp(H(p)) with p_i = sigma_i / sum sigma and 0 log 0 = 0 (Roy & Vetterli 2007).
    approximate_rank: [...], least k with sum_{i<=k} sigma_i^2 >= 0.99 sum sigma_i^2 (PCA; Yang et al. 2020).
    srank: [...], least k with sum_{i<=k} sigma_i >= 0.99 sum sigma_i (Kumar et al. 2021).
    feature_rank: [...], #{i : sigma_i / sqrt(N) > 0.01} (Lyle et al. 2022).
    numerical_rank: [...], #{i : sigma_i > sigma_1 max(N, D) eps}, eps of float32.
    sigma_1, sigma_2, sigma_min: [...], first, second and last singular value / sqrt(N); sigma_2 is 0 where K = 1.
    participation_ratio: [...], (sum sigma^2)^2 / sum sigma^4: K for equal singular values, 1 for rank one.
    condition_number: [...], sigma_1 / sigma_K; inf where sigma_K <= eps sigma_1, which float32 cannot tell from 0.

    A matrix of zeros gives 1 for the first three ranks, as k starts at 1 and p is taken as 0, 0 for the other two, 1
    for the participation ratio and inf for the condition number.
    """

    singular_values: Array
    effective_rank: Array
    approximate_rank: Array
    srank: Array
    feature_rank: Array
    numerical_rank: Array
    sigma_1: Array
    sigma_2: Array
    sigma_min: Array
    participation_ratio: Array
    condition_number: Array


def spectral_measures(features: Array, *, method: str | None = None) -> SpectralMeasures:
    """Spectrum and rank measures of features [..., N, D]; fields are defined in `SpectralMeasures`.

    Raises ConfigError for fewer than two axes, an empty matrix or an unknown method; see `singular_values`.
    """
    sigma = singular_values(features, method=method)
    return measures_of_spectrum(sigma, num_samples=features.shape[-2], num_dimensions=features.shape[-1])


def singular_values(matrices: Array, *, method: str | None = None) -> Array:
    """Singular values [..., min(N, D)] of matrices [..., N, D], descending; float32, NaN for non-finite matrices.

    By `method` "gram" or "qr", or by the platform's; `routes` says which that is, and how accurate each is.
    Raises ConfigError for fewer than two axes, an empty matrix or an unknown method.
    """
    if method not in (None, "gram", "qr"):
        raise ConfigError(f"method is {method!r}, but must be 'gram', 'qr' or None.")
    matrices = jnp.asarray(matrices)
    if matrices.ndim < 2 or 0 in matrices.shape:
        raise ConfigError(f"features has shape {list(matrices.shape)}, but must be [..., N, D] with no empty axis.")
    matrices = matrices.astype("float32")
    sigma = jax.vmap(lambda x: routes.singular_values(x, method))(matrices.reshape(-1, *matrices.shape[-2:]))
    return sigma.reshape(*matrices.shape[:-2], -1)


def measures_of_spectrum(sigma: Array, *, num_samples: int, num_dimensions: int) -> SpectralMeasures:
    """Measures from the descending singular values [..., K] of matrices with N = num_samples, D = num_dimensions."""
    largest = sigma[..., :1]
    scaled = sigma / jnp.where(largest == 0, 1, largest)  # in [0, 1]: squares neither overflow nor underflow
    total = scaled.sum(axis=-1, keepdims=True)
    share = scaled / jnp.where(total == 0, 1, total)
    squares = jnp.square(scaled)
    square_total, quartic_total = squares.sum(axis=-1), jnp.square(squares).sum(axis=-1)
    per_root_sample = sigma / num_samples**0.5
    eps = jnp.finfo(sigma.dtype).eps
    is_singular = sigma[..., -1] <= eps * sigma[..., 0]
    counted = jnp.stack(
        [
            _left_out(squares) > _TAIL + _TIE,
            _left_out(scaled) > _TAIL + _TIE,
            per_root_sample > _FEATURE_RANK_CUTOFF,
            sigma > largest * (max(num_samples, num_dimensions) * eps),
        ]
    )
    counts = jnp.where(jnp.isnan(sigma[None]), jnp.nan, counted.astype(sigma.dtype)).sum(axis=-1)
    return SpectralMeasures(
        singular_values=sigma,
        effective_rank=jnp.exp(-jax.scipy.special.xlogy(share, share).sum(axis=-1)),
        approximate_rank=jnp.maximum(counts[0], 1),
        srank=jnp.maximum(counts[1], 1),
        feature_rank=counts[2],
        numerical_rank=counts[3],
        sigma_1=per_root_sample[..., 0],
        sigma_2=per_root_sample[..., 1] if sigma.shape[-1] > 1 else jnp.zeros_like(per_root_sample[..., 0]),
        sigma_min=per_root_sample[..., -1],
        participation_ratio=jnp.where(
            square_total == 0, 1, jnp.square(square_total) / jnp.where(square_total == 0, 1, quartic_total)
        ),
        condition_number=jnp.where(is_singular, jnp.inf, sigma[..., 0] / jnp.where(is_singular, 1, sigma[..., -1])),
    )


def _left_out(weights: Array) -> Array:
    """Share of sum_i w_i that the first k leave out, for k = 0 .. K - 1, of descending weights [..., K].

    The least k with sum_{i<=k} w_i >= 0.99 sum_i w_i is the number of k that leave out more than 0.01. Counted so,
    because sums of the small weights are a hundred times more accurate in float32 than partial sums close to the total.
    """
    size = weights.shape[-1]
    # As a product with a triangle of ones: XLA compiles that faster than a cumulative sum.
    tails = jnp.matmul(weights, jnp.tri(size, dtype=weights.dtype), precision=jax.lax.Precision.HIGHEST)
    total = tails[..., :1]
    return tails / jnp.where(total == 0, 1, total)


def spectral_norms(matrices: Sequence[Array]) -> Array:
    """Largest singular values [L] of L matrices [M_l, N_l], to 1e-3 relative up to 512 rows or columns; NaN for NaN.

    With G the smaller of W W^T and W^T W: sigma_1^2 = tr(G G^p) / tr(G^p), p = 2^11, which needs no start vector, no
    LAPACK and no spectral gap, and is never too large.
    """
    scales = [jnp.abs(x).max() for x in matrices]
    scaled = [x / jnp.where(scale == 0, 1, scale) for x, scale in zip(matrices, scales, strict=True)]
    grams = [_product(x, x.T) if x.shape[0] <= x.shape[1] else _product(x.T, x) for x in scaled]

    def square(_: Array, powers: list[Array]) -> list[Array]:
        return [_over_trace(_product(x, x)) for x in powers]

    powers = jax.lax.fori_loop(0, _NUM_SQUARINGS, square, [_over_trace(x) for x in grams])
    squares = jnp.stack([(gram * power).sum() for gram, power in zip(grams, powers, strict=True)])
    return jnp.stack(scales) * jnp.sqrt(squares)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _over_trace(x: Array) -> Array:
    trace = jnp.trace(x)
    return x / jnp.where(trace == 0, 1, trace)
