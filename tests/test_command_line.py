"""The command line: what it prints, what it writes, how it ends, and one sentence for every mistake.

As a process, but for mistakes that are seen before JAX is set up: there are 150 of them.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import pytest
from test_plots_figures import made_up

from purejaxppo import own
from purejaxppo.__main__ import main
from purejaxppo.envs import list_environments
from purejaxppo.results.dataset import save
from purejaxppo.results.registry import METRICS
from purejaxppo.sweep.store import load_results

HUGE = 10**30
TRAIN = ["--env", "probe/ValueOnly", "--total-steps", "64", "--num-steps", "8", "--minibatch-size", "8"]
TRAIN += ["--hidden-sizes", "4", "--num-log-points", "2", "--num-epochs", "1", "--no-time-aware", "--no-diagnostics"]
SWEEP = """
seeds = 2
[config]
env = "gymnax/CartPole-v1"
total_steps = 128
num_envs = 2
num_steps = 16
num_epochs = 1
minibatch_size = 16
hidden_sizes = [8]
num_log_points = 2
[axes]
pfo_coef = [0.0, 1.0]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of the processes: a cache of compiled programs of their own, and fonts found before."""
    fonts = matplotlib.get_cachedir()
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "MPLCONFIGDIR": fonts}


def call(
    arguments: Sequence[str | Path], folder: Path, environment: dict[str, str], timeout: int = 600
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "purejaxppo", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def called(
    arguments: Sequence[str | Path], folder: Path, streams: pytest.CaptureFixture[str]
) -> subprocess.CompletedProcess[str]:
    """The same in this process, which starts no other: for what ends before JAX computes anything."""
    attributes = {"argv": ["purejaxppo", *map(str, arguments)], "path": [*sys.path]}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (attributes | {"stdout": sys.stdout, "stderr": sys.stderr}).items():
            patch.setattr(sys, name, value)
        for name in ("_beside", "before_first_import"):
            patch.setattr(own, name, [])
        patch.setenv("MPLBACKEND", "agg")
        patch.chdir(folder)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        told = streams.readouterr()
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, told.out, told.err)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes; None for a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


# --- What answers at once


def test_help_answers_at_once_and_names_every_command(tmp_path: Path, environment: dict[str, str]) -> None:
    """0.4 s where nothing else runs; of the processor, as the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = call(["--help"], tmp_path, environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert (process.returncode, process.stderr) == (0, "")
    for command in (
        "train",
        "sweep",
        "resume",
        "plot",
        "summary",
        "claims",
        "compare",
        "report",
        "toy",
        "evaluate",
        "render",
        "export",
        "envs",
        "metrics",
    ):
        assert command in process.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["envs"], ["metrics"], ["train", "--env", "gymnax/CartPol"]]
)
def test_light_commands_do_not_import_jax(arguments: list[str], tmp_path: Path, environment: dict[str, str]) -> None:
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(40 + ('jax' in sys.modules)))\n"
        f"sys.argv = ['purejaxppo', *{arguments}]\n"
        "import purejaxppo.__main__\n"
        "purejaxppo.__main__.main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=240, check=False
    )
    assert b"Traceback" not in process.stderr
    assert process.returncode == 40


def test_environments_are_listed_one_a_line(tmp_path: Path, environment: dict[str, str]) -> None:
    process = call(["envs"], tmp_path, environment)
    assert (process.returncode, process.stdout.splitlines(), process.stderr) == (0, list_environments(), "")


