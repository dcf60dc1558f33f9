"""Products with Boolean observations, in pieces of bfloat16 and in float32: time and accuracy. A piece of gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_programs import Options

from purejaxppo.products import product_in_pieces

Array = jax.Array
_CALLS = 20


def piece(options: Options) -> Iterator[dict[str, Any]]:
    """Of rows x columns and units, x W and x^T g of many runs: milliseconds of a call, and the largest error.

    The error is of the first run against NumPy in float64, as a share of the largest number there. All numbers are
    positive, and so are the rounding errors of units that cut digits off: the worst case for them.
    """
    num_runs, sizes = (2, ((256, 128, 8),)) if options.is_tiny else (300, ((256, 400, 256), (2048, 400, 256)))
    for rows, columns, units in sizes:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.bernoulli(keys[0], 0.3, (num_runs, rows, columns)).at[..., 0].set(True)
        for is_transposed, key in ((False, keys[1]), (True, keys[2])):
            y = jax.random.uniform(key, (num_runs, rows if is_transposed else columns, units), minval=0.5)
            first = np.float64(x[0]).T if is_transposed else np.float64(x[0])
            exact = first @ np.float64(y[0])
            for route, function in routes(is_transposed).items():
                found, seconds = _timed(jax.jit(jax.vmap(function)), x, y)
                yield {
                    "rows": rows, "columns": columns, "units": units, "runs": num_runs, "route": route,
                    "product": "x^T g" if is_transposed else "x W", "ms": 1e3 * seconds,
                    "largest_error": float(np.abs(np.float64(found[0]) - exact).max() / exact.max()),
                }  # fmt: skip


def routes(is_transposed: bool) -> dict[str, Callable[[Array, Array], Array]]:
    """Route -> function of x [N, K] and y, of one run."""

    def plain(x: Array, y: Array, precision: str) -> Array:
        x = x.astype(jnp.float32)
        return jnp.matmul(x.T if is_transposed else x, y, precision=precision)

    return {
        "pieces": lambda x, y: product_in_pieces(x, y, is_transposed),
        "float32": lambda x, y: plain(x, y, "highest"),
        "default": lambda x, y: plain(x, y, "default"),
    }


def _timed(function: Callable[[Array, Array], Array], x: Array, y: Array) -> tuple[Array, float]:
    found = jax.block_until_ready(function(x, y))
    begin = time.perf_counter()
    for _ in range(_CALLS):
        found = function(x, y)
    jax.block_until_ready(found)
    return found, (time.perf_counter() - begin) / _CALLS
