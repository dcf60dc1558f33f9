"""Sweeps from file to dataset: chunks, checkpoints, kills, diverging runs, several processes. Small real programs."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from test_export import read_events

import purejaxppo as pjp
from purejaxppo.errors import ConfigError, RunError, Stopped
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import make_learner
from purejaxppo.sweep import checkpoints, devices, engine, estimate, policies, store
from purejaxppo.sweep import memory as memory_module
from purejaxppo.sweep.costs import Costs, measure
from purejaxppo.sweep.engine import run_sweep
from purejaxppo.sweep.memory import bytes_of, chunk_width, estimate_run, format_memory, parse_memory
from purejaxppo.sweep.parts import Parts
from purejaxppo.sweep.plan import Sweep, make_groups, parse_sweep, to_json
from purejaxppo.sweep.program import GroupProgram, map_runs, runs_at_once
from purejaxppo.sweep.progress import Progress, TimeLeft
from purejaxppo.sweep.provenance import source

ROOT = Path(__file__).parent.parent
CONTENT = {
    "name": "small",
    "seeds": 2,
    "config": {
        "env": "gymnax/CartPole-v1",
        "total_steps": 6 * 64,
        "num_envs": 4,
        "num_steps": 16,
        "minibatch_size": 32,
        "hidden_sizes": [8],
        "num_log_points": 3,
        "normalize_observations": "running",
        "normalize_rewards": "running",
    },
    "axes": {"learning_rate": [1e-3, 1e-2], "pfo_coef": [0.0, 1.0]},
}
NUM_RUNS, NUM_LOGS = 8, 3


def make_sweep(**changes: Any) -> Sweep:
    return parse_sweep(CONTENT | changes)


@pytest.fixture(scope="module")
def program() -> GroupProgram:
    """The one program that most tests here run; compiled once."""
    group = make_groups(make_sweep())[0]
    program = GroupProgram(group, NUM_RUNS)
    runs = program.arguments()
    program.init(runs)
    program.tasks(runs)
    program.compile(runs)
    return program


@pytest.fixture(autouse=True)
def compiled_once(program: GroupProgram, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sweeps of the same group and width get the compiled program; the widths of all others are listed."""
    original, compiled = GroupProgram.compile, []

    def compile(self: GroupProgram, *arguments: Any) -> None:
        if self.group.config == program.group.config and self.width == program.width:
            for name in ("_compiled", "_init", "_tasks", "sharding", "needed_memory"):
                setattr(self, name, getattr(program, name))
            return
        if "segment" not in self._compiled:
            compiled.append(self.width)
        original(self, *arguments)

    monkeypatch.setattr(GroupProgram, "compile", compile)
    return compiled