def test_the_toy_prints_its_ratios_and_writes_its_figure(tmp_path: Path, environment: dict[str, str]) -> None:
    process = call(["toy", "--out", "new/toy.png", "--steps", "20", "--learning-rate", "1.5"], tmp_path, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines()[-1] == "Figure: new/toy.png"
    assert "    3      1.635      1.978    1.635    2.000" in process.stdout.splitlines()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["toy.pdf", "toy.png"]


def test_metrics_are_listed_with_unit_and_definition(tmp_path: Path, environment: dict[str, str]) -> None:
    process = call(["metrics"], tmp_path, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert len(process.stdout.splitlines()) == len(METRICS)
    assert f"return_mean [reward]: {METRICS['return_mean'].definition}" in process.stdout


# --- Training


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    """Arguments come on top of the preset: its 2 environments, our 8 steps of each."""
    process = call(
        ["train", "--preset", "paper_mujoco", *TRAIN, "--seeds", "3", "--dry-run"], tmp_path, environment, timeout=500
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("Sweep 'train': 3 runs = 1 points x 3 seeds, 1 program, 192 ")
    assert "program 1: probe/ValueOnly, 3 runs x 4 updates of 2 x 8 steps, 1 epochs x 2 minibatches" in process.stdout
    assert contents(tmp_path) == {}


def test_a_dry_run_does_not_take_as_long_as_a_log_point(tmp_path: Path, environment: dict[str, str]) -> None:
    """Of these there are 2, of 25,000,000 updates each: a day. It says what it is doing, and what takes the time."""
    size = ["--total-steps", "8e8", "--seeds", "2", "--diagnostics", "--num-plasticity-points", "0"]
    process = call(["train", *TRAIN, *size, "--dry-run"], tmp_path, environment, timeout=500)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("Estimated time: ")]
    assert " h " in lines[number]
    names = ["rollouts", "epochs", "diagnostics", "plasticity", "compiling"]
    assert [line.split()[0] for line in lines[number + 1 :]] == names
    assert "num_plasticity_points" in lines[number + 4]
    said = [line.split(";")[0] for line in process.stderr.splitlines()]
    assert said[0] == "program 1 of 1: compiling, 2 runs at once"
    assert said[1].startswith("program 1 of 1: compiled in ")
    assert said[2] == "program 1 of 1: compiled its parts"
    assert contents(tmp_path) == {}


def test_plan_only_compiles_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    """It does not even import JAX, and so answers at once."""
    (tmp_path / "tiny.toml").write_text(SWEEP)
    code = "import sys, purejaxppo.__main__ as m; m.main(); sys.exit(40 + ('jax' in sys.modules))"
    arguments = [sys.executable, "-c", code, "sweep", "tiny.toml", "--plan-only"]
    process = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 40, process.stderr
    assert process.stdout.startswith("Sweep 'tiny': 4 runs = 2 points x 2 seeds, 1 program")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, Any]:
    """A folder with a sweep file, its results in runs/tiny, and the process that made them."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "tiny.toml").write_text(SWEEP)
    return folder, call(["sweep", "tiny.toml"], folder, environment)


@pytest.mark.parametrize("name", ["1", "6", "spectrum", "survival"])
def test_figures_are_drawn_into_the_directory(swept: tuple[Path, Any], name: str, environment: dict[str, str]) -> None:
    process = call(["plot", "runs/tiny", "--figure", name], swept[0], environment)
    base = f"runs/tiny/figure{name}" if name.isdigit() else f"runs/tiny/{name}"
    assert (process.returncode, process.stdout, process.stderr) == (0, f"Figure: {base}.png\n", "")
    assert (swept[0] / f"{base}.png").read_bytes().startswith(b"\x89PNG")
    assert (swept[0] / f"{base}.pdf").read_bytes().startswith(b"%PDF")


def test_several_environments_get_a_figure_each(tmp_path: Path, environment: dict[str, str]) -> None:
    save(made_up({"env": ["gymnax/A", "gymnax/B"]}, num_seeds=2), tmp_path / "out" / "results.nc")
    process = call(["plot", "out", "--figure", "1"], tmp_path, environment)
    figures = [f"out/figure1_gymnax_{name}.png" for name in "AB"]
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == [f"Figure: {figure}" for figure in figures]
    assert len({(tmp_path / figure).read_bytes() for figure in figures}) == 2


def test_any_metric_is_drawn_where_one_says(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    options = "--metric kl policy_srank --by pfo_coef --where seed=1 --out picture.png"
    process = call(["plot", "runs/tiny", *options.split()], swept[0], environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Figure: picture.png\n", "")
    process = call(["plot", "runs/tiny", "--metric", "kl", "--facet", "pfo_coef", "--paper"], swept[0], environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Figure: runs/tiny/kl.pdf\n", "")
    for suffix, begin in {"pdf": b"%PDF", "svg": b"<?xml", "txt": b"KL(old || new) over training. tiny: "}.items():
        assert (swept[0] / f"runs/tiny/kl.{suffix}").read_bytes().startswith(begin)


def test_a_report_is_written_into_the_directory(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    process = call(["report", "runs/tiny"], swept[0], environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Report: runs/tiny/report.html\n", "")
    page = (swept[0] / "runs" / "tiny" / "report.html").read_text()
    assert "gymnax/CartPole-v1, 4 runs" in page
    assert page.endswith("</html>\n")


def test_a_sweep_ends_in_a_dataset_a_table_and_a_figure(swept: tuple[Path, Any]) -> None:
    folder, process = swept
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    for line in ("Figure: runs/tiny/overview.png", "Dataset: runs/tiny/results.nc"):
        assert line in process.stdout.splitlines()
    dataset = load_results(folder / "runs" / "tiny")
    assert dict(dataset.sizes) == dict(dataset.sizes) | {"run": 4, "log": 3}
    assert dataset["pfo_coef"].values.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert dataset["seed"].values.tolist() == [0, 1, 0, 1]
    assert dataset["env_steps"].values.tolist() == [0, 64, 128]
    assert dataset["status"].values.tolist() == [0, 0, 0, 0]
    assert dataset.attrs["command"].endswith("sweep tiny.toml")
    table = pd.read_csv(folder / "runs" / "tiny" / "summary.csv")
    assert table["pfo_coef"].tolist() == [0.0, 1.0]
    assert table["runs"].tolist() == [2, 2]
    assert (folder / "runs" / "tiny" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_summary_prints_the_table_again(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    folder, process = swept
    again = call(["summary", "runs/tiny"], folder, environment)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.strip() in process.stdout


def test_plot_draws_the_figure_again(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    folder, _ = swept
    (folder / "runs" / "tiny" / "overview.png").unlink()
    process = call(["plot", "runs/tiny"], folder, environment)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Figure: runs/tiny/overview.png\n", "")
    assert (folder / "runs" / "tiny" / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_claims_are_printed_and_kept(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    """Two seeds of two log points decide nothing, and the sweep has no axis num_epochs."""
    folder, _ = swept
    process = call(["claims", "runs/tiny"], folder, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith("Table: runs/tiny/claims.csv\n")
    table = pd.read_csv(folder / "runs" / "tiny" / "claims.csv")
    verdicts = {row["claim"]: row["verdict"] for row in table.to_dict("records") if pd.isna(row["part"])}
    assert list(verdicts) == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert set(verdicts.values()) <= {"INCONCLUSIVE", "NOT OBSERVED", "NOT TESTED"}
    assert verdicts["C2"] == "NOT TESTED"
    assert "C2     NOT TESTED" in process.stdout
    assert process.stdout.splitlines()[0].endswith("% of the paper's length")
    process = call(["claims", "runs/tiny", "--format", "markdown"], folder, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert "| C2 | NOT TESTED |" in process.stdout


def test_a_comparison_is_printed_and_kept(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    folder, _ = swept
    process = call(["compare", "runs/tiny", "--metric", "policy_rank", "--lowest"], folder, environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith("Table: runs/tiny/compare_policy_rank.csv\n")
    assert process.stdout.splitlines()[0].split()[:5] == ["point", "collapsed", "never", "learned", "policy_rank"]
    assert pd.read_csv(folder / "runs" / "tiny" / "compare_policy_rank.csv")["best"].sum() == pytest.approx(1)


def test_a_comparison_is_made_against_a_point_and_written_as_latex(
    swept: tuple[Path, Any], environment: dict[str, str]
) -> None:
    arguments = ["compare", "runs/tiny", "--against", "pfo_coef=1", "--format", "latex", "--within"]
    process = call(arguments, swept[0], environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("\\begin{tabular}")
    table = pd.read_csv(swept[0] / "runs" / "tiny" / "compare_return_mean.csv")
    assert table["pfo_coef"].tolist() == [1.0, 0.0]
    assert table["is_base"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["compare", "runs/tiny", "--against", "pfo_coef=7"], ("against is 'pfo_coef=7'", "they have pfo_coef: 0, 1")),
        (["compare", "runs/tiny", "--within", "num_epoch"], ("swept field 'num_epoch'", "allowed are pfo_coef")),
        (["compare", "runs/tiny", "--format", "html"], ("format 'html'", "allowed are text, markdown, latex")),
        (["summary", "runs/tiny", "--format", "markdwn"], ("format 'markdwn'", "did you mean markdown")),
    ],
)
def test_what_a_table_cannot_be_is_refused(
    swept: tuple[Path, Any], arguments: list[str], fragments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(called(arguments, swept[0], capfd), fragments)


def test_the_summary_is_printed_in_markdown(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    process = call(["summary", "runs/tiny", "--format", "markdown"], swept[0], environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("| pfo_coef | collapsed | never learned | return |")


def test_claims_about_an_unknown_sweep_are_refused(
    swept: tuple[Path, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = load_results(swept[0] / "runs" / "tiny")
    del dataset.attrs["sweep"]
    save(dataset, tmp_path / "results.nc")
    before = contents(tmp_path)
    fragments = ("attribute sweep is missing or damaged", "plain PPO")
    assert_refused(called(["claims", "results.nc"], tmp_path, capfd), fragments)
    assert contents(tmp_path) == before


def test_export_names_the_file_it_wrote(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    folder, _ = swept
    process = call(["export", "runs/tiny", "--to", "csv"], folder, environment)
    assert (process.returncode, process.stdout) == (0, "Exported: runs/tiny/export/results.csv\n"), process.stderr
    assert len(pd.read_csv(folder / "runs" / "tiny" / "export" / "results.csv")) == 4 * 3


# --- Mistakes


class Mistake(NamedTuple):
    """A mistake: a sweep file's content (or a command), fragments of the sentence, and files that are there before."""

    name: str
    content: str | bytes
    fragments: tuple[str, ...]
    command: tuple[str, ...] = ("sweep", "file.toml", "--out", "out")
    files: dict[str, str | bytes] = {}  # noqa: RUF012  # a path that ends in / is an empty folder


def config(field: str, value: str, *fragments: str) -> Mistake:
    return Mistake(f"config-{field}-{value[:20]}", f"[config]\n{field} = {value}", (field, *fragments))


def hparam(field: str, value: str, *fragments: str) -> Mistake:
    return Mistake(f"hparams-{field}-{value[:20]}", f"[hparams]\n{field} = {value}", (field, *fragments))


def file(name: str, content: str | bytes, *fragments: str) -> Mistake:
    return Mistake(name, content, fragments)


def command(line: str, *fragments: str, files: dict[str, str | bytes] | None = None) -> Mistake:
    return Mistake(line, "", fragments, tuple(line.split()), files or {})


CARTPOLE = '[config]\nenv = "gymnax/CartPole-v1"\n'
SIZES = ("total_steps", "num_envs", "num_steps", "num_epochs", "minibatch_size", "num_log_points")
FOUR_FIELDS = ("pfo_coef", "critic_pfo_coef", "value_coef", "entropy_coef")
MISTAKES = [
    # Unknown names, each with a suggestion.
    file("unknown-key", "seed = 3", "key 'seed' is unknown", "did you mean seeds"),
    config("num_epoch", "4", "[config] field", "did you mean num_epochs"),
    hparam("learning_rat", "1e-3", "[hparams] field", "did you mean learning_rate"),
    file("unknown-axis", "[axes]\npfo_coeff = [1.0]", "swept field 'pfo_coeff'", "did you mean pfo_coef"),
    file("unknown-point", "[[points]]\nnum_epoch = 1", "swept field 'num_epoch'", "did you mean num_epochs"),
    file("unknown-preset", 'preset = "paper_atary"', "preset 'paper_atary'", "did you mean paper_atari"),
    config("env", '"gymnax/CartPol-v1"', "did you mean 'gymnax/CartPole-v1'"),
    config("env", '"CartPole-v1"', "did you mean 'gymnax/CartPole-v1'"),
    config("env", '"gym/Nothing"', "'gym/Nothing'", "purejaxppo envs"),
    config("env", '"brax/swimmer"', "not supported"),
    file("axis-of-environments", '[axes]\nenv = ["gymnax/CartPole-v1", "brax/hoper"]', "did you mean 'brax/hopper'"),
    # Fields in the wrong table, tables that are none.
    config("gamma", "0.9", "is in [config]", "belongs in [hparams]"),
    hparam("num_envs", "4", "is in [hparams]", "belongs in [config]"),
    file("config-no-table", "config = 3", "config is 3", "must be a table"),
    file("axes-no-table", "axes = [1]", "axes is [1]", "must be a table"),
    # Wrong types.
    config("num_envs", '"8"', "'8'", "whole number"),
    config("num_envs", "true", "True", "whole number"),
    config("num_envs", "8.5", "8.5", "whole number"),
    config("num_envs", "[8]", "(8,)", "whole number"),
    config("num_envs", "2024-01-01", "2024", "whole number"),
    config("share_trunk", "1", "is 1", "true or false"),
    config("hidden_sizes", "64", "is 64", "list of whole numbers"),
    config("hidden_sizes", "[64, 1.5]", "1.5", "list of whole numbers"),
    config("env", "3", "is 3", "a string"),
    config("env", "{a = 1}", "{'a': 1}", "a string"),
    config("activation", '"elu"', "'elu'", "'relu', 'tanh'"),
    config("brax_backend", '"bullet"', "'bullet'", "'spring'"),
    hparam("learning_rate", '"3e-4"', "'3e-4'", "a number"),
    hparam("learning_rate", "[3e-4]", "0.0003", "a number"),
    hparam("learning_rate", "true", "True", "a number"),
    # Sizes.
    *(config(name, "0", "is 0", "at least 1") for name in SIZES),
    *(config(name, "-3", "is -3", "at least 1") for name in SIZES),
    config("hidden_sizes", "[64, 0]", "[64, 0]", "at least 1"),
    config("hidden_sizes", "[64, -1]", "[64, -1]", "at least 1"),
    config("hidden_sizes", "[]", "[]", "non-empty"),
    config("max_episode_steps", "0", "is 0", "at least 1"),
    config("num_snapshots", "-1", "is -1", "at least 0"),
    config("num_evaluation_episodes", "-1", "is -1", "at least 0"),
    config("evaluation_actions", '"greedy"', "'greedy'", "'sample', 'mode'"),
    config("minibatch_size", "1025", "is 1025", "at most num_envs x num_steps = 8 x 128 = 1024"),
    *(config(name, str(HUGE), "000000", "at most") for name in SIZES),
    config("hidden_sizes", f"[{HUGE}]", str(HUGE), "at most 2147483647"),
    # Numbers.
    hparam("learning_rate", "nan", "nan", "finite"),
    hparam("learning_rate", "inf", "inf", "finite"),
    hparam("learning_rate", "-1e-3", "-0.001", "at least 0"),
    hparam("learning_rate", "1" + 400 * "0", "inf", "finite"),
    hparam("gamma", "1.01", "1.01", "between 0 and 1"),
    hparam("gae_lambda", "-0.1", "-0.1", "between 0 and 1"),
    hparam("clip_eps", "0", "is 0", "greater than 0"),
    hparam("adam_beta1", "1", "1.0", "below 1"),
    hparam("adam_beta2", "1.0", "1.0", "below 1"),
    hparam("pfo_coef", "-1", "-1.0", "at least 0"),
    hparam("max_grad_norm", "0.0", "0.0", "greater than 0"),
    # What has no effect (tests/test_inert.py), and no environment.
    file("no-effect", f"{CARTPOLE}[hparams]\nkl_coef = 3", "kl_coef has no effect while"),
    file("no-env", "[config]\nnum_envs = 4", "file.toml names no env", "[config] needs one"),
    file("empty", "", "file.toml names no env"),
    command("train --kl-coef 3 --out out", "kl_coef has no effect while kl_penalty is false, but is 3.0"),
    # Axes and points.
    file("axis-empty", "[axes]\npfo_coef = []", "axes.pfo_coef is []", "non-empty list"),
    file("axis-scalar", "[axes]\npfo_coef = 1.0", "axes.pfo_coef is 1.0", "non-empty list"),
    file("axis-twice", "[axes]\nnum_epochs = [2, 3]\npfo_coef = [1, 0, 1.0]", "axes.pfo_coef has 1.0 twice"),
    file("axis-wrong-value", "[axes]\nnum_epochs = [4, 0]", "num_epochs is 0", "at least 1"),
    file("axis-wrong-type", '[axes]\ngamma = [0.9, "x"]', "gamma is 'x'", "a number"),
    file("axis-no-list-of-lists", "[axes]\nhidden_sizes = [64]", "hidden_sizes is 64", "list of whole numbers"),
    file(
        "axes-too-many",
        "[axes]\n" + "".join(f"{name} = {list(range(100))}\n" for name in FOUR_FIELDS),
        "axes have 100000000 points",
        "at most 1000000",
    ),
    file("points-same", "[[points]]\ngamma = 0.9\n[[points]]\ngamma = 0.9", "points[1]", "same"),
    file("points-differ", "[[points]]\ngamma = 0.9\n[[points]]\nshare_trunk = 3", "share_trunk is 3", "true or"),
    file("points-no-list", "[points]\ngamma = 0.9", "points is", "list of tables"),
    file("axes-and-points", "[axes]\ngamma = [0.9]\n[[points]]\ngamma = 0.9", "axes and points"),
    # Seeds, names, presets.
    *(
        file(f"seeds-{seeds}", f"seeds = {seeds}", "seeds is", fragment)
        for seeds, fragment in {
            "0": "0", "-1": "-1", "true": "True", "2.0": "2.0", '"3"': "'3'", "[]": "[]", "[3, 3]": "[3, 3]",
            "[-1]": "[-1]", "[4294967296]": "2^32 - 1", str(HUGE): "at most 1000000",
        }.items()
    ),
    file("name-slash", 'name = "a/b"', "name is 'a/b'", "without slashes"),
    file("name-parent", 'name = ".."', "name is '..'"),
    file("name-number", "name = 3", "name is 3"),
    file("preset-number", "preset = 3", "preset is 3", "paper_atari"),
    # Files that cannot be read.
    command("sweep nothing.toml", "nothing.toml does not exist"),
    command("sweep folder", "folder cannot be read", files={"folder/": ""}),
    file("file-latin", 'name = "é"'.encode("latin-1"), "file.toml is not UTF-8"),
    file("file-binary", b"\x00\xff\xfe", "file.toml is not UTF-8"),
    file("file-broken", "seeds = = 1", "file.toml is not valid TOML", "line 1"),
    file("file-key-twice", "seeds = 1\nseeds = 2", "file.toml is not valid TOML"),
    file("file-digits", "seeds = 1" + 5000 * "0", "file.toml is not valid TOML"),
    file("file-deep", "seeds = " + 50_000 * "[", "file.toml is not valid TOML"),
    # The command train.
    command("train --preset paper_atary --out out", "preset 'paper_atary'", "did you mean paper_atari"),
    command("train --env gymnax/CartPole --out out", "did you mean 'gymnax/CartPole-v1'"),
    command("train --seeds 0 --out out", "seeds is 0"),
    command("train --gamma nan --out out", "gamma is nan", "finite"),
    command("train --minibatch-size 4096 --out out", "minibatch_size is 4096"),
    command("train --num-epochs 0 --dry-run", "num_epochs is 0"),
    # Directories without results.
    command("plot nothing", "nothing", "no results"),
    command("summary nothing", "nothing", "no results"),
    command("plot nothing --figure 1", "nothing", "no results"),
    command("plot nothing --figure 8", "figure '8' is unknown", "spectrum"),
    command("plot nothing --figure spectum", "figure 'spectum' is unknown", "did you mean spectrum"),
    command("plot nothing --figure 1 --metric kl", "figure is 1, which shows metrics of its own"),
    command("plot nothing --by pfo_coef", "by and facet go with metric"),
    command("plot nothing --metric kl --where pfo_coef", "where is 'pfo_coef', but must be FIELD=VALUE"),
    command("report nothing", "nothing", "no results"),
    command("report empty", "empty", "no results", files={"empty/": ""}),
    command("toy --learning-rate 0", "learning_rate is 0.0", "greater than 0"),
    command("toy --learning-rate nan", "learning_rate is nan", "finite"),
    command("toy --steps 0", "steps is 0", "at least 1"),
    command("toy --steps 1000000", "steps is 1000000", "at most 100000"),
    command("plot empty", "empty", "no results", files={"empty/": ""}),
    command("summary empty", "empty", "no results", files={"empty/": ""}),
    command("claims nothing", "nothing", "no results"),
    command("compare nothing", "nothing", "no results"),
    command("claims empty", "empty", "no results", files={"empty/": ""}),
    command("export nothing --to csv", "nothing", "no results"),
    command("resume nothing", "nothing", "not a sweep's"),
    command(f"resume {'a' * 300}", "aaa", "not a sweep's"),
    command("rediagnose nothing", "nothing", "not a sweep's"),
    command("plot out", "results.nc", "damaged", files={"out/results.nc": "this is no netCDF"}),
    command("summary out", "results.nc", "damaged", files={"out/results.nc": b"\x89HDF\r\n\x1a\n" + 500 * b"\0"}),
    command("summary out/results.nc", "results.nc", "damaged", files={"out/results.nc": ""}),
    command("summary out", "sweep.json", "damaged", files={"out/sweep.json": "{"}),
]  # fmt: skip
# What is seen only after JAX has been set up, in a process of its own: environments, directories, devices.
LATE_MISTAKES = [
    file("conv-on-vector", f'{CARTPOLE}torso = "minatar_conv"', "torso is 'minatar_conv'", "'mlp'"),
    file(
        "conv-too-large",
        '[config]\nenv = "gymnax/Breakout-MinAtar"\ntorso = "nature_conv"',
        "torso is 'nature_conv'",
        "10 x 10",
        "'mlp' and 'minatar_conv'",
    ),
    file("limit-too-long", f"{CARTPOLE}max_episode_steps = 501", "max_episode_steps is 501", "at most 500"),
    command(
        "train --env probe/Action --num-evaluation-episodes 4 --out out",
        "num_evaluation_episodes is 4, but must be 0 for probe/Action",
        "unless max_episode_steps is set",
    ),
    command("train --out out", "out is out", "is a file", files={"out": "mine"}),
    command("train --out out", "out is out", "not a sweep", files={"out/notes.txt": "mine"}),
    command("train --memory lots --out out", "memory is 'lots'", "4GiB"),
    command("train --num-processes 2 --out out", "coordinator is missing", "num_processes"),
]


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def assert_refused(process: subprocess.CompletedProcess[str], fragments: Sequence[str]) -> None:
    """Exit code 2 and one sentence, with all of its fragments, on stderr; nothing else anywhere."""
    assert process.returncode == 2, process.stderr
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("purejaxppo: ")
    for fragment in fragments:
        assert fragment in lines[0]
    assert process.stdout == ""


@pytest.mark.parametrize("mistake", [pytest.param(x, id=x.name) for x in (*MISTAKES, *LATE_MISTAKES)])
def test_a_mistake_ends_in_one_sentence_and_leaves_no_trace(
    mistake: Mistake, tmp_path: Path, environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, dict(mistake.files))
    if "file.toml" in mistake.command:
        write(tmp_path, {"file.toml": mistake.content})
    before = contents(tmp_path)
    is_late = mistake in LATE_MISTAKES
    process = call(mistake.command, tmp_path, environment) if is_late else called(mistake.command, tmp_path, capfd)
    assert_refused(process, mistake.fragments)
    assert contents(tmp_path) == before


def test_truncated_results_are_refused(
    swept: tuple[Path, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (swept[0] / "runs" / "tiny" / "results.nc").read_bytes()
    write(tmp_path, {"out/results.nc": whole[: len(whole) // 2]})
    before = contents(tmp_path)
    for name in ("plot", "summary", "claims", "compare"):
        assert_refused(called([name, "out"], tmp_path, capfd), ("results.nc", "damaged"))
    assert contents(tmp_path) == before


def test_another_sweep_in_the_directory_is_left_alone(swept: tuple[Path, Any], environment: dict[str, str]) -> None:
    folder, _ = swept
    (folder / "other.toml").write_text(SWEEP.replace("1.0", "2.0"))
    before = contents(folder)
    process = call(["sweep", "other.toml", "--out", "runs/tiny"], folder, environment)
    assert_refused(process, ("out is runs/tiny", "another sweep", "points"))
    assert contents(folder) == before


@pytest.mark.parametrize("arguments", [["train", "--no-such-flag"], ["sweep"], ["swep", "file.toml"]])
def test_what_the_parser_of_arguments_refuses(
    arguments: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    """tyro explains in a box of its own."""
    process = call(arguments, tmp_path, environment)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert contents(tmp_path) == {}
