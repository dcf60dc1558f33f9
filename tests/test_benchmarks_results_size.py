"""The benchmark of results' size writes what a sweep writes: its end is a results file like any other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.sweep import store

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"


def test_a_made_up_sweep_ends_as_a_sweep_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module("results_size").write(tmp_path / "sweep", num_runs=8, num_logs=2, features=4)
    del sys.modules["results_size"]
    store.finish(tmp_path / "sweep")
    loaded = pjp.load_results(tmp_path / "sweep")
    assert dict(loaded.sizes) == {"run": 8, "log": 3, "D": 4}
    assert np.isfinite(loaded["return_mean"].values).all()
