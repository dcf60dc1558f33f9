"""The simulation of intervals, bands, shares and collapse in its short form, and what its results must say."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def simulation() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("statistics_simulation")
    del sys.modules["statistics_simulation"]


def committed(part: str) -> list[dict[str, Any]]:
    found = json.loads((BENCHMARKS / "results" / "statistics.json").read_text(encoding="utf-8"))[part]
    assert found["scale"] >= 1
    return found["rows"]


def few(part: str, simulation: ModuleType) -> list[dict[str, Any]]:
    return simulation.PARTS[part](0.05)


@pytest.mark.parametrize("is_committed", [True, False])
def test_intervals_of_five_to_sixteen_runs_hold_what_is_said(is_committed: bool, simulation: ModuleType) -> None:
    """What stands below every table: 91 to 98 %; of few simulated samples a looser bound."""
    rows = committed("intervals") if is_committed else few("intervals", simulation)
    low, high = (0.905, 0.985) if is_committed else (0.82, 1.0)
    assert all(low <= row["expanded"] <= high for row in rows)
    assert {row["runs"] for row in rows} == {5, 6, 8, 10, 12, 16}
    # The plain percentiles, which they replace, hold less nearly everywhere.
    assert sum(row["plain"] < row["expanded"] for row in rows) >= len(rows) - 1


@pytest.mark.parametrize("is_committed", [True, False])
def test_bands_hold_at_least_93_percent(is_committed: bool, simulation: ModuleType) -> None:
    rows = committed("survival") if is_committed else few("survival", simulation)
    assert {(row["runs"], row["collapse"]) for row in rows} == {
        (runs, collapse) for runs in (4, 8, 16) for collapse in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    }
    assert all(row["followed"] >= 0.95 for row in rows)
    assert all(row["censored"] >= (0.95 if is_committed else 0.86) for row in rows)
    # The band of version 0.2, at n = 8 and P = 0.05, from the counts: 28 %.
    assert next(row["greenwood"] for row in rows if (row["runs"], row["collapse"]) == (8, 0.05)) < 0.3


@pytest.mark.parametrize("is_committed", [True, False])
def test_shares_of_equal_points_are_as_large_as_their_level_says(is_committed: bool, simulation: ModuleType) -> None:
    rows = committed("shares") if is_committed else few("shares", simulation)
    assert len(rows) == 9
    for row in rows:
        assert row["median"] > (1.4 if is_committed else 1.2) / row["points"]
        assert row["beyond level"] <= (0.12 if is_committed else 0.3)  # of 100 sweeps, or of 10: a twentieth expected
        assert row["all candidates"] >= (0.88 if is_committed else 0.7)


@pytest.mark.parametrize("is_committed", [True, False])
def test_contrasts_find_nothing_where_there_is_nothing(is_committed: bool, simulation: ModuleType) -> None:
    rows = committed("contrasts") if is_committed else few("contrasts", simulation)
    assert len(rows) == 9
    for row in rows:
        assert row["p <= 0.05"] <= (0.08 if is_committed else 0.2)
        assert row["interval holds 0"] >= (0.9 if is_committed else 0.8)
    paired = {row["correlation"]: row["paired"] for row in rows if row["runs"] == 16}
    assert paired[0.0] < (0.05 if is_committed else 0.2)
    assert paired[0.9] > 0.99


@pytest.mark.parametrize("is_committed", [True, False])
def test_the_definition_of_collapse_tells_lost_from_never_learned(is_committed: bool, simulation: ModuleType) -> None:
    rows = committed("collapse") if is_committed else few("collapse", simulation)
    assert {"lost 8 noises", "learned, 8 noises", "noise"} <= {row["runs that"] for row in rows}
    for row in rows:
        world = row["runs that"]
        if world.startswith("lost"):
            assert row["collapsed"] >= 0.97
        elif world.startswith("learned"):
            assert (row["collapsed"], row["learned"]) == (0, 1)
        elif world in ("noise", "worse and worse"):
            assert row["collapsed"] <= 0.01
        elif row["log points"] >= 100 and world != "noise, memory 0.95":
            assert row["collapsed"] <= 0.05


def test_it_writes_what_it_found_beside_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"collapse": "as before"}))
    command = [sys.executable, BENCHMARKS / "statistics.py", "--parts", "improvement", "--scale", "0.02", "--out", out]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=tmp_path)
    assert process.stdout.startswith("improvement: Share of samples in which the interval")
    found = json.loads(out.read_text())
    assert found["collapse"] == "as before"
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", found["improvement"]["commit"])
    assert min(row["narrowest"] for row in found["improvement"]["rows"]) > 0.1


def test_by_default_all_parts_run_and_the_committed_results_have_them(simulation: ModuleType) -> None:
    """Coverage and false verdicts, by one command."""
    found = json.loads((BENCHMARKS / "results" / "statistics.json").read_text(encoding="utf-8"))
    assert list(found) == list(simulation.PARTS)
    assert {"intervals", "survival", "verdicts"} <= set(found)
    rows = found["verdicts"]["rows"]
    assert {row["seeds"] for row in rows} == {4, 8, 16}
    assert sum(row["false"] * row["sweeps"] for row in rows) <= 0.05 * sum(row["sweeps"] for row in rows)
    assert found["verdicts"]["commit"]


def test_neighbours_still_get_the_standard_librarys_statistics() -> None:
    code = "import statistics; print(statistics.median([1, 2, 9]), hasattr(statistics, 'main'))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    assert process.stdout == "2 False\n"
