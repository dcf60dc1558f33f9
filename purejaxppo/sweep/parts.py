"""Parts: what a chunk of runs has measured, a file a log point; written as they come, read when they are asked for.

A part holds `names` [M] and `values` [S, M] of the metrics that are one number a run, and each spectrum [S, D] under
its name. With an array for each metric it takes ten times as long to write and thirty times as long to read; parts of
earlier versions are such, and are read as well. Imports no JAX.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.results.files import DAMAGED, write_atomically

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics


def write_part(folder: Path, log_point: int, metrics: Metrics) -> None:
    """Keep the metrics of a chunk at one log point, in the chunk's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"names": np.array(metrics.names, dtype=bytes), "values": metrics.scalars, **metrics.spectra}
    write_atomically(folder / f"{log_point:05d}.npz", lambda file: np.savez(file, **arrays))  # pyright: ignore


def count_parts(folder: Path, first: int = 0) -> int:
    """Log points of a chunk on disk, from its `first` one up to the first gap."""
    names = {path.name for path in folder.glob("*.npz")}
    return next(number for number in itertools.count() if f"{first + number:05d}.npz" not in names)


class Parts:
    """The metrics of a chunk of runs at the log points on disk, of which there may be none."""

    def __init__(self, folder: Path, num_runs: int, first: int = 0):
        """Look which metrics there are; raises ConfigError, as reading does, for a file that is damaged or gone.

        first: number of the chunk's first log point, which is point 0 here.
        """
        self.folder, self.num_runs, self.num_points = folder, num_runs, count_parts(folder, first)
        self._first = first
        self.widths: dict[str, tuple[int, ...]] = {}
        """Metric -> () of a number, (D,) of a spectrum; of all log points together, not each of which has all."""
        self._kept: tuple[range, list[tuple[dict[str, int], np.ndarray]]] = (range(0), [])
        for point in range(self.num_points):
            with self._opened(point) as part:
                self.widths |= dict.fromkeys(_numbers(part), ())
                spectra = [name for name in part.files if name not in {*self.widths, "names", "values"}]
                self.widths |= {name: part[name].shape[1:] for name in spectra}

    def read(self, name: str, points: range) -> np.ndarray:
        """A metric at some log points, [S, L] or [S, L, D]; NaN at those without it.

        All numbers at the log points asked for last are kept: who wants one will want another.
        """
        if self.widths[name]:
            spectra = np.full((self.num_runs, len(points), *self.widths[name]), np.nan, np.float32)
            for place, point in enumerate(points):
                with self._opened(point) as part:
                    if name in part:
                        spectra[:, place] = part[name]
            return spectra
        if self._kept[0] != points:
            self._kept = (range(0), [])  # lets go of the others first
            self._kept = (points, [self._numbers_at(point) for point in points])
        numbers = np.full((len(points), self.num_runs), np.nan, np.float32)
        for row, (places, values) in zip(numbers, self._kept[1], strict=True):
            if name in places:
                row[:] = values[:, places[name]]
        return numbers.T

    def _numbers_at(self, point: int) -> tuple[dict[str, int], np.ndarray]:
        """Name -> column, and values [S, M], of a log point as the file has them: one table of all takes longer."""
        with self._opened(point) as part:
            names = _numbers(part)
            values = part["values"] if "values" in part else np.stack([part[name] for name in names], axis=1)
        return {name: column for column, name in enumerate(names)}, values

    @contextlib.contextmanager
    def _opened(self, point: int) -> Iterator[Any]:
        path = self.folder / f"{self._first + point:05d}.npz"
        try:
            with open(path, "rb") as file, np.load(file) as part:
                yield part
        except FileNotFoundError:
            raise ConfigError(f"file {path} is gone: the sweep has ended meanwhile; load its results again.") from None
        except (OSError, *DAMAGED) as error:
            raise ConfigError(f"file {path} is damaged and cannot be read.") from error


@dataclass(frozen=True)
class PartsMetric:
    """A metric of the runs of a chunk, [S, L] or [S, L, D]."""

    name: str
    parts: Parts
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Known without reading anything."""
        return self.parts.num_runs, self.parts.num_points, *self.parts.widths[self.name]

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        """Read the log points in the slice of the second axis, at least."""
        runs, logs, *rest = key
        return self.parts.read(self.name, range(self.shape[1])[logs])[(runs, slice(None), *rest)]


def _numbers(part: Any) -> list[str]:
    """Names of the metrics in a part that are one number a run."""
    if "names" in part:
        return part["names"].astype(str).tolist()
    return [name for name in part.files if part[name].ndim == 1]
