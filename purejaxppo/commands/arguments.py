"""Kinds of arguments that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

Flat = tyro.conf.OmitArgPrefixes
Directory = Annotated[Path, tyro.conf.Positional]
Directories = Annotated[tuple[Path, ...], tyro.conf.Positional]
Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compute; nothing here changes what is computed."""

    memory: str | None = None
    """Memory for the runs computed at once, such as 4GiB; what is free by default."""
    force: bool = False
    """Continue a sweep although versions or devices have changed."""
    tensorboard: bool = False
    """Write TensorBoard files while it runs, to DIR/tensorboard."""
    deterministic: bool = False
    """Ask a GPU for deterministic kernels; a CPU's are in any case."""
    quiet: bool = False
    """Show no progress."""
    keep: bool = True
    """Keep final states, from which `extend --total-steps` goes on."""
    coordinator: str | None = None
    """Address, host:port, of process 0 where several processes share the sweep."""
    num_processes: int | None = None
    """Number of those processes."""
    process_index: int | None = None
    """Number of this process, from 0."""
