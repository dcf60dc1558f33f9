"""x W of Boolean observations x, to float32's accuracy, in a GPU's units for bfloat16.

On a GPU made for data centres these units are fifteen times as fast as float32 outside of them: they multiply numbers
of 8 significant bits and add in float32. 0 and 1 are such numbers, and a float32 number, of 24 bits, is the sum of
three, so one product of [x x x] with three pieces of W keeps every bit of W; sums are float32, as these units round
them. Compiled for an H100, and predicted; not measured. Other GPUs gain little or nothing. A TPU makes six such
products of one in float32 by itself and waits for memory: there, three are predicted to take longer.

Pieces can be differentiated backwards, as often as one likes, and not forwards (`jax.jvp`).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

Array = jax.Array

_QUICK = ("8.0", "9.0", "10.0")  # compute capabilities: A100, H100 and H200, B200
# Of x. With fewer rows, as in one step of environments, splitting W costs what is saved; with fewer columns, as in
# patches of images, writing the pieces of gradients does.
_FEWEST_ROWS, _FEWEST_COLUMNS = 256, 128


def has_quick_units() -> bool:
    """Whether programs run on a GPU whose units for bfloat16 are many times as fast as float32 outside of them."""
    return jax.default_backend() == "gpu" and getattr(jax.devices()[0], "compute_capability", None) in _QUICK


def is_left_boolean(dtype: jnp.dtype) -> bool:
    """Whether arrays of that type should stay as they are until `product` multiplies them."""
    return jnp.issubdtype(dtype, jnp.bool_) and has_quick_units()


def product(x: Array, kernel: Array, precision: str) -> Array:
    """x W [..., fan_out], float32, of x [..., fan_in], float32 or Boolean, and W [fan_in, fan_out]."""
    is_large = x.shape[-1] >= _FEWEST_COLUMNS and x.size >= _FEWEST_ROWS * x.shape[-1]
    if is_left_boolean(x.dtype) and precision == "highest" and is_large:
        return product_in_pieces(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)  # pyright: ignore
    return jnp.matmul(x.astype(kernel.dtype), kernel, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product_in_pieces(x: Array, y: Array, is_transposed: bool = False) -> Array:
    """x y [N, M] of Boolean x [N, K] and float32 y [K, M] in three pieces; transposed, x^T y [K, M] of y [N, M]."""
    # Products read Booleans as they are; without the barrier XLA writes the three copies as bfloat16.
    thrice = jax.lax.optimization_barrier(jnp.broadcast_to(x[:, None], (x.shape[0], 3, x.shape[1])))
    over = (((1, 0) if is_transposed else (1, 2), (0, 1)), ((), ()))
    exactly = jax.lax.Precision.HIGHEST  # else settings of JAX may make other types of the pieces
    return jax.lax.dot_general(thrice.astype(jnp.bfloat16), _pieces(y), over, exactly, jnp.float32)


def _forward(x: Array, y: Array, is_transposed: bool) -> tuple[Array, Array]:
    return product_in_pieces(x, y, is_transposed), x


def _backward(is_transposed: bool, x: Array, gradient: Array) -> tuple[None, Array]:
    return None, product_in_pieces(x, gradient, not is_transposed)


product_in_pieces.defvjp(_forward, _backward)


def _pieces(x: Array) -> Array:
    """Three numbers of 8 bits, the largest first, whose sum is x [K, M]: bfloat16 [3, K, M]."""

    def rounded(x: Array) -> Array:  # (a conversion to bfloat16 and back is something that XLA may leave out)
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)

    first = rounded(x)
    second = rounded(x - first)
    return jnp.stack([first, second, x - first - second]).astype(jnp.bfloat16)
