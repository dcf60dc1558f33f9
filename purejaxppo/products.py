"""x W of Boolean observations x, exact to float32, in a GPU's units for bfloat16.

These units multiply numbers of 8 significant bits and add in float32, fifteen times as fast as a GPU computes in
float32 outside of them. 0 and 1 are such numbers, and a float32 number, of 24 bits, is the sum of three: so one product
of [x x x] with three pieces of W has no rounding but that of its sums, which the float32 product has as well. A TPU
makes six such products of one in float32 by itself, and waits for memory: there, three are predicted to take longer.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

Array = jax.Array

# Of x. Splitting W costs what it saves where rows are few, as in one step of environments, and writing the pieces of
# what is multiplied where columns are few, as in patches of images.
_FEWEST_ROWS, _FEWEST_COLUMNS = 256, 128


def is_in_pieces(dtype: jnp.dtype) -> bool:
    """Whether products with arrays of that type are better left to `product` than made of a float32 copy."""
    return jnp.issubdtype(dtype, jnp.bool_) and jax.default_backend() == "gpu"


def product(x: Array, kernel: Array, precision: str) -> Array:
    """x W [..., fan_out], float32, of x [..., fan_in], float32 or Boolean, and W [fan_in, fan_out]."""
    is_large = x.shape[-1] >= _FEWEST_COLUMNS and x.size >= _FEWEST_ROWS * x.shape[-1]
    if is_in_pieces(x.dtype) and precision == "highest" and is_large:
        return product_in_pieces(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)  # pyright: ignore
    return jnp.matmul(x.astype(kernel.dtype), kernel, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product_in_pieces(x: Array, y: Array, is_transposed: bool = False) -> Array:
    """x y [N, M] of Boolean x [N, K] and float32 y [K, M] in three pieces; transposed, x^T y [K, M] of y [N, M]."""
    # A GPU reads Booleans as they are; without the barrier three copies would be written as bfloat16.
    thrice = jax.lax.optimization_barrier(jnp.broadcast_to(x[:, None], (x.shape[0], 3, x.shape[1])))
    over = (((1, 0) if is_transposed else (1, 2), (0, 1)), ((), ()))
    return jax.lax.dot_general(thrice.astype(jnp.bfloat16), _pieces(y), over, preferred_element_type=jnp.float32)


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
