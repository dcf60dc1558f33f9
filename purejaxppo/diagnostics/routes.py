"""From a matrix to its singular values and to a regression's R^2: which route on which platform, and why.

gram: the Gram matrix in float64, of float32 features; its eigenvalues, and for the regression its Cholesky factor. A
    Gram matrix squares the condition number, but float64 has digits to spare: singular values are right to about 1e-8
    of the largest, better than float32 features know them. On a GPU products, `syevd`, `potrf` and triangular solves
    take the matrices of all runs in one call each, where jaxlib loops over a batch of SVDs or large QRs on the host. On
    a CPU, where a LAPACK call takes one matrix anyway, it is the quicker route for tall matrices: see `_TALL`.
qr: QR in float32 and the SVD of R, backward stable like the SVD of the matrix itself: singular values are right to some
    1e-7 of the largest. Quicker for other matrices on a CPU, and the one for a TPU, whose compiler has units for it and
    no float64.
A TPU's regression is by the Gram matrix in float32, of features that are centred and scaled, and its eigenvectors: it
tells units apart that differ by more than a thousandth of their norm, where float64 does so by a millionth.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo import blas

Array = jax.Array

# Rows a column from which on a CPU the Gram matrix is the quicker route. Measured on one core of a Xeon, ms by qr and
# gram: 512 x 64 0.31 and 0.39, 1024 x 64 0.47 and 0.53, 2048 x 64 0.81 and 0.85, 2048 x 128 4.1 and 4.3, 4096 x 128
# 9.8 and 6.8, 8192 x 64 5.3 and 2.7, 8192 x 128 23 and 9.3, 4096 x 256 29 and 22, 1024 x 512 21 and 41.
_TALL = 32
# The same where the regression needs the Gram matrix anyway: 1024 x 64 1.15 by qr and then gram, 0.75 by gram alone.
_TALL_WITH_R2 = 16
_ROWS = {True: 256, False: 2048}  # converted to float64 at a time, on a CPU: what its cache holds, and elsewhere
_TINY = 1e-14  # of a unit's squares, the share of its variance up to which it counts as constant: float32 rounding
_FLOOR = {"float64": 1e-12, "float32": 1e-6}  # the share of a unit's variance up to which it adds nothing


def singular_values(matrix: Array, route: str | None = None) -> Array:
    """Singular values [min(N, D)], descending, float32, of a matrix [N, D]; NaN where it is not finite.

    By the platform's route, or by the one that is named.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram, qr = _singular_values_by_gram, _singular_values_by_qr
    if route is not None:
        return blas.by_platform(cpu={"gram": gram, "qr": qr}[route])(tall)
    return blas.by_platform(cpu=gram if _is_tall(tall) else qr, default=gram, tpu=qr)(tall)


def regression_r2(features: Array, target: Array, route: str | None = None) -> Array:
    """R^2 [] of the least squares fit of target [N] by features [N, D] and an intercept; see `probe.probe_r2`.

    By the platform's route, or by the one that is named: "gram", or "gram32", a TPU's.
    """
    gram, gram32 = _r2_by_gram, _r2_by_gram32
    if route is not None:
        return blas.by_platform(cpu={"gram": gram, "gram32": gram32}[route])(features, target)
    return blas.by_platform(cpu=gram, tpu=gram32)(features, target)


def singular_values_and_r2(features: Array, target: Array) -> tuple[Array, Array]:
    """Both of features [N, D], by the platform's routes; where both are by a Gram matrix, it is computed once."""
    if features.shape[0] < features.shape[1]:  # the smaller Gram matrix has the singular values, the other the R^2
        return singular_values(features), regression_r2(features, target)

    on_cpu = _both_by_gram if _is_tall(features, _TALL_WITH_R2) else _both_by_qr
    return blas.by_platform(cpu=on_cpu, default=_both_by_gram, tpu=_both_on_tpu)(features, target)


def _both_by_gram(tall: Array, target: Array) -> tuple[Array, Array]:
    with jax.enable_x64(True):
        gram, mean = _gram_about_mean(tall, target)
        moments, sums, num_samples = gram[:-2, :-2], gram[-1, :-2], gram[-1, -1]
        cross = jnp.outer(sums + num_samples / 2 * mean, mean)
        return _roots(moments + cross + cross.T), _r2_by_cholesky(gram, mean)


def _both_by_qr(tall: Array, target: Array) -> tuple[Array, Array]:
    return _singular_values_by_qr(tall), _r2_by_gram(tall, target)


def _both_on_tpu(tall: Array, target: Array) -> tuple[Array, Array]:
    return _singular_values_by_qr(tall), _r2_by_gram32(tall, target)


def _is_tall(matrix: Array, rows_a_column: int = _TALL) -> bool:
    return matrix.shape[0] >= rows_a_column * matrix.shape[1]


