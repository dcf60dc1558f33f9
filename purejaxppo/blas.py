"""LAPACK on the CPU without deadlocks: one BLAS thread, and one matrix at a time.

JAX hands QR and SVD to the OpenBLAS that scipy ships. Two things about that can stop a program for ever, both seen
with jaxlib 0.10.2 on two cores and both found with a debugger in the stuck process:

- Several of JAX's threads enter a threaded OpenBLAS at once and wait in its `exec_blas_async_wait` for its workers.
  With one BLAS thread there is nobody to wait for. It is also the faster setting for matrices of this size.
- A LAPACK call on a *batch* of matrices hands parts of the batch to XLA's own thread pool and blocks until they are
  done. When as many such calls as there are threads run in that pool (two programs on two CPU devices, or independent
  calls in one program), the parts never get a thread. A call on a single matrix hands out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Out = TypeVar("Out")


def is_cpu() -> bool:
    """Whether programs run on the CPU."""
    return jax.default_backend() == "cpu"


@cache
def use_one_thread() -> None:
    """Limit every loaded OpenBLAS but NumPy's private one to a single thread, for the rest of the process."""
    import scipy.linalg  # noqa: F401 - loads the library that is to be limited
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if library.internal_api == "openblas" and "numpy.libs" not in str(library.filepath):
            library.set_num_threads(1)


def one_at_a_time(function: Callable[..., Out]) -> Callable[..., Out]:
    """`function`, which vmap runs element after element on a CPU, and batched as usual elsewhere."""
    return by_platform(cpu=function)


def by_platform(cpu: Callable[..., Out], **others: Callable[..., Out]) -> Callable[..., Out]:
    """The function of the platform that a program is compiled for, such as tpu; `default` is cpu's, or as given.

    On a CPU vmap runs it element after element.
    """
    routes = {"cpu": cpu, "default": cpu} | others

    def on_any_platform(*arguments: Any) -> Out:
        use_one_thread()  # also where a GPU is the default: what is computed on a CPU beside it would hang alike
        traced = {name: _traced_once(route, is_cpu()) for name, route in routes.items()}
        traced["cpu"] = jax.custom_batching.sequential_vmap(traced["cpu"])
        return jax.lax.platform_dependent(*arguments, **traced)

    return on_any_platform


@cache
def _traced_once(route: Callable[..., Out], is_on_cpu: bool) -> Callable[..., Out]:
    """`route` under jit: else each use would trace it for every platform, and again for vmap.

    As routes look up `is_cpu`, so does the key; they are functions of modules, or this would keep them for ever.
    """
    return jax.jit(lambda *arguments: route(*arguments))


def of_each(function: Callable[[Any], Out], arguments: Sequence[Any]) -> list[Out]:
    """`function` of each of several arguments of equal shapes: side by side, by vmap; one after the other on a CPU.

    There the copies that stacking and vmap make of large matrices take as long as what is computed of them.
    """
    if is_cpu():
        return [function(argument) for argument in arguments]
    results = jax.vmap(function)(jax.tree.map(lambda *x: jnp.stack(x), *arguments))
    return [jax.tree.map(lambda x, i=i: x[i], results) for i in range(len(arguments))]


def in_blocks(function: Callable[..., Out], size: int) -> Callable[..., Out]:
    """`function`, which vmap runs for at most `size` elements at a time; one by one on a CPU, as its cache likes."""
    if is_cpu():
        use_one_thread()
        return jax.custom_batching.sequential_vmap(jax.jit(function))  # traced once, not for vmap again
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(axis_size: int, in_batched: list[Any], *arguments: Any) -> tuple[Out, Any]:
        leaves, structure = jax.tree.flatten(arguments)
        is_batched = jax.tree.leaves(in_batched)
        batched = [leaf for leaf, is_one in zip(leaves, is_batched, strict=True) if is_one]

        def call(batched: list[Any]) -> Out:
            own = iter(batched)
            each = [next(own) if is_one else leaf for leaf, is_one in zip(leaves, is_batched, strict=True)]
            return function(*jax.tree.unflatten(structure, each))

        block = -(-axis_size // -(-axis_size // size))  # blocks of equal size, if that is possible
        out = jax.lax.map(call, batched, batch_size=block) if block < axis_size else jax.vmap(call)(batched)
        return out, jax.tree.map(lambda _: True, out)

    return mapped
