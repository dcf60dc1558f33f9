"""The benchmark of results' size writes what a sweep writes: its end is a results file like any other."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.plots.figures import check_figure
from purejaxppo.statistics.tables import format_number
from purejaxppo.sweep import store

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"

# The first words of a step's name -> the most CPU seconds, and mebibytes, that it may take with 1,000 runs of 1,000
# log points and 64 features.
TARGETS = {
    "running: summary": (10, None),
    "running: overview": (10, None),
    "end": (60, 1536),
    "summary": (3, 500),
    "compare": (3, 500),
    "claims": (3, 500),
    "report": (60, None),
    "figure": (15, None),
}


def measured(size: str) -> dict[str, dict[str, float]]:
    return json.loads((BENCHMARKS / "results" / "results_size.json").read_text(encoding="utf-8"))[size]


def test_a_labs_size_keeps_its_targets() -> None:
    """As measured by results_size.py, once for all: what is committed."""
    found = measured("1000 runs, 1000 log points, 64 features")
    assert set(TARGETS) - {"figure"} <= set(found)
    assert {f"figure {name}" for name in ("overview", "1", "2", "3", "4", "6", "7", "spectrum", "survival")} <= set(
        found
    )
    for name, row in found.items():
        seconds, mib = TARGETS.get("figure" if name.startswith("figure") else name, (None, None))
        assert seconds is None or row["cpu_seconds"] <= seconds, name
        assert mib is None or row["peak_mib"] <= mib, name


def test_the_readme_says_how_large_results_are() -> None:
    size = measured("1000 runs, 1000 log points, 64 features")["end"]["file_mib"] / 1024
    text = (BENCHMARKS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"; {format_number(size, 1)} GiB of 1,000 runs x 1,000 log points)" in " ".join(text.split())


def test_wide_networks_end_below_two_gigabytes() -> None:
    assert measured("1000 runs, 200 log points, 512 features")["end"]["peak_mib"] < 2048


def test_a_made_up_sweep_ends_as_a_sweep_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    results_size = importlib.import_module("results_size")
    assert {"sensitivity", "factorial"} < {check_figure(name) for name in results_size.FIGURES}
    results_size.write(tmp_path / "sweep", num_runs=8, num_logs=2, features=4)
    del sys.modules["results_size"]
    store.finish(tmp_path / "sweep")
    loaded = pjp.load_results(tmp_path / "sweep")
    assert dict(loaded.sizes) == {"run": 8, "log": 3, "D": 4}
    assert np.isfinite(loaded["return_mean"].values).all()
