"""Sweeps that grow and meet, as processes: extend, kill, resume, merge, several directories; and the exit codes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import xarray as xr

from purejaxppo.results.export import long_table
from purejaxppo.sweep.engine import run_sweep
from purejaxppo.sweep.plan import parse_sweep
from purejaxppo.sweep.store import load_results

SWEEP = """
seeds = {seeds}
[config]
env = "gymnax/CartPole-v1"
total_steps = {steps}
num_envs = 2
num_steps = 16
num_epochs = 1
minibatch_size = 16
hidden_sizes = [8]
num_log_points = {logs}
diagnostics = {diagnostics}
[hparams]
learning_rate = {rate}
"""


@pytest.fixture(scope="module", autouse=True)
def two_cores() -> Iterator[None]:
    """A program of one run a core rounds otherwise than a wider one, so that bits depend on the number of cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])  # for the processes, too
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of the processes: a cache of compiled programs of their own, and fonts found before."""
    fonts = matplotlib.get_cachedir()
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "MPLCONFIGDIR": fonts}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished sweeps, runs/a and runs/b: other seeds, another learning rate."""
    folder = tmp_path_factory.mktemp("grow")
    diagnostics = "true\nnum_plasticity_points = 0"
    for name, seeds, rate in (("a", 2, 1e-3), ("b", [2, 3], 1e-2)):
        text = SWEEP.format(seeds=seeds, steps=2 * 32, logs=2, rate=rate, diagnostics=diagnostics)
        run_sweep(parse_sweep(tomllib.loads(text), default_name=name), folder / "runs" / name, is_quiet=True)
    return folder