@pytest.fixture(scope="module")
def whole(program: GroupProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished sweep."""
    out = tmp_path_factory.mktemp("sweeps") / "whole"
    run_sweep(make_sweep(), out, is_quiet=True)
    return out


def stop_after(monkeypatch: pytest.MonkeyPatch, num_segments: int, *, exception: BaseException | None = None) -> None:
    """Every log point leaves a checkpoint; after some (the one before training is the first) a stop is asked for, or
    the exception raised."""
    original, count = GroupProgram.segment, [0]
    requests: list[Any] = []
    enter = engine.StopRequest.__enter__

    def segment(self: GroupProgram, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] > num_segments and exception is not None:
            raise exception
        if count[0] == num_segments and exception is None:
            requests[-1].is_made = True
        return original(self, *arguments, **options)

    def remembered(self: Any) -> Any:
        requests.append(self)
        return enter(self)

    monkeypatch.setattr(GroupProgram, "segment", segment)
    monkeypatch.setattr(engine.StopRequest, "__enter__", remembered)
    monkeypatch.setattr(engine._CheckpointClock, "is_due", lambda self: True)


def assert_same(one: Path, other: Path) -> None:
    """Two finished sweeps agree in all bits."""
    a, b = store.load_results(one), store.load_results(other)
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())
    names = [sorted(path.name for path in out.glob("policies/*")) for out in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        with np.load(one / "policies" / name) as x, np.load(other / "policies" / name) as y:
            assert x.files == y.files
            assert all(x[key].tobytes() == y[key].tobytes() for key in x.files)


# --- A sweep, and its directory


def test_a_finished_sweep_holds_its_dataset_and_policies_and_nothing_temporary(whole: Path) -> None:
    dataset = pjp.load_results(whole)
    assert dict(dataset.sizes) == {"run": NUM_RUNS, "log": 1 + NUM_LOGS, "D": 8}
    assert list(dataset["env_steps"]) == [0, 128, 256, 384]
    assert list(dataset["learning_rate"].values[:4]) == [1e-3] * 4
    for name in ("policy_rank", "policy_plasticity_loss", "critic_plasticity_loss"):  # at point 0 as at all others
        assert np.isfinite(dataset[name]).all()
    assert dataset.attrs["version_jax"] == jax.__version__
    found = {path.name for path in whole.iterdir()}
    assert found == {"sweep.json", "provenance.json", "layout.json", "policies", "states", "results.nc"}


def test_the_same_call_again_computes_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 0, exception=AssertionError("computed again"))
    assert run_sweep(make_sweep(), whole, is_quiet=True).identical(store.load_results(whole))


def test_another_sweep_in_the_same_directory_is_refused_and_named(whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.num_epochs \(4 there, 5 here\)"):
        run_sweep(make_sweep(config=CONTENT["config"] | {"num_epochs": 5}), whole, is_quiet=True)


def test_of_many_points_the_first_that_differs_is_named(tmp_path: Path) -> None:
    rates = [i / 1000 for i in range(1, 101)]
    store.create(tmp_path / "out", make_sweep(axes={"learning_rate": rates, "pfo_coef": [0.0, 1.0]}))
    rates[30] = 0.5
    with pytest.raises(ConfigError) as error:
        run_sweep(make_sweep(axes={"learning_rate": rates[:99], "pfo_coef": [0.0, 1.0]}), tmp_path / "out")
    assert (
        "another sweep: points (200 there, 198 here; points[60] is {'learning_rate': 0.031, 'pfo_coef': 0.0} there, "
        "{'learning_rate': 0.5, 'pfo_coef': 0.0} here);"
    ) in str(error.value)


def test_a_path_that_netcdf_cannot_write_to_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"Gr\xf6sse")
    with pytest.raises(ConfigError, match=r"out is .*Gr\\udcf6sse, but must be a path of UTF-8 text"):
        run_sweep(make_sweep(), out, is_quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_no_utf8_is_kept_as_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/purejaxppo", "sweep", os.fsdecode(b"Gr\xf6sse.toml")])
    assert engine.provenance()["command"] == "purejaxppo sweep Gr\\udcf6sse.toml"


def test_event_files_that_cannot_be_written_are_refused_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == "tensorboardX":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="package tensorboardX is not installed"):
        run_sweep(make_sweep(), tmp_path / "out", tensorboard=True, is_quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_killed_processes_leave_is_removed(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    litter = [
        out / f"{store.STATES}/.0000-0000.npz.tmp",
        out / f"{store.EXTENSION}/{store.KEPT}",
        out / ".results.nc.tmp",
    ]
    for path in litter:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    run_sweep(make_sweep(), out, is_quiet=True)
    assert [path for path in litter if path.exists()] == []
    assert not (out / store.EXTENSION).exists()


def test_a_half_written_file_of_results_makes_room_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(tmp_path / "out", make_sweep())
    store.write_layout(tmp_path / "out", [], None)
    half = tmp_path / "out" / f".{store.RESULTS}.123-abc.partial"
    half.write_text("half")
    monkeypatch.setattr(store, "assemble", lambda out: pytest.fail("still there") if half.exists() else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.finish(tmp_path / "out")


def test_other_versions_are_refused_unless_forced_and_then_noted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)
    facts = store.read_json(out / store.PROVENANCE)
    store.write_json(out / store.PROVENANCE, facts | {"version_jax": "0.1"})
    with pytest.raises(ConfigError, match=rf"version_jax \(0\.1 there, {jax.__version__} here\)"):
        run_sweep(make_sweep(), out, is_quiet=True)
    run_sweep(make_sweep(), out, is_forced=True, is_quiet=True)
    (continued,) = store.read_json(out / store.PROVENANCE)["continued"]
    assert continued["version_jax"] == jax.__version__
    assert_same(whole, out)


def test_a_directory_that_another_process_computes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print('held'); input()"
    command = [sys.executable, "-u", "-c", hold, str(tmp_path / "out" / ".lock-0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is computing this sweep"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
        other.communicate("\n")
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)


def test_a_missing_log_point_is_reported_and_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)
    (out / "parts/0000-0000/00000.npz").unlink()
    with pytest.raises(RunError, match="metrics of 0 log points and then a gap, but should have 4"):
        run_sweep(make_sweep(), out, is_quiet=True)
    assert sorted(path.name for path in (out / "parts/0000-0000").iterdir()) == ["00001.npz", "00002.npz", "00003.npz"]
    assert not (out / "results.nc").exists()


def test_a_start_that_was_killed_at_once_is_no_obstacle(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.sweep.json.tmp").write_text("{")
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert_same(whole, tmp_path / "out")


def test_less_memory_on_resume_changes_nothing_that_is_laid_out(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    run_sweep(make_sweep(), tmp_path / "out", memory=1000, is_quiet=True)
    assert_same(whole, tmp_path / "out")


def test_an_edit_beside_the_package_is_no_obstacle_and_one_in_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    facts = engine.provenance()
    monkeypatch.setattr(engine, "provenance", lambda: facts | {"source": "another"})
    with pytest.raises(ConfigError, match=r"source \([0-9a-f]{16} there, another here\)"):
        run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    monkeypatch.setattr(engine, "provenance", lambda: facts | {"git_commit": "abc-dirty"})
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)


def test_numbers_of_numpy_make_a_sweep_that_its_directory_can_tell(tmp_path: Path, whole: Path) -> None:
    points = [{"learning_rate": rate, "pfo_coef": coef} for rate in (1e-3, 1e-2) for coef in np.array([0.0, 1.0])]
    sweep = dataclasses.replace(make_sweep(), seeds=tuple(np.arange(2)), points=tuple(points))
    run_sweep(sweep, tmp_path / "out", is_quiet=True)
    assert store.read_sweep(tmp_path / "out") == make_sweep()
    assert_same(whole, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, "seeds is"),
        ({"seeds": ("0",)}, "seeds is"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": "x" * 201}, "at most 200 bytes"),
        ({"points": ({}, {})}, r"points\[1\]"),
    ],
)
def test_a_sweep_made_in_python_is_checked_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_sweep(dataclasses.replace(make_sweep(), **changes), tmp_path / "out", is_quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        run_sweep(make_sweep(), tmp_path / ("x" * 300), is_quiet=True)


def test_metrics_of_one_version_alone_are_kept_and_missing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `--force`: the first log point of a chunk was measured by a version with another metric."""
    stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    first, second = (tmp_path / "out/parts/0000-0000" / name for name in ("00000.npz", "00001.npz"))
    with np.load(first) as content:
        old = dict(content) | {"names": np.char.replace(content["names"], b"policy_rank", b"old_rank")}
        np.savez(first, **old)
    partial = store.load_results(tmp_path / "out")
    with np.load(second) as content:
        column = content["names"].tolist().index(b"policy_rank")
        np.testing.assert_array_equal(partial["policy_rank"][:, 1], content["values"][:, column])
    assert np.isnan(partial["policy_rank"][:, 0]).all()
    assert np.isfinite(partial["old_rank"][:, 0]).all()
    assert np.isnan(partial["old_rank"][:, 1]).all()


def test_who_waits_for_others_can_be_stopped(tmp_path: Path) -> None:
    session = SimpleNamespace(
        out=tmp_path,
        said=tmp_path,
        chunks=store.make_chunks(0, range(2), 2),
        stop=SimpleNamespace(is_made=True),
        progress=SimpleNamespace(waiting=lambda number: None),
    )
    with pytest.raises(Stopped, match="stopped while waiting"):
        engine._wait_for_all(session)  # type: ignore[arg-type]


def test_the_first_log_point_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    groups = make_groups(make_sweep())
    (chunk,) = store.make_chunks(0, range(NUM_RUNS), NUM_RUNS)
    with Progress(groups) as progress:
        progress.compiling(chunk)
        for value in (1.0, 2.0):
            progress.advance(chunk, int(value), {"return_mean": np.full(8, value), "status": np.zeros(8)})
        told = capsys.readouterr().err
    assert "return 1.0" in told
    assert "diverged" not in told
    assert "return 2.0" not in told  # a line every ten seconds


def test_progress_in_a_file_is_made_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    groups = make_groups(make_sweep())
    (chunk,) = store.make_chunks(0, range(NUM_RUNS), NUM_RUNS)
    with Progress(groups) as progress:
        progress.say("the plan")
        progress.compiling(chunk)
        progress.advance(chunk, 0, {"return_mean": np.ones(8), "status": np.zeros(8)})
        progress._bar.refresh()
    told = capsys.readouterr().err
    assert "\r" not in told
    assert "the plan" in told.splitlines()
    assert [line for line in told.splitlines() if "compiling program 1 of 1" in line]
    assert all("|" in line or line == "the plan" for line in told.splitlines())


def test_the_time_left_weighs_programs_by_their_cost() -> None:
    """Two programs of 1000 steps: 4 epochs at 1 s each 100 steps, and one with 10 epochs that has not been timed.

    A step is 2 + 4 = 6 units, or 2 + 10 = 12. Of the first program 500 steps are left, 5 s; of the other 1000, 20 s.
    """
    runs = [SimpleNamespace(config=SimpleNamespace(num_epochs=epochs)) for epochs in (4, 10)]
    groups: Any = [SimpleNamespace(runs=(run,), env_steps=1000) for run in runs]
    left = TimeLeft(groups)
    assert left.seconds() is None
    left.add(0, 200, 4, None)
    for _ in range(3):
        left.add(0, 100, 4, 1.0)
    assert left.seconds() == pytest.approx(5 + 20)
    left.add(1, 500, 10, 50.0)
    assert left.seconds() == pytest.approx(5 + 50)


def test_event_files_go_on_at_a_resume_without_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", tensorboard=True, is_quiet=True)
    folder = sorted((tmp_path / "out/tensorboard").iterdir())[0]
    before = read_events(folder)["0_overview/return_mean"]
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    after = read_events(folder)["0_overview/return_mean"]
    assert after[: len(before)] == before
    assert len(before) < len(after)
    assert after[-1][0] == 384


def test_two_threads_run_their_sweeps_one_after_the_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_sweep, make_sweep(), tmp_path / name, is_quiet=True) for name in "ab"]
        datasets = [job.result() for job in jobs]
    assert datasets[0].drop_attrs().load().equals(datasets[1].drop_attrs().load())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("jax_debug_nans", "jax_debug_nans is True, but must be False, since NaN"),
        ("jax_disable_jit", "jax_disable_jit is True, but must be False, since a sweep is a compiled program"),
    ],
)
def test_settings_of_a_debugging_session_are_refused(tmp_path: Path, setting: str, sentence: str) -> None:
    jax.config.update(setting, True)
    try:
        with pytest.raises(ConfigError, match=f"^{sentence}"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    finally:
        jax.config.update(setting, False)
    assert not (tmp_path / "out").exists()


def test_generators_that_draw_for_all_runs_from_the_first_ones_key_are_refused(tmp_path: Path) -> None:
    """JAX's documented behaviour of rbg under vmap: a run would depend on its neighbours, and pairs not be pairs."""
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        with pytest.raises(ConfigError, match=r"^jax_default_prng_impl is 'rbg', but must be 'threefry2x32'"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    finally:
        jax.config.update("jax_default_prng_impl", "threefry2x32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("setting", "value"), [("jax_threefry_partitionable", False)])
def test_a_resume_under_another_setting_of_jax_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: Any
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    before = jax.config.values[setting]
    jax.config.update(setting, value)
    try:
        with pytest.raises(ConfigError, match=rf"{setting} \({before} there, {value} here\).*--force"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    finally:
        jax.config.update(setting, before)


def test_nobody_at_the_coordinators_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_COORDINATOR_SECONDS", 0.0)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: pytest.fail("it would wait for minutes"))
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"^coordinator {address} does not answer \(.*refused"):
            devices.join_processes(address, 2, 1)


def test_a_coordinator_to_whom_nobody_comes_ends_in_a_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = (
        "from purejaxppo.sweep import devices\n"
        "devices._JOINING_SECONDS = 1.0\n"
        f"devices.join_processes({address!r}, 2, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    told = [
        f"process 0 of 2 at {address}: waiting for the others",
        f"not all 2 processes came to coordinator {address} within 1 s; start them all, with --process-index 0 to 1 "
        "and the same address.",
    ]
    assert [line for line in done.stderr.splitlines() if line in told] == told
    assert "Traceback" not in done.stderr


def test_cores_that_are_asked_for_too_late_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    jax.devices()
    with pytest.warns(UserWarning, match="use_cpu_cores comes too late: .* on 2 of 7 cores"):
        assert devices.use_cpu_cores(7) == 2


def test_the_source_is_that_of_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__.py", "ppo.py", "plots/figures.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(pjp, "__file__", str(tmp_path / "__init__.py"))
    before = source()
    (tmp_path / "plots/figures.py").write_text("x = 2\n")
    assert source() == before
    (tmp_path / "ppo.py").write_text("x = 2\n")
    assert source() != before


def test_the_estimate_is_what_single_updates_cost_times_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 runs, 4 with 1 epoch and 4 with 3, in two chunks; 3 log points of 2 updates, 2 plasticity measurements.

    Each chunk: rollouts (6 + 2) x 1 s, diagnostics 4 x 0.5 s, plasticity (1 + 2) x 10 s; epochs 6 x (1 and 3) x 2 s.
    """
    config = CONTENT["config"] | {"num_plasticity_points": 2}
    sweep = make_sweep(config=config, axes={"num_epochs": [1, 3], "pfo_coef": [0.0, 1.0]})
    costs = Costs(rollout=1.0, epoch=2.0, diagnosis=0.5, plasticity=10.0)
    monkeypatch.setattr(estimate, "measure", lambda program, say: costs)
    compiled = SimpleNamespace(width=4, needed_memory=1000)
    monkeypatch.setattr(estimate, "_fitting", lambda group, width, budget: compiled)
    group = make_groups(sweep)[0]
    seconds = estimate.seconds_of_group(group, engine.lay_out([group], None), 4, costs)
    assert seconds == {
        "rollouts": 16.0,
        "epochs": 12.0 + 36.0,
        "diagnostics": 4.0,
        "plasticity": 60.0,
        "evaluation": 0.0,
    }
    said: list[str] = []
    lines = estimate.estimate(sweep, say=said.append).splitlines()
    assert "2 chunks of 4 runs" in lines[1]
    assert lines[1].endswith("2 min 8 s in all")
    assert lines[2].startswith("Estimated time: 2 min 8 s")
    shares = {line.split()[0]: line.split()[1] for line in lines[3:]}
    assert shares == {"rollouts": "12", "epochs": "37", "diagnostics": "3", "plasticity": "47", "compiling": "0"}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "Estimated time: 1 min 4 s" in estimate.estimate(sweep)
    assert [line.split(":")[0] for line in said] == 2 * ["program 1 of 1"]


def test_costs_are_measured_without_a_whole_log_point(program: GroupProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of runs, a few epochs; every part takes time, none of it long."""
    monkeypatch.setattr(GroupProgram, "segment", lambda *arguments: pytest.fail("a whole log point"))
    said: list[str] = []
    costs = measure(program, said.append)
    assert said == ["compiled its parts; timing them"]
    assert min(costs.rollout, costs.diagnosis, costs.plasticity) > 0
    assert costs.evaluation == 0


def test_time_is_counted_over_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    path = tmp_path / "out" / store.PROVENANCE
    known = store.read_json(path)
    assert 0 < known["seconds_total"] < 1e5
    store.write_json(path, known | {"seconds_total": 1e6})
    dataset = run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert 1e6 < float(dataset.attrs["seconds_total"]) < 1.1e6


def test_time_is_counted_where_the_provenance_is_lost(tmp_path: Path) -> None:
    store.note_seconds(tmp_path, 2.0, 1.0)
    store.note_seconds(tmp_path, 3.0, 0.0)
    assert store.read_provenance(tmp_path) == {"seconds_total": 5.0, "seconds_compiling": 1.0}


@pytest.mark.parametrize("name", ["sweep.json", "layout.json", "provenance.json"])
def test_a_damaged_file_of_a_directory_is_named(whole: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "results.nc").unlink()
    (out / name).write_text((whole / name).read_text()[:-10])
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        run_sweep(make_sweep(), out, is_quiet=True)


# --- Stopping and going on


@pytest.mark.parametrize("num_segments", [1, 2, 3])
def test_a_stopped_sweep_goes_on_to_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: GroupProgram, num_segments: int
) -> None:
    """Plasticity losses beyond the stop too: `whole` has them at every point."""
    with monkeypatch.context() as patch:
        stop_after(patch, num_segments)
        with pytest.raises(Stopped, match=f"after log point {num_segments - 1} of 3.*purejaxppo resume"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    partial = store.load_results(tmp_path / "out")
    np.testing.assert_array_equal(partial["return_mean"], store.load_results(whole)["return_mean"][:, :num_segments])
    saved = list((tmp_path / "out").glob("checkpoints/*/*.npz"))
    assert saved
    for path in saved:  # states alone: the tasks are made again
        with np.load(path) as file:
            assert sum(file[name].nbytes for name in file.files) == bytes_of(program.shapes(program.arguments()))
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert_same(whole, tmp_path / "out")


@pytest.mark.parametrize("num_segments", [0, 1, 2, 3])
def test_a_kill_about_the_point_before_training_loses_no_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_segments: int
) -> None:
    """Before it is computed, before it is written, when it has been, and the next as well; there is no checkpoint."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, num_segments, exception=MemoryError())
        patch.setattr(engine._CheckpointClock, "is_due", lambda self: False)
        with pytest.raises(MemoryError):
            run_sweep(make_sweep(), out, is_quiet=True)
    assert len(list(out.glob("parts/*/*.npz"))) == max(num_segments - 1, 0)
    assert not list(out.glob("checkpoints/*/*"))
    run_sweep(make_sweep(), out, is_quiet=True)
    assert_same(whole, out)


def test_a_stop_that_is_asked_for_before_the_first_point_leaves_nothing_to_lose(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine.StopRequest, "__enter__", lambda self: setattr(self, "is_made", True) or self)
        with pytest.raises(Stopped, match="everything is saved, continue with: purejaxppo resume"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    with pytest.raises(ConfigError, match="holds no log point yet"):
        store.load_results(tmp_path / "out")
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert_same(whole, tmp_path / "out")


def test_a_running_sweep_is_read_from_the_point_before_training_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, read = engine.write_part, []

    def write_part(folder: Path, *arguments: Any) -> None:
        original(folder, *arguments)
        read.append(store.load_results(tmp_path / "out").load())

    monkeypatch.setattr(engine, "write_part", write_part)
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    final = store.load_results(whole)
    assert [list(dataset["env_steps"].values) for dataset in read] == [[0], [0, 128], [0, 128, 256], [0, 128, 256, 384]]
    for dataset in read:
        for name in ("return_mean", "policy_rank", "policy_plasticity_loss"):
            np.testing.assert_array_equal(dataset[name], final[name][:, : dataset.sizes["log"]], err_msg=name)


def test_the_return_before_training_is_that_of_the_initial_policy(whole: Path) -> None:
    """Of the episodes that end in as many rollouts as lie between two log points; what a run learns by changes nothing.

    Statistics of observations do not move either.
    """
    dataset, (group,) = store.load_results(whole), make_groups(make_sweep())
    learner = make_learner(group.config)
    step = jax.jit(partial(collect, learner))
    for seed in (0, 1):
        state = init_run(learner, jax.random.key(seed))
        returns, current = [], np.zeros(4)
        for update in range(group.config.updates_per_log):
            key = jax.random.split(jax.random.fold_in(state.key, update))[0]
            state, rollout = step(state, key)
            for rewards, is_over in zip(rollout.reward, rollout.terminated | rollout.truncated, strict=True):
                current += np.asarray(rewards)
                returns += current[np.asarray(is_over)].tolist()
                current[np.asarray(is_over)] = 0
        assert len(returns) > 2
        own = dataset["return_mean"].values[dataset["seed"].values == seed]
        np.testing.assert_allclose(own[:, 0], np.mean(returns), rtol=1e-5)
        assert (np.abs(own[:, -1] - own[:, 0]) > 0.01).all()
    for name in ("policy_feature_drift", "kl", "policy_rank_change"):  # nothing was learned
        np.testing.assert_allclose(dataset[name][:, 0], 0, atol=1e-6)
    for name in ("policy_loss", "policy_step_norm", "pfo_loss"):
        assert np.isnan(dataset[name][:, 0]).all()


def test_progress_counts_training_alone(capsys: pytest.CaptureFixture[str]) -> None:
    groups = make_groups(make_sweep())
    (chunk,) = store.make_chunks(0, range(NUM_RUNS), NUM_RUNS)
    metrics = {"return_mean": np.ones(8), "status": np.zeros(8)}
    for num_done in range(NUM_LOGS + 2):
        with Progress(groups) as progress:
            progress.skip(chunk, num_done)
            done = [progress._bar.n]
            for log_point in range(num_done, NUM_LOGS + 1):
                progress.advance(chunk, log_point, metrics)
                done.append(progress._bar.n)
            assert progress._bar.total == NUM_RUNS * 384
        expected = [max(point - 1, 0) * NUM_RUNS * 128 for point in range(num_done, NUM_LOGS + 2)]
        assert done == expected
    capsys.readouterr()


def test_tensorboard_is_told_of_the_point_before_training(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from test_export import read_events

    run_sweep(make_sweep(), tmp_path / "out", tensorboard=True, is_quiet=True)
    dataset = store.load_results(whole)
    folders = sorted((tmp_path / "out/tensorboard").iterdir())
    assert len(folders) == NUM_RUNS
    for place, folder in enumerate(folders):
        events = read_events(folder)["0_overview/policy_rank"]
        expected = dataset["policy_rank"].isel(run=place).values
        assert [step for step, _ in events] == [0, 128, 256, 384]
        np.testing.assert_allclose([value for _, value in events], expected)


def test_a_crash_between_checkpoints_loses_no_bit(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash leaves metrics beyond the last checkpoint; they are computed again, to the same bits."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2, exception=MemoryError())
        patch.setattr(
            engine._CheckpointClock, "is_due", lambda self: not list((tmp_path / "out").glob("checkpoints/*"))
        )
        with pytest.raises(MemoryError):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert [path.name for path in (tmp_path / "out").glob("checkpoints/*/*")] == ["00001.npz"]
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert_same(whole, tmp_path / "out")


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_and_two_are_reported(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)

    def damage(step: str) -> None:
        path = out / "checkpoints" / "0000-0000" / f"{step}.npz"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    damage("00002")
    shutil.copytree(out, tmp_path / "both")
    with pytest.warns(UserWarning, match=r"00002.npz is damaged"):
        run_sweep(make_sweep(), out, is_quiet=True)
    assert_same(whole, out)
    out = tmp_path / "both"
    damage("00001")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RunError, match=r"every checkpoint in .*0000-0000 is damaged"),
    ):
        run_sweep(make_sweep(), out, is_quiet=True)


@pytest.mark.parametrize("error", [NotImplementedError("compression"), RuntimeError("encrypted"), KeyError("names")])
def test_whatever_a_damaged_archive_raises_it_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A flipped bit in a header asks for a compression or a password; of checkpoints the one before is taken."""
    state = {"a": np.zeros(2, np.float32)}
    for step in (1, 2):
        checkpoints.save(tmp_path / "checkpoints", step, state)
    (tmp_path / "00000.npz").write_bytes((tmp_path / "checkpoints/00001.npz").read_bytes())
    load = np.load

    def damaged(file: Any) -> Any:
        if "00002" in file.name or "00000" in file.name:
            raise error
        return load(file)

    monkeypatch.setattr(np, "load", damaged)
    with pytest.warns(UserWarning, match=r"00002\.npz is damaged"):
        restored = checkpoints.restore(tmp_path / "checkpoints", jax.eval_shape(lambda: state))
    assert restored is not None
    assert restored[0] == 1
    with pytest.raises(ConfigError, match=r"00000\.npz is damaged"):
        Parts(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"00000\.npz is damaged"), store.opened(tmp_path / "00000.npz"):
        pass
    with pytest.raises(ConfigError, match=r"00000\.npz is damaged"):
        policies._read(tmp_path / "00000.npz", {0})


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    state = {"a": np.zeros(2, np.float32)}
    for step in (99_998, 99_999, 100_000, 100_001):
        checkpoints.save(tmp_path, step, state)
    assert {path.stem for path in tmp_path.iterdir()} == {"100000", "100001"}
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: state))
    assert restored is not None
    assert restored[0] == 100_001


