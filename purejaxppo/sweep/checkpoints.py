"""Checkpoints of the complete state of all runs of a chunk: one file of named arrays each, with checksums.

NumPy's own format and not orbax: each process saves its own runs and waits for nobody, which orbax 0.12 does not do (of
NumPy arrays, it writes those of process 0 and silently none of the others).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.results.files import DAMAGED
from purejaxppo.sweep.store import opened, write_atomically

_RUN_INDEX, _OPTIONAL = "run_index", (".choices", ".kl_control")
NUM_KEPT = 2  # the last one, and the one before in case the disk damages the last


def to_host(tree: Any) -> Any:
    """A copy of the state in NumPy arrays, random keys as their words; waits for the devices."""
    return jax.tree.map(lambda x: _copy(jax.random.key_data(x) if is_key(x) else x), tree)


def _copy(x: jax.Array | np.ndarray) -> np.ndarray:
    """A copy, never a view of memory that the next segment is going to be given; and just one.

    NumPy would copy an array on several devices twice, and the array keep the first of them.
    """
    if isinstance(x, np.ndarray) or len(x.addressable_shards) == 1:
        return np.array(x, copy=True)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def save(folder: Path, log_points: int, state: Any) -> None:
    """Save a host state after `log_points` log points; the one before is kept. Raises OSError when the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    write_atomically(folder / f"{log_points:05d}.npz", lambda file: np.savez(file, **arrays))
    before = [path for path in _steps(folder) if int(path.stem) <= log_points]
    for path in {*_steps(folder)} - {*before[-NUM_KEPT:]}:  # also damaged ones from beyond this point
        path.unlink(missing_ok=True)


def restore(folder: Path, shapes: Any) -> tuple[int, Any] | None:
    """Number of log points and host state of the last sound checkpoint, random keys restored; None if there is none.

    `shapes` is the state as `jax.eval_shape` gives it.
    Raises RunError when there are checkpoints but all are damaged, OSError when the disk refuses.
    """
    steps = _steps(folder)
    for path in reversed(steps):
        try:
            return int(path.stem), _read(path, shapes)
        except jax.errors.JaxRuntimeError:
            raise
        except DAMAGED:
            warnings.warn(f"checkpoint {path} is damaged and is left out.", stacklevel=2)
    if steps:
        raise RunError(f"every checkpoint in {folder} is damaged; delete that folder to compute its runs again.")
    return None


def save_final(path: Path, indices: Sequence[int], state: Any) -> None:
    """Keep the host state of runs at their end, from which they can go on when the sweep is extended."""
    path.parent.mkdir(exist_ok=True)
    arrays = {jax.tree_util.keystr(name): leaf[: len(indices)] for name, leaf in _leaves(state)}
    arrays[_RUN_INDEX] = np.asarray(indices, np.int64)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def final_places(folder: Path) -> dict[int, tuple[Path, int]]:
    """In which file, and at which row of it, there is the final state of each run of a directory."""
    places = {}
    for path in sorted(folder.glob("*.npz")):
        with opened(path) as content:
            places |= {index: (path, row) for row, index in enumerate(content[_RUN_INDEX].tolist())}
    return places


def restore_final(folder: Path, indices: Sequence[int], fresh: Any) -> Any:
    """The host state of runs at their end, padded to the width of `fresh`, their state before training.

    What the runs of the program differ in is as in `fresh`, and so is the memory of a KL penalty, which a state lacks
    where no run of its program had one.
    Raises ConfigError for a state that is missing, damaged or of another shape.
    """
    places = final_places(folder)
    if lacking := [index for index in indices if index not in places]:
        raise ConfigError(f"folder {folder} has no final state of run {lacking[0]}.")
    are_keys = [is_key(leaf) for leaf in jax.tree.leaves(fresh)]
    found = {jax.tree_util.keystr(name): leaf for name, leaf in _leaves(to_host(fresh))}
    for path in {places[index][0] for index in indices}:
        rows = [(new, places[index][1]) for new, index in enumerate(indices) if places[index][0] == path]
        news, olds = (list(numbers) for numbers in zip(*rows, strict=True))
        with opened(path) as content:
            for name in found:
                if name.startswith(_OPTIONAL) and name not in content.files:
                    continue
                array = content[name]
                if (array.shape[1:], array.dtype) != (found[name].shape[1:], found[name].dtype):
                    raise ConfigError(f"file {path} has states of another program: {name} has another shape or type.")
                if not name.startswith(_OPTIONAL[0]):
                    found[name][news] = array[olds]
    for array in found.values():
        array[len(indices) :] = array[len(indices) - 1]
    leaves = [jax.random.wrap_key_data(x) if key else x for x, key in zip(found.values(), are_keys, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _read(path: Path, shapes: Any) -> Any:
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    found = []
    with open(path, "rb") as file, np.load(file) as content:
        for name, shape in leaves:
            array = content[jax.tree_util.keystr(name)]
            plain = jax.eval_shape(jax.random.key_data, shape) if is_key(shape) else shape
            if (array.shape, array.dtype) != (plain.shape, plain.dtype):
                raise ValueError(f"{name} has another shape or type")
            found.append(jax.random.wrap_key_data(array) if is_key(shape) else array)
    return jax.tree_util.tree_unflatten(structure, found)


def is_key(x: Any) -> bool:
    """Whether an array, or its shape, is of random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _steps(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("*.npz") if path.stem.isdigit())
    return sorted(found, key=lambda path: int(path.stem))  # as text 99999 would come after 100000
