"""The arithmetic of the benchmarks against peers: equal work, ratios, tables, verdicts. They themselves run by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"
SCRIPTS = ("peers", "parity", "peer_processes")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield {name: importlib.import_module(name) for name in SCRIPTS}
    for name in SCRIPTS:
        del sys.modules[name]


@pytest.fixture
def peers(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["peers"]


@pytest.fixture
def parity(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["parity"]


def answer(steps: int, seconds: list[float], compile_seconds: float | None = None) -> dict[str, object]:
    return {"steps": steps, "seconds": seconds, "compile_seconds": compile_seconds}


def test_contestants_of_a_setting_do_equal_work_on_a_rollout(peers: ModuleType) -> None:
    for setting in peers.SETTINGS.values():
        rollout = setting.num_envs * setting.num_steps
        for name in setting.contestants:
            told = peers.worker_argument(setting, peers.CONTESTANTS[name])
            assert told["minibatch_size"] * told["num_minibatches"] == rollout
            assert told["minibatch_sequences"] * told["num_steps"] == told["minibatch_size"]
            assert (told["num_envs"], told["num_epochs"]) == (setting.num_envs, setting.num_epochs)


def test_minibatches_that_leave_samples_over_are_refused(peers: ModuleType) -> None:
    setting = peers.Setting(env="gymnax/CartPole-v1", num_envs=4, num_minibatches=3, steps=512)
    with pytest.raises(ValueError, match="must divide num_envs, 4"):
        peers.worker_argument(setting, peers.CONTESTANTS["ours"])


def test_every_contestant_is_first_in_one_round(peers: ModuleType) -> None:
    items = ("a", "b", "c")
    rounds = [peers.rotated(items, number) for number in range(4)]
    assert rounds == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c")]


def test_medians_are_over_all_repeats_and_ratios_are_ours_over_theirs(peers: ModuleType) -> None:
    summary = {
        # Rates 100, 50, 200 and 400 have the median 150; as a median of the rounds' own it would be 187.5.
        "ours": peers.summarise([answer(100, [1.0, 2.0, 0.5], 30.0), answer(400, [1.0], 10.0)]),
        "sb3": peers.summarise([answer(50, [1.0, 1.0])]),
    }
    assert summary["ours"] == {"steps_per_second": 150.0, "compile_seconds": 20.0}
    assert summary["sb3"] == {"steps_per_second": 50.0, "compile_seconds": None}
    assert peers.ratios(summary) == {"sb3": {"ours": 3.0}}


def test_table_and_plot_say_every_contestant_and_its_ratio(peers: ModuleType) -> None:
    summary = {
        "ours_1": {"steps_per_second": 1000.0, "compile_seconds": 9.96},
        "ours_4": {"steps_per_second": 3000.0, "compile_seconds": 12.0},
        "brax": {"steps_per_second": 2000.0, "compile_seconds": None},
    }
    settings = {"hopper": {"contestants": summary, "ratios": peers.ratios(summary)}}
    lines = peers.table(settings).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["hopper", "ours,", "1", "run", "1,000", "10.0", "s"],
        ["hopper", "ours,", "4", "runs", "3,000", "12.0", "s"],
        ["hopper", "brax", "2,000", "-", "ours,", "1", "run:", "0.50,", "ours,", "4", "runs:", "1.50"],
    ]
    labels = [label.get_text() for label in peers.plot(settings).axes[0].get_yticklabels()]
    assert labels == ["hopper: ours, 1 run", "hopper: ours, 4 runs", "hopper: brax"]


def test_a_peer_that_fails_is_left_out_and_the_others_go_on(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_worker(python: Path, script: str, argument: dict[str, object]) -> dict[str, object]:
        if script == "brax_worker.py":
            raise peers.PeerError("no such physics")
        return answer(100, [1.0], 1.0)

    monkeypatch.setattr(peers, "run_worker", run_worker)
    answers = peers.measure(peers.SETTINGS["hopper"], 2, {})
    assert {name: len(rounds) for name, rounds in answers.items()} == {"ours_1": 2, "ours_4": 2}
    assert capsys.readouterr().out.count("left out: brax: no such physics") == 1


def test_rejax_is_told_our_settings_in_its_terms(parity: ModuleType) -> None:
    for config, hparams in parity.SETTINGS.values():
        told = parity.rejax_argument(config.validate(), hparams, 8)
        assert told["total_steps"] == config.total_steps  # a whole number of rollouts and of log intervals
        assert told["num_minibatches"] == 4
        assert told["hparams"]["vf_coef"] / 2 == hparams.value_coef  # rejax takes half the squared error


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((2.0, 3.0), (0.0, 1.0), "ours is higher"),
        ((0.0, 1.0), (2.0, 3.0), "ours is lower"),
        ((0.0, 2.0), (1.0, 3.0), "the intervals overlap"),
        ((500.0, 500.0), (500.0, 500.0), "the intervals overlap"),
    ],
)
def test_verdict(parity: ModuleType, ours: tuple[float, float], theirs: tuple[float, float], expected: str) -> None:
    sides = [{"low": low, "high": high} for low, high in (ours, theirs)]
    assert parity.verdict(*sides) == expected
