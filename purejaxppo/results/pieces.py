"""Runs whose numbers lie in several places, put together unread: below each other, or one after the other.

A piece is some runs at the log points that they share; it comes from a file of results or from the parts of a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.results.files import Values
from purejaxppo.results.registry import METRICS

_MEASURED = "_measured"  # what `to_dataset` appends to a metric that shares its name with a swept field


@dataclass(frozen=True, kw_only=True)
class Piece:
    """S runs of a sweep at their L log points."""

    run_index: np.ndarray
    """Their places in the sweep, [S]."""
    env_steps: np.ndarray
    """Environment steps at the log points, [L]."""
    status: np.ndarray
    """As in a dataset, [S]."""
    metrics: Mapping[str, Values]
    """Name -> [S, L], or [S, L, D] for spectra."""

    @property
    def shape(self) -> tuple[int, int]:
        """Runs and log points."""
        return len(self.run_index), len(self.env_steps)


class Joined:
    """A metric of several pieces next to each other along the runs (axis 0) or the log points (axis 1), [S, L(, D)].

    NaN where a piece has none, and beyond the end of a narrower spectrum. Nothing is read before it is asked for.
    """

    def __init__(self, parts: Sequence[Values | None], shapes: Sequence[tuple[int, int]], axis: int):
        found = [part for part in parts if part is not None]
        size = [max(shape) for shape in zip(*shapes, strict=True)]
        size[axis] = sum(shape[axis] for shape in shapes)
        widths = [part.shape[2:] for part in found]
        self.shape = (*size, *(max(width) for width in zip(*widths, strict=True)))
        self.dtype = np.result_type(*(part.dtype for part in found))
        self._axis, self._parts = axis, list(parts)
        self._ends = np.cumsum([shape[axis] for shape in shapes]).tolist()

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        runs, logs, *rest = key
        wanted = np.arange(self.shape[1])[logs]
        values = np.full((self.shape[0], wanted.size, *self.shape[2:]), np.nan, self.dtype)
        for part, first, end in zip(self._parts, [0, *self._ends], self._ends, strict=False):
            if part is None:
                continue
            rows, places, own = slice(None), np.arange(wanted.size), logs
            if self._axis == 0:
                rows = slice(first, end)
            else:
                places = np.flatnonzero((wanted >= first) & (wanted < end))
                if places.size == 0:
                    continue
                step = logs.step or 1
                own = slice(wanted[places[0]] - first, wanted[places[-1]] - first + 1, step)
            read = part[:, own]
            values[(rows, places, *(slice(width) for width in read.shape[2:]))] = read
        return values[(runs, slice(None), *rest)]


@dataclass(frozen=True)
class Picked:
    """The first log points of some runs of a variable [S, L(, D)]."""

    variable: xr.Variable
    rows: np.ndarray
    num_logs: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.size, self.num_logs, *self.variable.shape[2:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.variable.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        runs, logs, *rest = key
        points = range(self.num_logs)[logs]
        low, high = self.rows.min(), self.rows.max() + 1
        read = self.variable[low:high, points.start : points.stop : points.step].values
        return read[self.rows - low][(runs, slice(None), *rest)]


def pick(dataset: xr.Dataset, rows: np.ndarray, run_index: np.ndarray) -> list[Piece]:
    """Runs of a dataset, at positions `rows` [S], under their new places [S]; a piece for each grid of log points."""
    steps = np.broadcast_to(dataset["env_steps"].values, (dataset.sizes["run"], dataset.sizes["log"]))[rows]
    grids: dict[bytes, list[int]] = {}
    for number, row in enumerate(steps):
        grids.setdefault(row[np.isfinite(row)].tobytes(), []).append(number)
    pieces = []
    for members in grids.values():
        grid = steps[members[0]]
        grid = grid[np.isfinite(grid)].astype(np.int64)
        own = rows[members]
        pieces.append(
            Piece(
                run_index=run_index[members],
                env_steps=grid,
                status=dataset["status"].values[own],
                metrics={name: Picked(variable, own, grid.size) for name, variable in _metrics(dataset).items()},
            )
        )
    return pieces


def _metrics(dataset: xr.Dataset) -> dict[str, xr.Variable]:
    """The metrics of a dataset, under the names that they have where nothing of that name is swept."""
    found = {}
    for name, values in dataset.data_vars.items():
        if values.dims[:2] == ("run", "log"):
            own = str(name).removesuffix(_MEASURED)
            found[own if own in METRICS else str(name)] = values.variable
    return found


def below(pieces: Sequence[Piece]) -> Piece:
    """Pieces with the same log points as one, their runs below each other."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        run_index=np.concatenate([piece.run_index for piece in pieces]),
        env_steps=pieces[0].env_steps,
        status=np.concatenate([piece.status for piece in pieces]),
        metrics=_joined(pieces, axis=0),
    )


def after(first: Piece, second: Piece) -> Piece:
    """The same runs, at the log points of the first piece and then at those of the second, whose status it has."""
    return replace(
        second,
        env_steps=np.concatenate([first.env_steps, second.env_steps]),
        metrics=_joined([first, second], axis=1),
    )


def _joined(pieces: Sequence[Piece], axis: int) -> dict[str, Values]:
    names = dict.fromkeys(name for piece in pieces for name in piece.metrics)
    shapes = [piece.shape for piece in pieces]
    return {name: Joined([piece.metrics.get(name) for piece in pieces], shapes, axis) for name in names}
