"""The GPU benchmark at sizes for a CPU: every piece ends with rows of the names that the tables are read by."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(piece: str, out: Path) -> list[dict[str, Any]]:
    from gpu import run_piece
    from gpu_programs import Options

    path = run_piece(piece, Options(out=out, is_tiny=True))
    assert not list(out.glob("*.part"))
    result = json.loads(path.read_text())
    assert result["provenance"]["version_jax"] == jax.__version__
    return result["rows"]


def script(out: Path, *pieces: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(BENCHMARKS / "gpu.sh"), str(out / "no_wheels"), str(out), *pieces]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=600)


def test_jacobi_is_as_exact_as_numpy_on_ill_conditioned_and_deficient_matrices() -> None:
    from gpu_spectra import example_matrices, jacobi_values

    for kind in ("well", "deficient", "ill"):
        matrices = example_matrices(kind, 16, 16, batch=2)
        exact = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
        found = np.asarray(jax.jit(jacobi_values)(matrices))
        np.testing.assert_allclose(found, exact, atol=2e-6 * float(exact.max()), rtol=0)


def test_products_with_booleans_have_times_and_accuracies(tmp_path: Path) -> None:
    rows = run("products", tmp_path)
    assert len({(row["product"], row["route"]) for row in rows}) == len(rows) == 6
    for row in rows:
        assert row["ms"] > 0
        assert row["largest_error"] < 3e-6


def test_singular_values_have_times_and_accuracies(tmp_path: Path) -> None:
    rows = run("singular_values", tmp_path)
    accuracies = {(row["route"], row["matrix"]): row for row in rows if "sigma_error" in row}
    assert accuracies["product", "ill"]["sigma_error"] < 3e-6
    assert accuracies["product", "ill"]["wrong_ranks"] <= 1  # its seventh value is within 4 eps of a threshold
    assert accuracies["gram", "ill"]["sigma_error"] > 1e-5
    times = [row["ms_per_matrix"] for row in rows if "ms_per_matrix" in row and row["route"] == "product"]
    assert len(times) == 2
    assert min(times) > 0
    assert any(row.get("stopped") == "not implemented on this platform" for row in rows)


def test_a_piece_that_is_done_is_skipped_and_one_that_fails_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "gpu_profile.json").write_text("{}")
    done = script(tmp_path, "rates_cartpole", "profile", "rates_hopper", PYTHON="false")
    skipped, *uncompiled, compiled, first, second, failed = done.stdout.splitlines()
    assert skipped == "== profile: done before"
    assert sorted(uncompiled) == [f"== rates_{name}: not compiled beforehand" for name in ("cartpole", "hopper")]
    assert compiled.startswith("== compiled, ")
    assert first.startswith("== rates_cartpole, ")
    assert second.startswith("== rates_hopper, ")
    assert failed == "failed: rates_cartpole rates_hopper"
    assert done.returncode == 1


def test_pieces_compile_side_by_side_run_in_turn_and_end_with_the_limit(tmp_path: Path) -> None:
    slow = tmp_path / "slow_python"
    slow.write_text("#!/bin/sh\necho $* ${XLA_FLAGS:-none}\nexec sleep 50\n")
    slow.chmod(0o755)
    begin = time.monotonic()
    done = script(tmp_path, "profile", "rates_hopper_graphs", PYTHON=str(slow), LIMIT="4", XLA_FLAGS="")
    assert time.monotonic() - begin < 20
    *_, first, words, second, failed = done.stdout.splitlines()
    assert first.startswith("== profile, ")
    assert words.endswith("none")
    assert second == "== rates_hopper_graphs: no time left"
    assert failed == "failed: profile rates_hopper_graphs"
    assert done.returncode == 1
    compiling = {name: (tmp_path / f"compile_{name}.log").read_text() for name in ("profile", "rates_hopper_graphs")}
    assert all("--compile" in text for text in compiling.values())
    assert "WHILE" not in compiling["profile"]  # CUDA graphs for hopper alone
    assert "--updates 1" in compiling["rates_hopper_graphs"]
    assert "WHILE" in compiling["rates_hopper_graphs"]


def test_what_was_measured_is_read_with_its_configuration_and_its_device(tmp_path: Path) -> None:
    from accelerator_measured import measured_in
    from settings import SWEEPS

    config = SWEEPS["hopper"][0]
    seconds = {"plain": [3.0, 1.0, 2.0], "plasticity": [5.0]}
    row = {"setting": "hopper", "runs": 64, "seconds": seconds, "config": dataclasses.asdict(config)}
    found = {
        "piece": "rates_hopper_graphs",
        "provenance": {"device_kind": "NVIDIA H200"},
        "rows": [row, {"setting": "hopper", "runs": 1024, "stopped": "out of memory"}],
    }
    (tmp_path / "gpu_rates_hopper_graphs.json").write_text(json.dumps(found))
    (measured,) = measured_in(tmp_path)
    assert measured["config"] == config
    assert measured["seconds"] == {"segment": 2.0, "plasticity": 3.0}
    assert (measured["setting"], measured["target"], measured["runs"]) == ("hopper, CUDA graphs", "h200", 64)


@pytest.mark.slow
def test_a_piece_finds_its_programs_compiled_and_is_set_beside_what_is_predicted(tmp_path: Path) -> None:
    from accelerator_measured import measured_in

    done = script(tmp_path, "rates_cartpole", JAX_PLATFORMS="cpu", OPTIONS="--tiny --runs 2", LIMIT="600")
    assert done.returncode == 0, done.stdout
    (found,) = json.loads((tmp_path / "gpu_rates_cartpole.json").read_text())["rows"]
    (compiled,) = json.loads((tmp_path / "compiled_rates_cartpole.json").read_text())["rows"]
    assert found["compile_seconds"] < compiled["compile_seconds"] / 2
    (row,) = measured_in(tmp_path)
    assert (row["setting"], row["runs"], row["target"]) == ("cartpole", 2, None)
    assert row["config"].num_steps == 8
    assert row["config"].matmul_precision == "highest"
    assert row["seconds"]["segment"] > 0
    assert set(row["seconds"]) == {"segment", "plasticity"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole", "breakout", "breakout_conv", "hopper"])
def test_rates(name: str, tmp_path: Path) -> None:
    rows = run(f"rates_{name}", tmp_path)
    assert [row["runs"] for row in rows] == [1, 2]
    for row in rows:
        assert row["steps_per_second"] > 0
        assert row["mib_per_run"] > 0
        assert row["launches_per_update"] > row["updates_per_log"]
        assert row["while_loops"] > 3
        assert row["loops_of_unknown_length"] >= 1  # that over epochs


@pytest.mark.slow
def test_the_program_that_does_not_fit_ends_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_programs

    def refuse(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")

    monkeypatch.setattr(gpu_programs.Program, "segment", refuse)
    rows = run("rates_cartpole", tmp_path)
    assert [(row["runs"], row["stopped"]) for row in rows] == [(1, "out of memory")]


@pytest.mark.slow
def test_breakout_300(tmp_path: Path) -> None:
    (row,) = run("breakout_300", tmp_path)
    assert 0 < row["compile_seconds"] < row["seconds"]
    assert row["runs_at_once"] == row["runs"] == 2


@pytest.mark.slow
def test_breakout_300_training(tmp_path: Path) -> None:
    rows = run("breakout_300_training", tmp_path)
    precision = {"highest": "", "default": ", default precision"}
    assert [row["variant"] for row in rows] == [
        f"{name}{precision[asked]}" for asked in precision for name in ("diagnostics", "bare")
    ]
    for row in rows:
        segments = [*row["seconds"]["plain"], *row["seconds"]["plasticity"]]
        assert len(segments) == 2
        assert row["total_seconds"] >= sum(segments) > 0


@pytest.mark.slow
def test_diagnostics(tmp_path: Path) -> None:
    rows = run("diagnostics", tmp_path)
    assert all(math.isfinite(row["cost_diagnostics"] + row["cost_plasticity"]) for row in rows)


@pytest.mark.slow
def test_deterministic(tmp_path: Path) -> None:
    *rows, last = run("deterministic", tmp_path)
    assert [row["deterministic"] for row in rows] == [False, True, True, False]
    assert last["equal_bits_with"]


@pytest.mark.slow
def test_profile(tmp_path: Path) -> None:
    first, *kernels = run("profile", tmp_path)
    assert first["launched_per_update"] > 0
    assert len(kernels) == 10
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["trace.json.gz", "xplane.pb.gz"]
