"""Checkpoints of the complete state of all runs of a chunk. The only file that imports orbax.

Orbax writes into a temporary folder and renames it when it is whole, so that a folder with a number for its name is a
whole checkpoint, whenever the process was killed.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import RunError

NUM_KEPT = 2  # the last one, and the one before in case the disk damages the last


def to_host(tree: Any) -> Any:
    """A copy of the state in NumPy arrays, random keys as their words; waits for the devices."""

    def copied(x: Any) -> np.ndarray:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        # A copy, never a view of memory that the next segment is going to be given.
        return np.array(jax.random.key_data(x) if is_key else x, copy=True)

    return jax.tree.map(copied, tree)


def save(folder: Path, log_points: int, state: Any) -> None:
    """Save a host state after `log_points` log points; the one before is kept until this one is whole."""
    checkpointer = _checkpointer()
    checkpointer.save((folder / f"{log_points:05d}").absolute(), state, force=True)
    for path in _steps(folder)[:-NUM_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def restore(folder: Path, shapes: Any) -> tuple[int, Any] | None:
    """Number of log points and host state of the last readable checkpoint, random keys restored; None if there is none.

    `shapes` is the state as `jax.eval_shape` gives it.
    Raises RunError when there are checkpoints but not one can be read.
    """
    steps = _steps(folder)
    for path in reversed(steps):
        try:
            return int(path.name), _read(path, shapes)
        except Exception:  # a damaged checkpoint makes its reader fail in every way there is
            warnings.warn(f"checkpoint {path} is damaged and is left out.", stacklevel=2)
    if steps:
        raise RunError(f"no checkpoint in {folder} can be read; delete that folder to compute its runs again.")
    return None


def _read(path: Path, shapes: Any) -> Any:
    def is_key(x: Any) -> bool:
        return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    plain = jax.tree.map(lambda x: jax.eval_shape(jax.random.key_data, x) if is_key(x) else x, shapes)
    template = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), plain)
    found = _checkpointer().restore(path.absolute(), item=template)
    for x, y in zip(jax.tree.leaves(template), jax.tree.leaves(found), strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise ValueError("shapes differ")
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(y) if is_key(x) else y, shapes, found)


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    here = jax.process_index()  # every process saves its own runs and waits for nobody
    options = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)
