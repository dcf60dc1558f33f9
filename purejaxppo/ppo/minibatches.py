"""Minibatches of a rollout: its samples in random order, and their rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo.ppo.state import Array, Batch

_MOST_INDEX_BITS = 18  # of 32


def shuffled_indices(key: Array, size: int) -> Array:
    """0 .. size - 1 in random order, int32 [size].

    One sort of random words whose low bits are the index: several times as fast on a CPU as `jax.random.permutation`,
    which sorts pairs. Words that agree in all their random bits keep the order of their indices; with 1024
    indices that befalls one pair in one shuffle out of eight. Above 2^18 indices it would befall so many that small
    minibatches were stretches of time: there, `jax.random.permutation`.
    """
    index_bits = max(size - 1, 1).bit_length()
    if index_bits > _MOST_INDEX_BITS:
        return jax.random.permutation(key, size).astype(jnp.int32)
    words = jax.random.bits(key, (size,), jnp.uint32) << index_bits | jnp.arange(size, dtype=jnp.uint32)
    return (jnp.sort(words) & ((1 << index_bits) - 1)).astype(jnp.int32)


def rows_of(batch: Batch, indices: Array) -> Batch:
    """The samples of a rollout [T * N, ...] at these places [B]."""
    return jax.tree.map(lambda x: x[indices], batch)