def start(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "purejaxppo", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def call(
    arguments: Sequence[str | Path], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "purejaxppo", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_two_directories_are_read_as_one(folder: Path, environment: dict[str, str]) -> None:
    process = call(["summary", "runs/a", "runs/b"], folder, environment)
    assert (process.returncode, process.stderr) == (0, "")
    table = pd.read_csv(folder / "runs" / "a+b" / "summary.csv")
    assert table["learning_rate"].tolist() == [1e-3, 1e-2]
    assert table["runs"].tolist() == [2, 2]
    process = call(["plot", "runs/a", "runs/b", "--metric", "kl"], folder, environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Figure: runs/a+b/kl.png\n", "")
    process = call(["compare", "runs/a", "runs/b", "--against", "learning_rate=0.01"], folder, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith("Table: runs/a+b/compare_return_mean.csv\n")


def test_one_directory_twice_is_told_apart_by_its_names(folder: Path, environment: dict[str, str]) -> None:
    (folder / "copy").mkdir(exist_ok=True)
    (folder / "copy" / "results.nc").write_bytes((folder / "runs" / "a" / "results.nc").read_bytes())
    for command, written in (("claims", "claims.csv"), ("report", "report.html")):
        process = call([command, "copy", "runs/a"], folder, environment)
        assert (process.returncode, process.stderr) == (0, ""), command
        assert (folder / "copy+a" / written).is_file()
    assert "directory" in (folder / "copy+a" / "report.html").read_text()


def test_merge_makes_a_directory_that_every_command_takes(folder: Path, environment: dict[str, str]) -> None:
    process = call(["merge", "runs/a", "runs/b", "--out", "runs/c"], folder, environment)
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith("Dataset: runs/c/results.nc\n")
    dataset = load_results(folder / "runs" / "c")
    assert dataset["learning_rate"].values.tolist() == [1e-3, 1e-3, 1e-2, 1e-2]
    assert dataset["seed"].values.tolist() == [0, 1, 2, 3]
    process = call(["evaluate", "runs/c", "--episodes", "1"], folder, environment)
    assert process.returncode == 0, process.stderr
    assert pd.read_csv(folder / "runs" / "c" / "evaluation.csv")["run"].tolist() == dataset["run_index"].values.tolist()
    process = call(["merge", "runs/a", "runs/b", "--out", "runs/c"], folder, environment)
    assert process.returncode == 2
    assert process.stderr.startswith("purejaxppo: out is runs/c, which holds something")


def test_an_extension_that_is_stopped_exits_with_130_and_resume_ends_it_in_the_bits_of_one_sweep(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment = {name: value for name, value in environment.items() if name != "XLA_FLAGS"}  # computes much
    for name, seeds in (("small", 4), ("large", 8)):
        text = SWEEP.format(seeds=seeds, steps=600 * 32, logs=600, rate=1e-3, diagnostics="false")
        (tmp_path / f"{name}.toml").write_text(text)
        process = call(["sweep", f"{name}.toml", "--quiet"], tmp_path, environment)
        assert process.returncode == 0, process.stderr
    out = tmp_path / "runs" / "small"
    process = call(["extend", "runs/small", "--seeds", "8", "--plan-only"], tmp_path, environment)
    assert process.stdout.endswith("Extends runs/small: 4 runs are there, 4 are computed.\n")
    command = [sys.executable, "-m", "purejaxppo", "extend", "runs/small", "--seeds", "8"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 600
        while not [*out.glob("extension/parts/*/*.npz")] and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
        _, stderr = running.communicate(timeout=600)
    assert running.returncode == 130, stderr
    assert "continue with: purejaxppo resume runs/small" in stderr
    assert load_results(out).sizes["run"] == 4
    process = call(["extend", "runs/small", "--seeds", "9"], tmp_path, environment)
    assert process.returncode == 2
    assert "is being extended already; finish that with: purejaxppo resume runs/small" in process.stderr
    process = call(["resume", "runs/small", "--quiet"], tmp_path, environment)
    assert process.returncode == 0, process.stderr
    found, expected = load_results(out), load_results(tmp_path / "runs" / "large")
    xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
    assert long_table(found).equals(long_table(expected))
    process = call(["extend", "runs/small", "--seeds", "8", "--quiet"], tmp_path, environment)
    assert process.returncode == 0, process.stderr
    assert "Nothing is missing: runs/small has all 8 runs." in process.stderr


@pytest.mark.slow
def test_two_processes_share_an_extension(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Eight new seeds, four in each process: the bits of one process; both wait for the end, and one tells of it."""
    for name in ("one", "two"):
        shutil.copytree(folder / "runs" / "a", tmp_path / name)
    extend = ["extend", "--seeds", "10", "--quiet"]
    process = call([*extend, "one"], tmp_path, environment)
    assert process.returncode == 0, process.stderr
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = ["--coordinator", f"localhost:{free.getsockname()[1]}", "--num-processes", "2", "--process-index"]
    both = [start([*extend, "two", *where, str(index)], tmp_path, environment) for index in range(2)]
    told = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert [stdout.endswith("Dataset: two/results.nc\n") for stdout, _ in told] == [True, False]
    found, expected = (load_results(tmp_path / name) for name in ("two", "one"))
    xr.testing.assert_identical(found.drop_attrs().drop_vars("group"), expected.drop_attrs().drop_vars("group"))
    assert len(list((tmp_path / "two" / "policies").iterdir())) == 1 + 2
    assert not (tmp_path / "two" / "extension").exists()


@pytest.mark.parametrize(
    ("code", "arguments", "told"),
    [
        (0, ["metrics"], ""),
        (1, ["toy", "--out", "file/figure.png"], "purejaxppo: file file/figure.png cannot be written"),
        (2, ["summary", "nowhere"], "purejaxppo: directory nowhere holds no results"),
        (2, ["summary"], ""),
        (2, ["merge", "nowhere", "--out", "x"], "purejaxppo: merge has 1 directory, but must have at least two."),
        (2, ["extend", "nowhere", "--seeds", "3"], "purejaxppo: directory nowhere is not a sweep's"),
        (2, ["no-such-command"], ""),
    ],
)
def test_exit_codes_are_those_of_the_page(
    code: int, arguments: list[str], told: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("")
    process = call(arguments, tmp_path, environment)
    assert process.returncode == code, process.stderr
    assert process.stderr.startswith(told)
    page = (Path(__file__).parent.parent / "experiments" / "clusters.md").read_text(encoding="utf-8")
    assert f"\n| {code} |" in page