def _gram(matrix: Array, shift: Array) -> Array:
    """(M - 1 shift^T)^T (M - 1 shift^T) [K, K] of M [N, K], in the type of the shift [K].

    Some rows at a time, as a copy of all of them in float64 would be large.
    """
    rows, size = _ROWS[blas.is_cpu()], matrix.shape[-1]
    whole = matrix.shape[0] // rows * rows

    def add(gram: Array, block: Array) -> tuple[Array, None]:
        block = block.astype(shift.dtype) - shift[None]
        # (jnp.matmul would name float64 to those who map this, and they may not know it.)
        return gram + jax.lax.dot_general(block, block, (((0,), (0,)), ((), ())), jax.lax.Precision.HIGHEST), None

    gram = jnp.zeros((size, size), shift.dtype)
    if whole:
        gram, _ = jax.lax.scan(add, gram, matrix[:whole].reshape(-1, rows, size))
    return add(gram, matrix[whole:])[0] if whole < matrix.shape[0] else gram


def _singular_values_by_gram(tall: Array) -> Array:
    with jax.enable_x64(True):
        return _roots(_gram(tall, jnp.zeros(tall.shape[-1], "float64")))


def _roots(gram: Array) -> Array:
    """Roots of the eigenvalues, descending, float32; NaN for a Gram matrix that is not finite."""
    is_finite = jnp.isfinite(gram).all()
    eigenvalues = jnp.linalg.eigvalsh(jnp.where(is_finite, gram, 0))  # whose iterations need not end on NaN
    roots = jnp.sqrt(jnp.maximum(eigenvalues[::-1], 0))
    return jnp.where(is_finite, roots, jnp.nan).astype("float32")


def _singular_values_by_qr(tall: Array) -> Array:
    """R, not F, is tested for non-finite values: they always spread to it, and it is smaller."""
    r = jnp.linalg.qr(tall, mode="r")
    is_finite = jnp.isfinite(r).all()
    sigma = jax.lax.linalg.svd(jnp.where(is_finite, r, 0), full_matrices=False, compute_uv=False)
    return jnp.where(is_finite, sigma, jnp.nan)


def _r2_by_gram(features: Array, target: Array) -> Array:
    with jax.enable_x64(True):
        return _r2_by_cholesky(*_gram_about_mean(features, target))


def _r2_by_gram32(features: Array, target: Array) -> Array:
    """By eigenvalues, where rounding leaves some of collapsed features below 0 and a Cholesky factor would be NaN."""
    largest = jnp.abs(features - features.mean(axis=0)[None]).max(axis=0)  # float32 squares overflow early
    features = features / jnp.where(largest == 0, 1, largest)[None]
    correlations, with_target, total = _correlations(*_gram_about_mean(features, target, "float32"))
    is_finite = jnp.isfinite(correlations).all()
    eigenvalues, vectors = jnp.linalg.eigh(jnp.where(is_finite, correlations, 0))
    explained = jnp.square(jnp.matmul(with_target, vectors, precision=jax.lax.Precision.HIGHEST))
    r2 = (explained / (jnp.maximum(eigenvalues, 0) + _FLOOR["float32"])).sum() / total
    return jnp.where(is_finite, r2, jnp.nan)


def _gram_about_mean(features: Array, target: Array, dtype: str = "float64") -> tuple[Array, Array]:
    """Gram matrix [D + 2, D + 2] of [features - mean | target | 1], and that mean [D], in another type."""
    mean = features.mean(axis=0).astype(dtype)
    shift = jnp.concatenate([mean, jnp.zeros(2, dtype)])
    return _gram(jnp.concatenate([features, target[:, None], jnp.ones_like(target)[:, None]], axis=1), shift), mean


def _r2_by_cholesky(gram: Array, mean: Array) -> Array:
    """R^2 [], float32, from what `_gram_about_mean` gives in float64: ||L^-1 b||^2 with L L^T = C + floor I."""
    correlations, with_target, total = _correlations(gram, mean)
    factor = jnp.linalg.cholesky(correlations + _FLOOR["float64"] * jnp.eye(len(mean), dtype=gram.dtype))
    explained = jax.scipy.linalg.solve_triangular(factor, with_target, lower=True)
    return (jnp.square(explained).sum() / total).astype("float32")


def _correlations(gram: Array, mean: Array) -> tuple[Array, Array, Array]:
    """Correlations C [D, D] of the units, b [D] of units and target times its norm, and that norm's square [].

    From what `_gram_about_mean` gives; rows of constant units are 0. R^2 is b^T (C + floor I)^-1 b over the square: a
    unit counts as far as the others leave more than the root of `floor` of its norm, and adds nothing where they leave
    less.
    """
    num_samples, sums = gram[-1, -1], gram[-1, :-1]  # small sums: what the mean's rounding left
    covariance = gram[:-1, :-1] - jnp.outer(sums, sums) / num_samples
    squares = jnp.diagonal(covariance)[:-1]
    is_unit = squares > _TINY * (squares + num_samples * jnp.square(mean))
    scale = jnp.where(is_unit, jax.lax.rsqrt(jnp.where(is_unit, squares, 1)), 0)
    correlations = covariance[:-1, :-1] * scale[:, None] * scale[None, :]
    return correlations, covariance[:-1, -1] * scale, covariance[-1, -1]
