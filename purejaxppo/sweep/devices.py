"""What a process sets up before its first JAX computation: its devices, the cache of programs, other processes."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import sys
import threading
import time
import warnings
from pathlib import Path

import jax

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.sweep.provenance import processor

_COORDINATOR_SECONDS = 60.0
_JOINING_SECONDS = 300.0  # as long as JAX waits by default
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h: bytes from which freed memory goes back to the system


def check_settings() -> None:
    """Raise ConfigError for settings of JAX under which no sweep can run, such as a debugging session leaves behind."""
    reasons = {
        "jax_debug_nans": "NaN is what a metric says where there is nothing to measure",
        "jax_debug_infs": "an excess ratio can be infinite",
        "jax_disable_jit": "a sweep is a compiled program",
    }
    for name, reason in reasons.items():
        if jax.config.values[name]:
            raise ConfigError(f"{name} is True, but must be False, since {reason} (unset {name.upper()}).")


def check_platform() -> None:
    """Raise ConfigError where JAX_PLATFORMS asks for what is not there; JAX would say so in dozens of lines."""
    platforms = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # whichever JAX comes to first
        if not platforms:
            raise
        raise ConfigError(
            f"JAX_PLATFORMS is {platforms!r}, which this machine or installation does not have; unset it."
        ) from None


def use_cpu_cores(num_cores: int | None = None) -> int:
    """Make every CPU core a JAX device of its own, so that runs are split over them; returns their number.

    Call it before the first JAX computation of a process; the command line does. Afterwards it changes nothing, and
    warns. Two cores as two devices run a sweep about 1.9 times as fast as one program over both. No effect on GPU and
    TPU runs. It also makes the process keep memory that was freed, for the next segment.
    """
    _keep_freed_memory()
    if num_cores is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", num_cores)
    except RuntimeError:  # JAX has computed something already: its devices are fixed
        found = len(jax.local_devices())
        if found < num_cores and jax.default_backend() == "cpu":
            warnings.warn(
                f"use_cpu_cores comes too late: JAX has computed something already, on {found} of {num_cores} cores; "
                "restart, and call it first.",
                stacklevel=2,
            )
        return found
    return num_cores


def _keep_freed_memory() -> None:
    """Tell glibc to hand no large block back to the system; nothing where there is no glibc.

    Else every segment's memory comes anew, page after page of zeros: 8 % of the time of flat Breakout with diagnostics.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(option, 2**31 - 1)


def use_cache() -> None:
    """Keep compiled programs on disk, so that the same program compiles once on a machine; the command line does.

    In JAX_COMPILATION_CACHE_DIR, or by default in a folder of the user's cache that belongs to this kind of processor.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "purejaxppo" / processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def join_processes(coordinator: str | None, num_processes: int | None, process_index: int | None) -> None:
    """Make this process one of several that share a sweep, by `jax.distributed`; call it before any computation.

    Raises ConfigError unless all three are given, or none; RunError where nobody answers at the coordinator's address.
    Where not all come within five minutes, the process ends with a sentence and exit code 1.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_index": process_index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing or coordinator is None or num_processes is None or process_index is None:
        raise ConfigError(f"{missing[0]} is missing, but {', '.join(given)} must be given together or not at all.")
    if not re.fullmatch(r"[^\s:]+:[0-9]{1,5}", coordinator):
        raise ConfigError(f"coordinator is {coordinator!r}, but must be host:port.")
    if not 0 <= process_index < num_processes:
        raise ConfigError(f"process_index is {process_index}, but must be from 0 to num_processes - 1.")
    if process_index > 0:
        _await_coordinator(coordinator)
    else:
        print(f"process 0 of {num_processes} at {coordinator}: waiting for the others", file=sys.stderr, flush=True)
    # JAX itself would abort the process, with a dump of the stack, so it must not be the one that loses patience.
    impatience = threading.Timer(_JOINING_SECONDS, _give_up, (num_processes, coordinator))
    impatience.daemon = True
    impatience.start()
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_index, initialization_timeout=int(_JOINING_SECONDS) + 60
        )
    finally:
        impatience.cancel()


def _give_up(num_processes: int, coordinator: str) -> None:
    """End the process, which waits inside of JAX, where no exception reaches it."""
    print(
        f"not all {num_processes} processes came to coordinator {coordinator} within {_JOINING_SECONDS:.0f} s; start "
        f"them all, with --process-index 0 to {num_processes - 1} and the same address.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _await_coordinator(address: str) -> None:
    """Wait until somebody listens at host:port; JAX itself would wait for minutes in silence and abort the process.

    Raises RunError after a minute.
    """
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + _COORDINATOR_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"coordinator {address} does not answer ({error}); process 0 must run there, with the same address."
                ) from None
        time.sleep(0.5)