def test_a_full_disk_keeps_the_last_checkpoint(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(folder: Path, log_point: int, metrics: Any) -> None:
        if written:
            raise OSError(28, os.strerror(28))
        written.append(log_point)
        write_part(folder, log_point, metrics)

    write_part = engine.write_part
    with monkeypatch.context() as patch:
        stop_after(patch, 99)
        patch.setattr(engine, "write_part", full)
        with pytest.raises(RunError, match=r"No space left on device; .*purejaxppo resume"):
            run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert (tmp_path / "out/checkpoints/0000-0000/00001.npz").is_file()
    run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert_same(whole, tmp_path / "out")


def test_checkpoints_keep_the_last_two_and_a_state_that_later_segments_do_not_change(
    tmp_path: Path, program: GroupProgram
) -> None:
    runs = program.arguments()
    state = program.init(runs)
    saved = []
    for step in range(3):
        state, _ = program.segment(runs, state)
        saved.append(checkpoints.to_host(state))
        checkpoints.save(tmp_path / "c", step, saved[-1])
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["00001.npz", "00002.npz"]
    restored = checkpoints.restore(tmp_path / "c", program.shapes(runs))
    assert restored is not None
    assert restored[0] == 2
    jax.tree.map(np.testing.assert_array_equal, checkpoints.to_host(restored[1]), saved[2])
    assert jax.tree.structure(restored[1]) == jax.tree.structure(state)


# --- Directories of earlier versions


@pytest.mark.parametrize("where", ["config", "axes"])
def test_former_values_are_read(tmp_path: Path, where: str) -> None:
    """What is in sweep.json of a sweep that earlier versions made."""
    for is_on, now in ((True, "running"), (False, "off")):
        written = to_json(make_sweep())
        if where == "config":
            written["config"]["normalize_observations"] = is_on
        else:
            written["points"] = [point | {"normalize_observations": is_on} for point in written["points"]]
        del written["config"]["num_plasticity_epochs"]  # a field that they did not have
        (tmp_path / "sweep.json").write_text(json.dumps(written))
        for group in make_groups(store.read_sweep(tmp_path)):
            assert {run.config.normalize_observations for run in group.runs} == {now}


def test_an_unfinished_directory_of_an_earlier_version_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log points begin with the first one after training began."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)
    layout = store.read_json(out / store.LAYOUT)
    del layout["first_log_point"]
    store.write_json(out / store.LAYOUT, layout)
    files = {path: path.read_bytes() for path in out.glob("*/*/*.npz")}
    stop_after(monkeypatch, 0, exception=AssertionError("computed"))
    for call in (lambda: store.load_results(out), lambda: run_sweep(make_sweep(), out, is_quiet=True)):
        with pytest.raises(ConfigError, match=r"^directory .* was begun by an earlier version .*\.$"):
            call()
    assert {path: path.read_bytes() for path in out.glob("*/*/*.npz")} == files


def test_parts_of_an_earlier_version_are_read_and_go_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had an array for each metric; the log points that follow are written as they are now."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)
    (folder,) = out.glob("parts/*")
    parts = [folder / f"{point:05d}.npz" for point in range(2)]
    for part in parts:
        with np.load(part) as content:
            arrays = dict(content)
        numbers = dict(zip(arrays.pop("names").astype(str), arrays.pop("values").T, strict=True))
        np.savez(part, **numbers, **arrays)
    expected = store.load_results(whole)
    for name, values in store.load_results(out).data_vars.items():
        if "log" in values.dims:
            np.testing.assert_array_equal(values, expected[name][:, :2], err_msg=str(name))
    run_sweep(make_sweep(), out, is_quiet=True)
    assert_same(whole, out)


def test_who_looked_at_a_sweep_that_has_ended_meanwhile_is_told_to_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(make_sweep(), out, is_quiet=True)
    running = store.load_results(out)
    run_sweep(make_sweep(), out, is_quiet=True)
    with pytest.raises(ConfigError, match=r"is gone: the sweep has ended meanwhile; load its results again\.$"):
        _ = running["return_mean"].values


def test_finished_results_of_an_earlier_version_are_read(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    former = store.load_results(whole).isel(log=slice(1, None))
    former.to_netcdf(out / "results.nc")
    written = to_json(make_sweep())
    written["config"] |= {"normalize_observations": True}
    store.write_json(out / store.SWEEP, written)
    for dataset in (store.load_results(out), run_sweep(make_sweep(), out, is_quiet=True)):
        assert list(dataset["env_steps"]) == [128, 256, 384]
        xr.testing.assert_identical(dataset.drop_attrs(), former.drop_attrs())


# --- Runs of one program


@pytest.mark.parametrize(("torso", "hidden_sizes"), [("mlp", [64, 64]), ("minatar_conv", [32])])
def test_a_state_of_breakout_is_small(torso: str, hidden_sizes: list[int]) -> None:
    """64 environments x 128 steps: nothing as long as a rollout or a plasticity task is kept from segment to segment.

    (Wider layers behind the convolution have weights and moments of more than 1 MiB themselves.)
    """
    config = {"env": "gymnax/Breakout-MinAtar", "num_envs": 64, "num_steps": 128, "minibatch_size": 1024}
    (group,) = make_groups(make_sweep(config=config | {"torso": torso, "hidden_sizes": hidden_sizes}))
    assert group.config.measures_plasticity
    program = GroupProgram(group)
    state = program.shapes(program.arguments())
    assert bytes_of(state) / NUM_RUNS <= 2**20
    assert (bytes_of(state) - bytes_of((state.params, state.optimizer))) / NUM_RUNS <= 2**16
    lengths = {size for leaf in jax.tree.leaves(state) for size in leaf.shape[1:]}
    num_samples = group.config.num_plasticity_minibatches * group.config.minibatch_size
    assert not lengths & {num_samples, group.config.batch_size}


def test_a_diverging_run_is_marked_and_the_others_do_not_notice(tmp_path: Path, whole: Path) -> None:
    """Point 3 of 4 with a learning rate of 1e30, in the very program of the healthy sweep."""
    base = [{"learning_rate": rate, "pfo_coef": coef} for rate in (1e-3, 1e-2) for coef in (0.0, 1.0)]
    points = [*base[:2], base[2] | {"learning_rate": 1e30}, base[3]]
    content = {key: value for key, value in CONTENT.items() if key != "axes"}
    sick = run_sweep(parse_sweep(content | {"points": points}), tmp_path / "sick", is_quiet=True)
    assert sick["status"].values.tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    healthy = store.load_results(whole)
    others = [0, 1, 2, 3, 6, 7]
    for name in healthy.data_vars:
        np.testing.assert_array_equal(sick[name].values[others], healthy[name].values[others], err_msg=str(name))
    assert np.isnan(sick["policy_rank"].values[4:6, 1:]).all()
    np.testing.assert_array_equal(sick["policy_rank"].values[4:6, 0], healthy["policy_rank"].values[4:6, 0])
    with np.load(tmp_path / "sick/policies/0000-0000.npz") as file:  # frozen where it was still finite
        assert (file["status"] != 0).tolist() == (sick["status"].values != 0).tolist()
        assert all(np.isfinite(file[name]).all() for name in file.files)


def test_ten_pfo_coefficients_with_eight_seeds_are_one_program(tmp_path: Path, compiled_once: list[int]) -> None:
    coefs = [0.0, *(10.0**exponent for exponent in range(-4, 5))]
    config = CONTENT["config"] | {"total_steps": 64, "num_log_points": 1, "diagnostics": False}
    content = CONTENT | {"seeds": 8, "axes": {"pfo_coef": coefs}, "config": config, "hparams": {"learning_rate": 1e-2}}
    dataset = run_sweep(parse_sweep(content), tmp_path / "out", is_quiet=True)
    assert compiled_once == [80]
    assert dataset.sizes["run"] == 80
    assert (dataset["status"] == 0).all()
    pfo_loss = dataset["pfo_loss"].isel(log=-1).values.reshape(10, 8)
    assert (pfo_loss[-1] < 0.5 * pfo_loss[0]).all()


def test_numbers_of_epochs_share_a_compilation_and_each_run_is_the_run_alone(
    tmp_path: Path, compiled_once: list[int]
) -> None:
    config = CONTENT["config"] | {"diagnostics": False}
    sweep = make_sweep(config=config, axes={"num_epochs": [3, 1], "activation": ["tanh", "relu"]}, seeds=2)
    dataset = run_sweep(sweep, tmp_path / "epochs", is_quiet=True)
    assert compiled_once == [4]  # a chunk has one number of epochs and both activations
    (group,) = make_groups(sweep)
    for run in (group.runs[1], group.runs[7]):  # each number and each activation
        alone = jax.jit(pjp.make_train(run.config))(run.hparams, jax.random.key(run.seed)).metrics
        for name in ("policy_loss", "policy_loss_last_epoch_first", "value_loss", "return_mean"):
            np.testing.assert_allclose(dataset[name].values[run.index], alone[name], rtol=1e-3, atol=1e-5)


def test_little_memory_makes_chunks_of_one_shape_and_one_compilation(
    tmp_path: Path, whole: Path, compiled_once: list[int]
) -> None:
    group = make_groups(make_sweep())[0]
    dataset = run_sweep(make_sweep(), tmp_path / "out", memory=3 * estimate_run(group), is_quiet=True)
    assert compiled_once == [2]
    assert len(list((tmp_path / "out/policies").iterdir())) == 4
    reference = store.load_results(whole)
    np.testing.assert_array_equal(dataset["seed"], reference["seed"])
    np.testing.assert_allclose(dataset["return_mean"][:, :2], reference["return_mean"][:, :2], rtol=1e-5)


def test_a_device_that_refuses_gets_half_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = GroupProgram.segment

    def segment(self: GroupProgram, *arguments: Any, **options: Any) -> Any:
        if self.width > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return original(self, *arguments, **options)

    monkeypatch.setattr(GroupProgram, "segment", segment)
    dataset = run_sweep(make_sweep(), tmp_path / "out")
    assert "8 runs at once do not fit into memory: going on with 4" in capsys.readouterr().err
    assert np.isfinite(dataset["policy_rank"]).all()
    assert [c.indices for c in store.read_layout(tmp_path / "out") or []] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_program_larger_than_estimated_is_narrowed_alike_at_the_start_and_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: GroupProgram
) -> None:
    """Two groups; the estimate says that all runs fit, the compiled program of the second that they do not."""
    content = CONTENT | {"axes": {"share_trunk": [False, True], "learning_rate": [1e-3, 1e-2]}, "seeds": 2}
    content["config"] = CONTENT["config"] | {"diagnostics": False}
    budget = 10**9
    monkeypatch.setattr(
        GroupProgram,
        "needed_memory",
        property(
            lambda self: budget * self.width // 2 if self.group.config.share_trunk else 1, lambda self, value: None
        ),
        raising=False,
    )
    run_sweep(parse_sweep(content), tmp_path / "whole", memory=budget, is_quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run_sweep(parse_sweep(content), tmp_path / "out", memory=budget, is_quiet=True)
    run_sweep(parse_sweep(content), tmp_path / "out", is_quiet=True)
    assert [c.width for c in store.read_layout(tmp_path / "out") or []] == [4, 2, 2]
    assert_same(tmp_path / "whole", tmp_path / "out")


def test_chunks_that_have_not_come_as_far_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_groups(make_sweep())[0]
    stop_after(monkeypatch, NUM_LOGS + 2)  # in the second of four chunks
    with pytest.raises(Stopped):
        run_sweep(make_sweep(), tmp_path / "out", memory=3 * estimate_run(group), is_quiet=True)
    partial = store.load_results(tmp_path / "out")
    assert partial.sizes["run"] == 4
    np.testing.assert_array_equal(partial["env_steps"][:, -1], [384, 384, np.nan, np.nan])
    np.testing.assert_array_equal(partial["env_steps"][:, 0], 0)
    np.testing.assert_array_equal(np.isnan(partial["policy_rank"][:, -1]), [False, False, True, True])


@pytest.mark.parametrize(
    ("num_runs", "num_weights", "minibatch_size", "width"),
    [
        (16, 10_000, 256, 4),
        (6, 10_000, 256, 3),
        (2, 10_000, 256, 2),
        (7, 10_000, 256, 1),
        (16, 100_000, 256, 2),
        (16, 1_000_000, 256, 1),
        (16, 10_000, 512, 2),
        (16, 10_000, 2048, 1),
    ],
)
def test_a_cpu_computes_as_many_runs_at_once_as_divide_them_and_its_cache_likes(
    num_runs: int, num_weights: int, minibatch_size: int, width: int
) -> None:
    state = SimpleNamespace(
        status=np.zeros(num_runs),
        obs=np.zeros((num_runs, 8, 10, 20)),
        params={"policy": np.zeros((num_runs, num_weights), np.float32)},
    )
    config = pjp.TrainConfig(env="gymnax/CartPole-v1", minibatch_size=minibatch_size, hidden_sizes=(64, 64))
    assert runs_at_once(config, state) == width  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_runs_in_groups_are_the_runs(width: int) -> None:
    runs = np.arange(8.0), np.arange(16.0).reshape(8, 2)
    total, twice = map_runs(lambda run: (run[0] + run[1].sum(), 2 * run[1]), runs, width)
    np.testing.assert_array_equal(total, runs[0] + runs[1].sum(axis=1))
    np.testing.assert_array_equal(twice, 2 * runs[1])


def test_runs_in_groups_are_measured_on_plasticity_tasks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop over groups looks minibatches up in the tasks of all runs, which stay as they were."""
    group = make_groups(make_sweep(seeds=4, axes={}))[0]

    def measured(width: int) -> tuple[np.ndarray, Any, Any]:
        monkeypatch.setattr("purejaxppo.sweep.program.runs_at_once", lambda config, state: width)
        program = GroupProgram(group, devices=jax.local_devices()[:1])
        runs = program.arguments()
        program._compiled["plasticity"] = program.lower("plasticity", runs).compile()  # the segments are not needed
        state, tasks = program.init(runs), program.tasks(runs)
        before = jax.tree.map(np.array, tasks)
        metrics = program.plasticity(runs, state, tasks)
        return np.asarray(metrics["policy_plasticity_loss"]), before, tasks

    side_by_side, _, _ = measured(4)
    assert len(set(side_by_side.tolist())) == 4
    for width in (1, 2):
        losses, before, after = measured(width)
        np.testing.assert_allclose(losses, side_by_side, rtol=1e-3)
        jax.tree.map(np.testing.assert_array_equal, before, after)


# --- Memory


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc's mallopt is told for both thresholds of malloc.h; a library without it changes nothing."""
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: calls.append((option, value)))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: library)
    devices._keep_freed_memory()
    assert sorted(calls) == [(-3, 2**31 - 1), (-1, 2**31 - 1)]
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: SimpleNamespace())
    devices._keep_freed_memory()


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 * 1024**3), ("500MB", 500_000_000), ("1.5 kib", 1536), ("1000", 1000), ("2B", 2)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size == parse_memory(size) == parse_memory(float(size))


