"""Snapshots: the networks of runs at some log points, a file a chunk and log point, written as the sweep goes.

A file is one of policies (policies.py) with the log point, "log_point" [S], and where the log point's last update
began ("origin.params[...]", "origin.env_state...", [S, ...]): from there the rollout that was diagnosed is collected
again, so that diagnostics can be computed anew. What an optimiser needs is not kept: no run goes on from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Learner, Origin, RunState
from purejaxppo.sweep import store
from purejaxppo.sweep.checkpoints import is_key, to_host
from purejaxppo.sweep.memory import bytes_of
from purejaxppo.sweep.policies import LOG_POINT, ORIGIN, Place, save_policies

if TYPE_CHECKING:
    from purejaxppo.sweep.store import Chunk


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a snapshot keeps of runs, on the host, [S, ...]."""

    params: Params
    statistics: ObservationStatistics | None
    status: np.ndarray
    origin: Origin


def kept_of(state: RunState) -> Kept:
    """A copy of what a snapshot keeps of a state; waits for the devices."""
    params, statistics, status, origin = to_host(
        (state.params, state.observation_statistics, state.status, state.origin)
    )
    return Kept(params=params, statistics=statistics, status=status, origin=origin)


def save(out: Path, chunk: Chunk, log_point: int, kept: Kept) -> None:
    """Write the snapshot of a chunk's runs at a log point; one that is there is replaced."""
    found = (kept.params, kept.statistics, kept.status, kept.origin)
    params, statistics, status, origin = jax.tree.map(lambda x: x[: chunk.num_runs], found)
    arrays = {LOG_POINT: np.full(chunk.num_runs, log_point, np.int64)}
    arrays |= {ORIGIN + jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(origin)}
    path = out / store.SNAPSHOTS / f"{chunk.name}-{log_point:05d}.npz"
    save_policies(path, chunk.indices, params, statistics, status, more=arrays)


def discard(out: Path, chunk: Chunk) -> None:
    """Delete the snapshots of a chunk whose runs are going to be computed in others."""
    for path in (out / store.SNAPSHOTS).glob(f"{chunk.name}-*.npz"):
        path.unlink()


def marked(metrics: Metrics, *, is_kept: bool) -> Metrics:
    """The host metrics of a log point, and in which runs its networks are kept: not in one that has diverged."""
    is_snapshot = np.where(metrics["status"] == 0, np.float32(is_kept), np.float32(0))
    values: Any = np.concatenate([metrics.scalars, is_snapshot[:, None]], axis=1)
    return Metrics(names=(*metrics.names, "is_snapshot"), scalars=values, spectra=metrics.spectra)


def origin_shapes(learner: Learner) -> Any:
    """Shapes of what a snapshot keeps of where an update began; the same for all runs of a configuration."""
    return jax.eval_shape(lambda: init_run(learner, jax.random.key(0))).origin


def read_origin(shapes: Any, place: Place) -> Origin:
    """Where the last update before a run's snapshot began, by its `origin_shapes`.

    Raises ConfigError for a damaged file.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    arrays = _origins(place.path, place.path.stat().st_mtime_ns)
    found = [arrays[ORIGIN + jax.tree_util.keystr(path)][place.row] for path, _ in leaves]
    keys = [is_key(shape) for _, shape in leaves]
    return jax.tree.unflatten(
        structure, [jax.random.wrap_key_data(x) if key else x for x, key in zip(found, keys, strict=True)]
    )


@lru_cache(maxsize=1)  # run after run is asked for, out of one file
def _origins(path: Path, written_at: int) -> dict[str, np.ndarray]:
    del written_at
    with store.opened(path) as content:
        return {name: content[name] for name in content if name.startswith(ORIGIN)}


def bytes_of_runs(learner: Learner, num_runs: int) -> int:
    """Bytes on disk of all snapshots of runs; 0 without."""
    state: Any = jax.eval_shape(lambda: init_run(learner, jax.random.key(0)))
    config = learner.config
    num_points = sum(config.is_snapshot_point(log_point) for log_point in range(config.num_logs + 1))
    return num_points * num_runs * bytes_of((state.params, state.observation_statistics, state.origin))
