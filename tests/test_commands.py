"""Options of the command line arrive where they act: each command's call, with what it calls replaced by a recorder."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_plots_figures import made_up

from purejaxppo.commands import computing, playing, reading
from purejaxppo.commands.arguments import Options
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.sweep.plan import Sweep
from purejaxppo.sweep.store import PROVENANCE, write_json


@pytest.fixture(autouse=True)
def without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process, which other tests share."""
    monkeypatch.setattr("purejaxppo.sweep.devices.use_cache", lambda: None)


class Called(Exception):
    """What was called, in place of calling it."""


def recorder(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def record(*args: Any, **kwargs: Any) -> None:
        raise Called(args, kwargs)

    monkeypatch.setattr(f"purejaxppo.{target}", record)


HERE = Path("here")
ASKED = {"episodes": 7, "seed": 3, "is_deterministic": True, "snapshots": True}
CALLS = {
    "evaluate": (
        lambda: playing.evaluate(HERE, episodes=7, seed=3, deterministic=True, snapshots=True),
        "evaluate.evaluate",
        ((HERE,), ASKED),
    ),
    "rediagnose": (
        lambda: playing.rediagnose(HERE, runs=(2,), snapshots=(1, 0), diagnostics=("lab:mine",)),
        "rediagnosis.rediagnose",
        ((HERE,), {"runs": (2,), "snapshots": (1, 0), "diagnostics": ("lab:mine",)}),
    ),
    "rediagnose all": (
        lambda: playing.rediagnose(HERE),
        "rediagnosis.rediagnose",
        ((HERE,), {"runs": None, "snapshots": None, "diagnostics": ()}),
    ),
    "render": (
        lambda: playing.render(HERE, 2, Path("a.gif"), seed=5, max_steps=9),
        "render.render",
        ((HERE, 2, Path("a.gif")), {"seed": 5, "max_steps": 9}),
    ),
    "toy": (lambda: reading.toy(HERE, 0.1, 30), "plots.toy.toy_figure", ((0.1, 30), {})),
}


@pytest.mark.parametrize("name", CALLS)
def test_options_arrive(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, target, expected = CALLS[name]
    recorder(monkeypatch, target)
    with pytest.raises(Called) as found:
        call()
    assert found.value.args == expected


def test_a_table_that_took_long_is_written_into_a_folder_that_is_named(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    table = pd.DataFrame({"run": [0], "snapshot": [0], "env_steps": [1], "policy_rank": [2.0]})
    monkeypatch.setattr("purejaxppo.rediagnosis.rediagnose", lambda *args, **kwargs: table)
    playing.rediagnose(HERE, format="markdown", out=tmp_path)
    assert "\n| 0 | 0 | 1 | 2.00 |\n" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "rediagnosed.csv")["policy_rank"].tolist() == [2.0]
    monkeypatch.setattr("purejaxppo.evaluate.evaluate", lambda *args, **kwargs: table)
    monkeypatch.setattr("purejaxppo.evaluate.format_evaluation", lambda table, kind: kind)
    playing.evaluate(HERE, format="latex", out=tmp_path)
    assert capsys.readouterr().out.startswith("latex\n")
    for command in (playing.evaluate, playing.rediagnose):
        with pytest.raises(ConfigError, match="format 'html' is unknown"):
            command(HERE, format="html")
    assert (tmp_path / "evaluation.csv").is_file()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    dataset = made_up({"pfo_coef": [0.0, 1.0], "num_epochs": [4, 16]}, num_seeds=2)
    monkeypatch.setattr("purejaxppo.sweep.store.load_several", lambda directories: dataset)
    return dataset


def test_a_figure_is_of_the_runs_lines_and_panels_asked_for(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder(monkeypatch, "plots.curves.curves")
    with pytest.raises(Called) as found:
        reading.plot((HERE,), metric=("kl",), by=("pfo_coef",), facet="num_epochs", where=("seed=1",))
    (dataset, *rest), _ = found.value.args
    assert rest == [("kl",), ("pfo_coef",), "num_epochs"]
    assert dataset["seed"].values.tolist() == [1] * 4
    assert dataset["num_epochs"].values.tolist() == [4, 16, 4, 16]


def test_a_comparison_is_of_what_is_asked_for(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder(monkeypatch, "statistics.comparison.comparison_table")
    with pytest.raises(Called) as found:
        reading.compare((HERE,), "kl", lowest=True, against="pfo_coef=1", within=("num_epochs",))
    assert found.value.args == ((loaded, "kl", True, "pfo_coef=1", ("num_epochs",)), {})


@pytest.mark.parametrize("is_other", [False, True])
def test_options_of_a_sweep_arrive(is_other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "_prepare", lambda options: None)
    monkeypatch.setattr("purejaxppo.sweep.interrupt.watch_signals", lambda: None)
    recorder(monkeypatch, "sweep.engine.run_sweep")
    sweep = Sweep(name="a", seeds=(0,), config=TrainConfig(env="probe/ValueOnly"), hparams=HyperParams())
    changes = {"memory": "2GiB", "force": True, "tensorboard": True, "quiet": True, "keep": False}
    with pytest.raises(Called) as found:
        computing._run(sweep, None, Options(**(changes if is_other else {})))
    assert found.value.args == (
        (sweep, Path("runs/a")),
        {
            "memory": 2 * 2**30 if is_other else None,
            "is_forced": is_other,
            "tensorboard": is_other,
            "is_quiet": is_other,
            "is_kept": not is_other,
        },
    )


def test_what_was_begun_deterministically_goes_on_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `resume`, as a stopped sweep names it, would have other flags and be refused."""
    for name in ("use_cache", "use_cpu_cores", "join_processes", "check_platform"):
        monkeypatch.setattr(f"purejaxppo.sweep.devices.{name}", lambda *args: None)
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    assert not computing._as_begun(tmp_path, Options()).deterministic
    for options in (Options(deterministic=True), Options(deterministic=True, quiet=True)):
        computing._prepare.__wrapped__(options)
        assert os.environ["XLA_FLAGS"] == "--a=1 --xla_gpu_deterministic_ops=true"
    for facts in ({"xla_flags": os.environ["XLA_FLAGS"]}, {"continued": [{"xla_flags": os.environ["XLA_FLAGS"]}]}):
        write_json(tmp_path / PROVENANCE, {"xla_flags": ""} | facts)
        assert computing._as_begun(tmp_path, Options(quiet=True)) == Options(quiet=True, deterministic=True)


def test_sweeps_use_all_cores_and_join_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, tuple[Any, ...]]] = []
    for name in ("use_cache", "use_cpu_cores", "join_processes", "check_platform"):
        monkeypatch.setattr(f"purejaxppo.sweep.devices.{name}", lambda *args, name=name: called.append((name, args)))
    computing._prepare.__wrapped__(Options(coordinator="host:1", num_processes=2, process_index=1))
    assert called == [
        ("use_cache", ()),
        ("use_cpu_cores", ()),
        ("join_processes", ("host:1", 2, 1)),
        ("check_platform", ()),
    ]
