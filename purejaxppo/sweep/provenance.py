"""Where a result comes from: versions, device, flags, commit, command."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax

import purejaxppo
from purejaxppo.results.files import writable

PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "brax", "chex", "distrax", "numpy", "xarray")
# Settings of JAX that change bits, each under its own name; not every JAX has all of them.
SETTINGS = (
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_default_matmul_precision",
    "jax_enable_x64",
)
READING = ("results", "statistics", "claims", "plots", "report.py", "analysis.py")


def provenance() -> dict[str, str | int]:
    """Plain facts about this process, to be kept with its results."""
    devices = jax.local_devices()
    facts: dict[str, str | int] = {
        "purejaxppo_version": purejaxppo.__version__,
        "git_commit": git_commit(),
        "source": source(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": processor(),
        "device_platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    facts |= {name: str(jax.config.values[name]) for name in SETTINGS if name in jax.config.values}
    facts = {name: writable(x) if isinstance(x, str) else x for name, x in facts.items()}
    return facts | {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES}


def source() -> str:
    """The code that computes, as a short code: all of the package but what is done with results (the reading wing)."""
    folder = Path(purejaxppo.__file__).parent
    files = sorted(path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] not in READING)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def processor() -> str:
    """What this processor can do, as a short code: compiled programs and rounding depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        told = platform.machine() + platform.processor() + _name_of_macs_processor()
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _name_of_macs_processor() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def git_commit() -> str:
    """Commit of the source tree that this package was imported from, or "" for an installed one."""
    folder = Path(purejaxppo.__file__).parent
    if not (folder.parent / ".git").exists():  # somebody else's repository with our package in it
        return ""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
