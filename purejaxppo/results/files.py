"""Files of results: written so that whatever has its name is whole, and read when their numbers are asked for.

A thousand runs with a thousand log points have more numbers than a laptop has memory, and a table or a figure needs
five metrics of 268: metrics are written some log points at a time, and read one by one.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

# Files get their names when they are whole, so nothing needs HDF5's locks, and not every file system has any. HDF5 asks
# this when it begins.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from purejaxppo.errors import ConfigError

# Log points that are written at once and stored side by side, and the most numbers so stored: 4 MiB in float32.
_LOGS_TOGETHER, _MOST_TOGETHER = 64, 2**20
# Compression carries a checksum: a damaged file fails to load instead of loading wrong numbers. Level 1: higher ones
# take longer and save nothing of numbers in float32.
_COMPRESSED = {"zlib": True, "complevel": 1, "shuffle": True}

DAMAGED = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What a file of arrays (.npz) that is damaged makes its readers raise."""


class Values(Protocol):
    """Numbers [S, L] or [S, L, D] in memory or on disk, read by a slice of each axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, key: tuple[slice, ...], /) -> np.ndarray: ...


def save(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a Dataset as netCDF; whoever reads `path`, at any moment, finds the old file or the whole new one.

    Folders that are missing are created. Raises OSError when the disk refuses.
    """
    target, dataset = Path(path), dataset.copy()
    for described in (dataset, *dataset.variables.values()):
        described.attrs = {name: writable(x) if isinstance(x, str) else x for name, x in described.attrs.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    metrics = {str(name): value.variable for name, value in dataset.data_vars.items() if _is_metric(value.variable)}
    # What an earlier file said about its own storage must not leak into this one.
    others = dataset.drop_vars(metrics).drop_encoding()
    encoding = {name: _COMPRESSED for name, variable in others.variables.items() if variable.dtype.kind in "iuf"}
    try:
        try:
            others.to_netcdf(partial, engine="netcdf4", encoding=encoding)
            _append(partial, metrics)
        except RuntimeError as error:  # netCDF's word for whatever the disk said
            raise OSError(errno.EIO, f"the disk refuses it ({error})") from error
        sync_and_rename(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def writable(text: str) -> str:
    """A text that UTF-8 can hold: bytes of an argument or a path that are no UTF-8, as they are written: `\\udcf6`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_metric(variable: xr.Variable) -> bool:
    return variable.dims[:2] == ("run", "log") and variable.dtype.kind == "f"


def _append(path: Path, metrics: Mapping[str, xr.Variable]) -> None:
    """Add metrics to a netCDF file, some log points of all of them at a time."""
    with netCDF4.Dataset(path, "a") as file:
        stored = {}
        for name, variable in metrics.items():
            dims = tuple(map(str, variable.dims))
            for dim, size in zip(dims, variable.shape, strict=True):
                if dim not in file.dimensions:
                    file.createDimension(dim, size)
            num_runs, num_logs, *rest = (max(size, 1) for size in variable.shape)
            logs = min(num_logs, _LOGS_TOGETHER)
            runs = min(num_runs, max(1, _MOST_TOGETHER // math.prod([logs, *rest])))
            # Whole chunks are written once and need no cache, of which there would be one a metric (0: the default).
            options: Any = {"chunksizes": (runs, logs, *rest), "chunk_cache": 1, "fill_value": False} | _COMPRESSED
            stored[name] = file.createVariable(name, variable.dtype, dims, **options)
            stored[name].setncatts(variable.attrs)
        for first in range(0, max((variable.shape[1] for variable in metrics.values()), default=0), _LOGS_TOGETHER):
            logs = slice(first, first + _LOGS_TOGETHER)
            for name, variable in metrics.items():
                stored[name][:, logs] = variable[:, logs].values


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """A Dataset written by `save`; its metrics are read when they are asked for, and the file stays open until then.

    `.load()` of it reads all of them, `.close()` closes the file. Raises ConfigError when there is no such file, when
    it is damaged or not a results file, and later when a metric is read that is damaged.
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"Results file {str(source)!r} does not exist; it must be a netCDF file of purejaxppo.")
    with _reading(source):
        cache = netCDF4.get_chunk_cache()
        netCDF4.set_chunk_cache(1)  # else HDF5 keeps as much of each metric as the dataset does
        try:
            # Nothing here is a date: a metric in seconds is a number of seconds.
            opened = xr.open_dataset(source, engine="netcdf4", decode_times=False, cache=False)
        finally:
            netCDF4.set_chunk_cache(*cache)
        metrics = {name: value.variable for name, value in opened.data_vars.items() if _is_metric(value.variable)}
        dataset = opened.drop_vars(metrics).load()
    if not {"run", "log"} <= set(opened.sizes) or "status" not in dataset:
        opened.close()
        raise ConfigError(
            f"File {str(source)!r} is no results file: it must have dimensions run and log and a variable status."
        )
    found = {name: (metric.dims, lazy(_Stored(source, metric)), metric.attrs) for name, metric in metrics.items()}
    dataset = dataset.assign(found)
    dataset.set_close(opened.close)
    return dataset


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file makes HDF5 and its readers fail in every way there is
        raise ConfigError(f"Results file {str(source)!r} is damaged or not netCDF, and cannot be read.") from error


@dataclass(frozen=True)
class _Stored:
    """A metric in a results file."""

    source: Path
    variable: xr.Variable

    @property
    def shape(self) -> tuple[int, ...]:
        return self.variable.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.variable.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        with _reading(self.source):
            return self.variable[key].values


class _Lazy(BackendArray):
    """Values as xarray takes them from a file."""

    def __init__(self, values: Values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        slices = tuple(part if isinstance(part, slice) else slice(part, part + 1) for part in key)
        drop = tuple(slice(None) if isinstance(part, slice) else 0 for part in key)
        return self.values[slices][drop]


def lazy(values: Values) -> indexing.MemoryCachedArray:
    """Values that xarray reads when they are asked for, and then keeps."""
    lazy: Any = indexing.LazilyIndexedArray(_Lazy(values))
    return indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside it, force it to the disk, and rename it; raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        sync_and_rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk it would take the room that it needs itself
        raise


def sync_and_rename(partial: Path, target: Path) -> None:
    """Force a finished temporary file to disk, then let it take its final name (same folder, so one atomic step)."""
    with open(partial, "rb+") as handle:  # Windows forces nothing to disk that is open for reading alone
        os.fsync(handle.fileno())
    os.replace(partial, target)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself must reach the disk too; Windows has no such call
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have none for folders
                raise
        finally:
            os.close(folder)