def test_numbers_of_numpy_are_numbers() -> None:
    points = tuple({"num_epochs": n, "pfo_coef": np.float32(n)} for n in np.arange(2, 4))
    sweep = Sweep(name="a", seeds=(0,), points=points, config=pjp.TrainConfig(num_envs=np.int64(4)))  # pyright: ignore
    assert engine.checked(sweep, tensorboard=False).points == (
        {"num_epochs": 2, "pfo_coef": 2.0},
        {"num_epochs": 3, "pfo_coef": 3.0},
    )


def test_what_python_is_told_wrongly_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory is '4Gx', but must be a size such as 4GiB"):
        run_sweep(make_sweep(), tmp_path / "out", memory="4Gx")
    with pytest.raises(ConfigError, match=r"sweep is 'quickstart\.toml', but must be a pjp.Sweep"):
        run_sweep("quickstart.toml", tmp_path / "out")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="points is a mapping, but must be a sequence of them"):
        Sweep(name="a", seeds=(0,), points={"pfo_coef": [0, 1]})  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "much", "-1GB", "4 PB", "0", "1e9"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="memory is"):
        parse_memory(text)


@pytest.mark.parametrize("version", [1, 2])
def test_the_disk_cache_of_a_control_group_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    root = tmp_path / ("memory" if version == 1 else "")
    folder = root / "job"
    folder.mkdir(parents=True)
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    for name, value in zip(names, (1000, 900), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text("inactive_file 600\ntotal_inactive_file 700\n")
    (tmp_path / "cgroup").write_text("4:memory:/job\n" if version == 1 else "0::/job\n")
    places = {"/proc/self/cgroup": tmp_path / "cgroup", "/sys/fs/cgroup/memory": root, "/sys/fs/cgroup": root}
    monkeypatch.setattr(memory_module, "Path", lambda name: places[name])
    assert memory_module._free_in_control_groups() == [800 if version == 1 else 700]


def test_sizes_are_written_for_people() -> None:
    assert [format_memory(x) for x in (10, 1536, 5 * 1024**3)] == ["10 B", "1.5 KiB", "5.0 GiB"]


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 9), st.integers(1, 400), st.integers(1, 3))
def test_chunks_fit_cover_and_divide(runs: int, bytes_per_run: int, devices: int, budget: int, processes: int) -> None:
    width = chunk_width(runs, bytes_per_run, budget, devices, processes)
    a_process = -(-runs // processes)
    used = min(devices, a_process)
    assert width % used == 0
    assert width * bytes_per_run <= budget or width == used
    assert width - used < a_process  # no device is all padding
    if budget >= bytes_per_run * (a_process + used):
        assert width >= a_process  # one chunk when it fits


def test_the_estimate_is_above_what_the_program_takes_and_not_far(program: GroupProgram) -> None:
    group = make_groups(make_sweep(config=CONTENT["config"] | {"num_envs": 16, "num_steps": 128}))[0]
    larger = GroupProgram(group, 64)
    larger.compile(larger.arguments())
    assert 0.7 < 64 * estimate_run(group) / larger.needed_memory < 3


# --- As processes


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The command line as a process of its own, with as many CPU devices as cores."""
    command = [sys.executable, "-m", "purejaxppo", *arguments]
    return subprocess.Popen(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """What it printed until its end; one that does not end in time is not left computing beside other tests."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'name = "long"\nseeds = 2\n[config]\nenv = "gymnax/CartPole-v1"\ntotal_steps = 50_000_000\n'
        "hidden_sizes = [8]\nnum_log_points = 1000\ndiagnostics = false\n"
    )
    out = tmp_path / "out"
    process = start("sweep", str(file), "--out", str(out))
    deadline = time.monotonic() + 600
    while not list(out.glob("parts/*/*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = ended(process, 300)
    assert process.returncode == 130, stderr
    assert f"purejaxppo resume {out}" in stderr
    assert "Traceback" not in stderr
    steps = [int(path.stem) for path in out.glob("checkpoints/0000-0000/*.npz")]
    assert max(steps) == len(list(out.glob("parts/0000-0000/*.npz")))


@pytest.mark.slow
def test_killed_at_random_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    script = ROOT / "experiments" / "benchmarks" / "kill_and_resume.py"
    options = ["--runs", "8", "--steps", "600000", "--kills", "3", "--longest", "25"]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills; bit-equal" in done.stdout


@pytest.mark.slow
def test_two_processes_killed_and_resumed_give_what_one_process_with_two_devices_gives(tmp_path: Path) -> None:
    file, out = tmp_path / "sweep.toml", tmp_path / "two"
    file.write_text(
        'name = "shared"\nseeds = 4\n[config]\nenv = "gymnax/CartPole-v1"\ntotal_steps = 3_000_000\n'
        "hidden_sizes = [8]\nnum_log_points = 40\n"
    )
    cores = sorted(os.sched_getaffinity(0))[:2]

    def start_both() -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            coordinator = f"localhost:{free.getsockname()[1]}"
        processes = []
        for index in range(2):
            where = ["--coordinator", coordinator, "--num-processes", "2", "--process-index", str(index)]
            processes.append(start("sweep", str(file), "--out", str(out), "--quiet", *where, XLA_FLAGS=""))
            os.sched_setaffinity(processes[-1].pid, {cores[index % len(cores)]})  # one core, so one device
        return processes

    processes = start_both()
    deadline = time.monotonic() + 600
    while len(list(out.glob("checkpoints/*/*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.communicate()
    assert {path.parent.name for path in out.glob("checkpoints/*/*.npz")} == {"0000-0000", "0000-0001"}
    assert not (out / "results.nc").exists()
    for process in start_both():
        _, stderr = ended(process, 600)
        assert process.returncode == 0, stderr
    one = start("sweep", str(file), "--out", str(tmp_path / "one"), "--quiet", XLA_FLAGS="")
    ended(one, 600)
    assert one.returncode == 0
    a, b = (store.load_results(tmp_path / name) for name in ("one", "two"))
    if json.loads((tmp_path / "one/provenance.json").read_text())["num_devices"] == 2:
        xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())
    else:  # other widths a device, other rounding
        np.testing.assert_allclose(a["return_mean"][:, :2], b["return_mean"][:, :2], rtol=1e-5)


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """In a log point that takes minutes, where Python's own handlers would wait for its end."""
    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text(
        'name = "slow"\nseeds = 2\n[config]\nenv = "gymnax/CartPole-v1"\ntotal_steps = 1_000_000_000\n'
        "hidden_sizes = [8]\nnum_log_points = 2\ndiagnostics = false\n"
    )
    process = start("sweep", str(file), "--out", str(out))
    assert process.stderr is not None
    deadline, told = time.monotonic() + 600, ""
    while "compiled in" not in told and time.monotonic() < deadline:
        told += process.stderr.readline()
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = ended(process, 60)
    assert process.returncode == 130
    assert "Stopping after this log point" in stderr
    assert "Traceback" not in stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1.5 MiB of its own; only an administrator can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_ends_in_a_sentence_and_with_more_room_the_sweep_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "sweep.toml", small_disk / "out"
    file.write_text(
        'name = "full"\nseeds = 2\n[config]\nenv = "gymnax/CartPole-v1"\ntotal_steps = 40_960\n'
        "hidden_sizes = [8]\nnum_log_points = 40\n"
    )
    process = start("sweep", str(file), "--out", str(out), "--quiet")
    _, stderr = ended(process, 600)
    assert process.returncode == 1, stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith(f"purejaxppo: directory {out} cannot be written")
    assert last.endswith(f"continue with: purejaxppo resume {out}")
    assert "Traceback" not in stderr
    assert len(list(out.glob("parts/*/*.npz"))) > 0
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    process = start("resume", str(out), "--quiet")
    _, stderr = ended(process, 600)
    assert process.returncode == 0, stderr
    assert pjp.load_results(out).sizes["log"] == 41
