"""The command line in strange surroundings: streams, folders, variables of the environment, arguments, files.

As processes, on results that nobody had to train for.
"""

import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from test_plots_figures import made_up

import purejaxppo
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import load, save
from purejaxppo.results.runs import how_far, progress_sentence
from purejaxppo.sweep.plan import Sweep, parse_sweep, to_json
from purejaxppo.sweep.terminal import guard_streams, usual_arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with results of six runs, in runs/x."""
    folder = tmp_path_factory.mktemp("surroundings")
    save(made_up({"pfo_coef": [0.0, 1.0]}, num_seeds=3), folder / "runs" / "x" / "results.nc")
    return folder


def call(
    arguments: Sequence[str], folder: Path, shell: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line; with `shell` as a part of a shell's line, such as "2>&-"."""
    line = [sys.executable, "-m", "purejaxppo", *arguments]
    command = ["bash", "-c", f'"$@" {shell}', "bash", *line] if shell else line
    settings = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300, check=False)


# --- Streams


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_closed_or_full_standard_error_changes_nothing(folder: Path, shell: str) -> None:
    process = call(["train", "--plan-only"], folder, shell)
    assert process.returncode == 0
    assert process.stdout.startswith("Sweep 'train': 1 runs")
    assert call(["train", "--num-epochs", "0"], folder, shell).returncode == 2


def test_output_that_cannot_be_written_is_told(folder: Path) -> None:
    process = call(["envs"], folder, ">/dev/full")
    assert process.returncode == 1
    assert process.stderr == "purejaxppo: standard output cannot be written: No space left on device.\n"
    assert call(["envs"], folder, ">&-").returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_standard_output_has_no_letters_for_is_shown_as_codes(encoding: str, monkeypatch: Any) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    guard_streams()
    print("Größe \N{EURO SIGN} \udcf6", flush=True)
    found = streams["stdout"].buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert found == ("Gr\\xf6\\xdfe" if encoding == "ascii" else "Größe") + " \\u20ac \\udcf6\n"


@pytest.mark.parametrize(("setting", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_colour_in_the_help_where_nobody_wants_it(setting: dict[str, str], is_coloured: bool) -> None:
    ours, theirs = pty.openpty()
    settings = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"} | setting
    process = subprocess.Popen(
        [sys.executable, "-m", "purejaxppo", "--help"], env=settings, stdout=theirs, stdin=theirs
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            text += (got := os.read(ours, 4096))
        except OSError:  # the end of a terminal
            break
        if not got:
            break
    os.close(ours)
    assert process.wait() == 0
    assert b"sweep" in text
    assert (b"\x1b[" in text) == is_coloured


# --- Folders


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["summary", "runs/x"], "summary.csv"),
        (["claims", "runs/x"], "claims.csv"),
        (["compare", "runs/x"], "compare_return_mean.csv"),
    ],
)
def test_what_cannot_be_kept_is_printed_first(folder: Path, arguments: list[str], name: str) -> None:
    """A folder in its place stands for a folder that cannot be written."""
    (folder / "runs" / "x" / name).mkdir()
    process = call(arguments, folder)
    assert process.returncode == 1
    assert len(process.stdout.splitlines()) > 3
    (sentence,) = process.stderr.splitlines()
    assert f"file runs/x/{name} cannot be written: " in sentence
    assert sentence.endswith("--out writes elsewhere.")
    process = call([*arguments, "--out", f"new/{name}"], folder)
    assert process.returncode == 0, process.stderr
    assert (folder / "new" / name).read_text().count("\n") > 1


@pytest.mark.parametrize(
    "command", ["sweep", "plot", "summary", "claims", "compare", "report", "evaluate", "render", "export"]
)
def test_every_command_that_writes_takes_out(command: str, folder: Path) -> None:
    assert "--out" in call([command, "--help"], folder).stdout


