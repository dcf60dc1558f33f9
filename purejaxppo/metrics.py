"""Metrics by name in few arrays: a mapping for whoever reads it, two or three outputs for the compiler.

XLA compiles a kernel for each separate output of a program; for two hundred scalars that takes longer than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass(kw_only=True)
class Metrics(Mapping[str, Any]):
    """Scalars and spectra by name; `metrics["policy_rank"]` is an array of whatever leading axes there are.

    scalars: [..., M], in the order of `names`. spectra: [..., D] each. Leading axes (runs S, log points L) come
    from vmap and scan. Iterates over all names, scalars first.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    scalars: Array
    spectra: dict[str, Array]

    @staticmethod
    def of(metrics: Mapping[str, Array]) -> Metrics:
        """Of one run: scalars [] and spectra [D] by name."""
        scalars = {name: jnp.asarray(x, jnp.float32) for name, x in metrics.items() if jnp.ndim(x) == 0}
        spectra = {name: x for name, x in metrics.items() if jnp.ndim(x) == 1}
        # The barriers: jax 0.10's GPU compiler fails on one kernel that joins these, what they come from, and others.
        each = list(scalars.values())
        if jax.default_backend() == "gpu":
            each = jax.lax.optimization_barrier(each)
        joined = jax.lax.optimization_barrier(jnp.stack(each))
        return Metrics(names=tuple(scalars), scalars=joined, spectra=spectra)

    def __getitem__(self, name: str) -> Any:
        if name in self.spectra:
            return self.spectra[name]
        if name not in self.names:
            raise KeyError(name)
        return self.scalars[..., self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.names, *self.spectra))

    def __len__(self) -> int:
        return len(self.names) + len(self.spectra)

    def joined(self, *others: Metrics) -> Metrics:
        """These metrics and others of the same leading axes, side by side."""
        every = (self, *others)
        return Metrics(
            names=tuple(name for metrics in every for name in metrics.names),
            scalars=jnp.concatenate([metrics.scalars for metrics in every], axis=-1),
            spectra={name: x for metrics in every for name, x in metrics.spectra.items()},
        )
