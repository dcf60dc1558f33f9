"""Singular values of batches of matrices by several routes: time and accuracy. A piece of gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_programs import Options, is_out_of_memory
from jax.lax.linalg import SvdAlgorithm

from purejaxppo.diagnostics.spectral import measures_of_spectrum, singular_values

Array = jax.Array
LONGEST_CALL = 2.0  # seconds; a batch that is expected to take longer is left out
RANKS = ("approximate_rank", "srank", "feature_rank", "numerical_rank")
_MAX_SWEEPS = 12


def piece(options: Options) -> Iterator[dict[str, Any]]:
    """Of every route and size, accuracy against NumPy in float64, then milliseconds per matrix."""
    known: dict[tuple[str, int, int], float] = {}
    for num_dimensions in (8,) if options.is_tiny else (64, 128, 512):
        yield from accuracy(64 if options.is_tiny else 1024, num_dimensions)
        for num_samples in (64,) if options.is_tiny else (1024, 8192):
            for batch in (2, 4) if options.is_tiny else (8, 64, 512):
                if options.is_over():
                    yield {"D": num_dimensions, "N": num_samples, "matrices": batch, "stopped": "time is up"}
                    return
                yield from times(batch, num_samples, num_dimensions, known)


def routes() -> dict[str, Callable[[Array], Array]]:
    """Every route from matrices [M, N, D], N >= D, to singular values [M, D], descending.

    `product` is what the package uses; `qr_jacobi_loop` is `jacobi_values` of R; `qr_only` computes no singular values:
    it is what all routes by QR have in common.
    """
    found: dict[str, Callable[[Array], Array]] = {
        "product": singular_values,
        "svd": lambda x: jax.lax.linalg.svd(x, full_matrices=False, compute_uv=False),
        "gram": _by_gram,
        "qr_only": _factor,
        "qr_jacobi_loop": lambda x: jacobi_values(_factor(x)),
    }
    for algorithm in SvdAlgorithm:
        found[f"qr_svd_{algorithm.name.lower()}"] = lambda x, algorithm=algorithm: jax.lax.linalg.svd(
            _factor(x), full_matrices=False, compute_uv=False, algorithm=algorithm
        )
    return found


def _factor(matrices: Array) -> Array:
    return jnp.linalg.qr(matrices, mode="r")


def _by_gram(matrices: Array) -> Array:
    gram = jnp.matmul(matrices.mT, matrices, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[..., ::-1], 0))


def jacobi_values(factors: Array) -> Array:
    """Singular values [M, D] of square matrices [M, D, D] by one-sided Jacobi on their rows, D even.

    Plain loops of small operations on all matrices at once: in each round D / 2 disjoint pairs of rows are rotated
    until orthogonal, pairs changing as in a round-robin tournament; sweeps end when no rotation was needed.
    """
    half = factors.shape[-1] // 2
    eps = jnp.finfo(factors.dtype).eps
    smallest = jnp.square(eps * jnp.linalg.norm(factors, axis=(-2, -1)))[:, None]

    def rotate(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        upper, lower, largest = carry
        a, b = jnp.square(upper).sum(axis=-1), jnp.square(lower).sum(axis=-1)
        product = (upper * lower).sum(axis=-1)
        cosine = jnp.abs(product) / jnp.sqrt(jnp.maximum(a * b, jnp.finfo(a.dtype).tiny))
        is_needed = (cosine > eps * half**0.5) & (jnp.abs(product) > smallest)
        zeta = (b - a) / (2 * jnp.where(is_needed, product, 1))
        tangent = jnp.where(zeta >= 0, 1, -1) / (jnp.abs(zeta) + jnp.sqrt(1 + jnp.square(zeta)))
        tangent = jnp.where(is_needed, tangent, 0)[..., None]
        c = 1 / jnp.sqrt(1 + jnp.square(tangent))
        upper, lower = c * (upper - tangent * lower), c * (tangent * upper + lower)
        largest = jnp.maximum(largest, jnp.where(is_needed, cosine, 0).max())
        left = jnp.concatenate([upper[:, :1], lower[:, :1], upper[:, 1:-1]], axis=1)
        right = jnp.concatenate([lower[:, 1:], upper[:, -1:]], axis=1)
        return left, right, largest

    def is_going_on(carry: tuple[Array, Array, Array, Array]) -> Array:
        return (carry[3] < _MAX_SWEEPS) & (carry[2] > 0)

    def sweep(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        upper, lower, _, count = carry
        start = (upper, lower, jnp.zeros((), factors.dtype))
        return (*jax.lax.fori_loop(0, 2 * half - 1, rotate, start), count + 1)

    start = (factors[:, :half], factors[:, half:], jnp.ones((), factors.dtype), jnp.int32(0))
    upper, lower, *_ = jax.lax.while_loop(is_going_on, sweep, start)
    rows = jnp.concatenate([upper, lower], axis=1)
    return jnp.sort(jnp.linalg.norm(rows, axis=-1), axis=-1, descending=True)


def example_matrices(kind: str, num_samples: int, num_dimensions: int, batch: int = 4) -> np.ndarray:
    """Float32 matrices [M, N, D]: normal entries ("well"), rank D / 4 ("deficient"), or of condition 1e6 ("ill")."""
    rng = np.random.default_rng(0)
    tall = rng.standard_normal((batch, num_samples, num_dimensions))
    square = rng.standard_normal((batch, num_dimensions, num_dimensions))
    if kind == "deficient":
        rank = num_dimensions // 4
        tall = tall[..., :rank] @ square[:, :rank]
    elif kind == "ill":
        largest = 1.3 * num_samples**0.5  # no singular value on the threshold of the feature rank
        tall = np.linalg.qr(tall)[0] * np.geomspace(largest, 1e-6 * largest, num_dimensions)
        tall = tall @ np.linalg.qr(square)[0]
    return tall.astype(np.float32)


def accuracy(num_samples: int, num_dimensions: int) -> Iterator[dict[str, Any]]:
    """Of every route and kind of matrix: errors of singular values and effective rank, and wrong integer ranks."""
    for kind in ("well", "deficient", "ill"):
        matrices = example_matrices(kind, num_samples, num_dimensions)
        exact = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
        sizes = {"num_samples": num_samples, "num_dimensions": num_dimensions}
        expected = measures_of_spectrum(jnp.asarray(exact, jnp.float32), **sizes)
        for name, route in routes().items():
            if name == "qr_only":
                continue
            row: dict[str, Any] = {"route": name, "D": num_dimensions, "N": num_samples, "matrix": kind}
            try:
                sigma = jax.block_until_ready(jax.jit(route)(matrices))
            except NotImplementedError:
                yield row | {"stopped": "not implemented on this platform"}
                continue
            found = measures_of_spectrum(sigma, **sizes)
            wrong = {rank: int((getattr(found, rank) != getattr(expected, rank)).sum()) for rank in RANKS}
            ratio = np.asarray(found.effective_rank) / np.asarray(expected.effective_rank)
            yield row | {
                "sigma_error": float((np.abs(np.asarray(sigma) - exact) / exact[:, :1]).max()),
                "effective_rank_error": float(np.abs(ratio - 1).max()),
                "wrong_ranks": sum(wrong.values()),
                "ranks": len(matrices) * len(RANKS),
                "wrong": wrong,
            }


def times(
    batch: int, num_samples: int, num_dimensions: int, known: dict[tuple[str, int, int], float]
) -> Iterator[dict[str, Any]]:
    """Milliseconds per matrix of every route; `known` keeps the seconds of smaller batches of the same matrices."""
    matrices = jax.random.normal(jax.random.key(0), (batch, num_samples, num_dimensions))
    for name, route in routes().items():
        case = (name, num_dimensions, num_samples)
        row: dict[str, Any] = {"route": name, "D": num_dimensions, "N": num_samples, "matrices": batch}
        if known.get(case, 0) * batch > LONGEST_CALL:
            yield row | {"stopped": "expected to take too long"}
            continue
        try:
            begin = time.perf_counter()
            compiled = jax.jit(route).lower(matrices).compile()
            compile_seconds = time.perf_counter() - begin
            seconds = _call_times(lambda compiled=compiled: compiled(matrices))
        except NotImplementedError:
            yield row | {"stopped": "not implemented on this platform"}
            continue
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            yield row | {"stopped": "out of memory"}
            continue
        known[case] = min(seconds) / batch
        yield row | {
            "ms_per_matrix": 1e3 * min(seconds) / batch,
            "compile_seconds": compile_seconds,
            "seconds": seconds,
        }


def _call_times(call: Callable[[], Array]) -> list[float]:
    """Seconds of calls after the first, until half a second has passed or ten are done; of the first if it was long."""
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < 0.5 and len(seconds) < 11):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
        if seconds[0] > LONGEST_CALL:
            return seconds
    return seconds[1:]