def test_a_home_folder_is_found_where_no_shell_looks_for_it(folder: Path) -> None:
    process = call(["summary", "runs/x", "--out=~/mine.csv"], folder, HOME=str(folder))
    assert process.returncode == 0, process.stderr
    assert (folder / "mine.csv").is_file()
    process = call(["resume", "~/nothing"], folder, HOME=str(folder))
    assert f"directory {folder}/nothing is not a sweep's" in process.stderr


def test_results_are_read_where_files_cannot_be_locked(folder: Path) -> None:
    """Somebody holds the lock that HDF5 would ask for; where there are none it would fail alike."""
    with open(folder / "runs" / "x" / "results.nc", "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = call(["summary", "runs/x", "--out", "locked.csv"], folder)
    assert (process.returncode, process.stderr) == (0, "")


def test_an_export_says_how_to_upload_it(folder: Path) -> None:
    pytest.importorskip("wandb")
    arguments = ["export", "runs/x", "--to", "wandb", "--out", "elsewhere"]
    process = call(arguments, folder, WANDB_MODE="offline", HOME=str(folder))
    assert process.returncode == 0, process.stderr
    told, upload = process.stdout.splitlines()[-2:]
    assert told == "Exported: elsewhere/export/wandb"
    assert upload == "Upload: wandb login; wandb sync elsewhere/export/wandb/offline-run-*"


# --- Variables of the environment


def test_the_backend_of_a_notebook_is_not_asked_for(folder: Path) -> None:
    fonts = matplotlib.get_configdir()  # or it may say that it looks for fonts
    backend = "module://nowhere.backend_inline"
    process = call(["plot", "runs/x", "--out", "a.png"], folder, MPLBACKEND=backend, MPLCONFIGDIR=fonts)
    assert (process.returncode, process.stderr) == (0, "")


def test_a_platform_that_is_not_there_is_one_sentence(folder: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    process = call(["train", "--dry-run"], folder, JAX_PLATFORMS="cuda")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("purejaxppo: JAX_PLATFORMS is 'cuda', which this machine")
    assert "Traceback" not in process.stderr


# --- Arguments and files


def test_the_version(folder: Path) -> None:
    process = call(["--version"], folder)
    assert (process.returncode, process.stdout) == (0, f"purejaxppo {purejaxppo.__version__}\n")


def test_arguments_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    whole = ["--total-steps"]
    given = ["train", "--total-steps", "1e6", "--total-steps=2.5e3", "--learning-rate", "1e6", "--out=~/x", "~", "a~b"]
    expected = ["train", "--total-steps", "1000000", "--total-steps=2500", "--learning-rate", "1e6"]
    assert usual_arguments(given, whole) == [*expected, "--out=/home/me/x", "/home/me", "a~b"]
    for text in ("1.5e0", "1.2.3M", "1..5e6", ".k", "1.2.3e6"):
        assert usual_arguments(["--total-steps", text, "--total-steps", "x"], whole)[1] == text
    with pytest.raises(ConfigError, match=r"option --lr is unknown; did you mean --learning-rate\?"):
        usual_arguments(["train", "--lr=3"], whole)


def test_a_file_as_editors_and_people_write_it(tmp_path: Path) -> None:
    """With a byte order mark, and 1e6 for a whole number."""
    path = tmp_path / "a.toml"
    path.write_bytes(b'\xef\xbb\xbf[config]\nenv = "gymnax/CartPole-v1"\ntotal_steps = 1e6\nmax_episode_steps = 2e2\n')
    config = Sweep.from_toml(path).config
    assert (config.total_steps, config.max_episode_steps) == (1_000_000, 200)
    assert isinstance(config.total_steps, int)
    with pytest.raises(ConfigError, match=r"num_envs is 1\.5, but must be a whole number"):
        parse_sweep({"config": {"num_envs": 1.5}})
    assert parse_sweep({"axes": {"total_steps": [1e3, 1e6]}}).points[0] == {"total_steps": 1000}


def test_names_that_others_use_are_translated() -> None:
    for content in ({"hparams": {"lr": 1.0}}, {"axes": {"lr": [1.0]}}):
        with pytest.raises(ConfigError, match=r"'lr' is unknown; did you mean learning_rate\?"):
            parse_sweep(content)


def test_lists_are_fine_where_python_wants_a_tuple() -> None:
    sizes: Any = [16, 8]
    config = TrainConfig(hidden_sizes=sizes).validate()
    assert config == TrainConfig(hidden_sizes=(16, 8))
    hash(config)


def test_the_environments_are_listed_by_dir() -> None:
    from purejaxppo import envs

    assert {"make", "register", "Environment", "list_environments"} <= set(dir(envs))


# --- What is not finished


def test_partial_results_say_how_far_they_are(tmp_path: Path) -> None:
    """Of 25 log points 3, of one run 1; two more have not begun."""
    dataset = made_up({"pfo_coef": [0.0, 1.0]}, num_seeds=2)
    config = {"env": "gymnax/CartPole-v1", "total_steps": 2500, "num_envs": 1, "num_steps": 100, "num_log_points": 25}
    config |= {"minibatch_size": 10}
    sweep = parse_sweep({"seeds": 3, "config": config, "axes": {"pfo_coef": [0.0, 1.0]}})
    steps = np.array([[0.0, 100, 200, 300]] * 3 + [[0.0, 100, np.nan, np.nan]])
    partial = dataset.isel(log=slice(0, 4)).drop_vars("env_steps").assign_coords(env_steps=(("run", "log"), steps))
    partial.attrs["sweep"] = json.dumps(to_json(sweep))
    assert how_far(partial) == "1 to 3 of 25 log points"
    expected = "Not finished: runs have come to 1 to 3 of 25 log points; 2 of 6 runs have no log point yet."
    assert progress_sentence(partial) == expected
    assert how_far(partial.isel(run=[0, 1])) == "3 of 25 log points"
    save(partial, tmp_path / "results.nc")
    process = call(["summary", "results.nc"], tmp_path)
    assert (process.returncode, process.stdout.splitlines()[-1]) == (0, expected), process.stderr
    from purejaxppo.plots.captions import describe_sweep

    text = describe_sweep(load(tmp_path / "results.nc"))
    assert "300 of 2.5k steps, 1 to 3 of 25 log points" in text
    assert text.endswith("4 of 6 runs")


def test_a_sweep_whose_furthest_run_is_at_its_end_is_not_finished() -> None:
    """The caption went by that run: 2.5k steps, where others were at their first log point."""
    from purejaxppo.plots.captions import describe_sweep

    dataset = made_up({"pfo_coef": [0.0, 1.0]}, num_seeds=2, num_logs=5)
    config = {"total_steps": 500, "num_envs": 1, "num_steps": 100, "num_log_points": 5}
    points = [{"pfo_coef": 0.0}, {"pfo_coef": 1.0}]
    dataset.attrs["sweep"] = json.dumps({"config": config, "points": points, "seeds": [0, 1]})
    steps = np.tile(np.arange(100.0, 600, 100), (4, 1))
    whole = dataset.assign_coords(env_steps=(("run", "log"), steps))
    assert describe_sweep(whole) == "500 steps, seeds 0, 1, 4 runs"
    steps[2, 1:] = np.nan
    behind = dataset.assign_coords(env_steps=(("run", "log"), steps))
    assert describe_sweep(behind) == "500 of 500 steps, 1 to 5 of 5 log points, seeds 0, 1, 4 runs"
    assert describe_sweep(whole.isel(run=[0, 1])) == "500 steps, seeds 0, 1, 2 of 4 runs"


def test_a_finished_sweep_says_nothing_of_that() -> None:
    assert how_far(made_up({"pfo_coef": [0.0]}, num_seeds=2)) == ""
