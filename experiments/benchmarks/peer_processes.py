"""Peers in virtual environments of their own, and their workers as processes. No command; see peers.py and parity.py.

A worker is a script in peers/: it takes its setting as one JSON argument and prints its answer as one JSON line, the
last line of its output.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORKERS = HERE / "peers"
ENVIRONMENTS = HERE / ".venvs"
TIMEOUT_SECONDS = 3600


class PeerError(Exception):
    """A peer could not be installed, or its worker failed; says why in one line."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's virtual environment, which is made anew unless it has what peers/{peer}.txt asks for.

    Raises PeerError when the installation fails.
    """
    requirements, folder = WORKERS / f"{peer}.txt", ENVIRONMENTS / peer
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if installed.is_file() and installed.read_text() == requirements.read_text():
        return python
    print(f"{peer}: installing into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"{peer} cannot be installed: {_last_line(done.stderr)}")
    shutil.copy(requirements, installed)
    return python


def run_worker(python: Path, script: str, argument: dict[str, Any]) -> dict[str, Any]:
    """What a worker answers, run on the CPU and without a cache of compiled programs. Raises PeerError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [str(python), str(WORKERS / script), json.dumps(argument)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=environment | {"JAX_PLATFORMS": "cpu"},
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"{script} did not end within {TIMEOUT_SECONDS} seconds") from None
    if done.returncode:
        raise PeerError(f"{script} failed with status {done.returncode}: {_last_line(done.stderr)}")
    return json.loads(_last_line(done.stdout))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
