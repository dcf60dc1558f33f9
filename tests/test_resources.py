"""Memory, time and when to save: what is free, what a program costs, what is left, by arithmetic without a program."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.sweep import costs, engine, estimate, memory, provenance, store
from purejaxppo.sweep.costs import Costs
from purejaxppo.sweep.plan import Group, make_groups, parse_sweep
from purejaxppo.sweep.progress import Progress


def group_of(num_seeds: int, **config: Any) -> Group:
    content = {"env": "gymnax/CartPole-v1", "total_steps": 384, "num_envs": 4, "num_steps": 16, "num_log_points": 3}
    content |= {"minibatch_size": 32, "hidden_sizes": [8], "num_epochs": 4} | config
    return make_groups(parse_sweep({"name": "small", "seeds": num_seeds, "config": content}))[0]


# --- Memory


def cpu(**statistics: int) -> Any:
    return SimpleNamespace(platform="cpu", memory_stats=lambda: statistics)


def gpu(**statistics: int) -> Any:
    return SimpleNamespace(platform="gpu", memory_stats=lambda: statistics)


def test_of_a_machines_and_a_jobs_memory_the_lesser_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four fifths of it; nothing where nobody says."""
    monkeypatch.setattr(memory, "_free_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_free_in_control_groups", lambda: [400, 700])
    assert memory.available_memory([cpu(), cpu()]) == 320
    monkeypatch.setattr(memory, "_free_memory", lambda: None)
    monkeypatch.setattr(memory, "_free_in_control_groups", list)
    assert memory.available_memory([cpu()]) is None
    assert memory.available_memory([gpu(bytes_limit=1000, bytes_in_use=200)] * 2) == 0.8 * 2 * 800
    monkeypatch.setattr(memory, "_free_memory", lambda: 1000)  # is the machine's, not that of a GPU that says nothing
    assert memory.available_memory([gpu()]) is None


def test_free_is_what_the_machine_could_give(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal:       9000 kB\nMemFree:        100 kB\nMemAvailable:   3000 kB\n"
    monkeypatch.setattr(memory, "Path", lambda name: {"/proc/meminfo": SimpleNamespace(read_text=lambda: text)}[name])
    assert memory._free_memory() == 3000 * 1024


def test_where_a_machine_tells_only_its_size_half_of_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS does; Windows tells nothing that way."""

    def fail() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(memory, "Path", lambda name: SimpleNamespace(read_text=fail))
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__, raising=False)
    assert memory._free_memory() == 4096 * 500
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory._free_memory() is None


def test_a_processor_is_the_same_one_after_an_update_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(provenance.Path, "read_text", fail)
    codes = []
    for system in ("macOS-14.5-arm64", "macOS-14.6-arm64"):
        monkeypatch.setattr(provenance.platform, "platform", lambda system=system: system)
        codes.append(provenance.processor())
    monkeypatch.setattr(provenance.platform, "processor", lambda: "another")
    assert codes[0] == codes[1] != provenance.processor()


def test_chunks_are_equal() -> None:
    """Ten runs where eight fit on two devices: twice six, not eight and eight with six of them padding."""
    assert memory.chunk_width(10, 1, 8, 2) == 6


# --- When to save


def test_checkpoints_take_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """First after 0.1 s over the share of a twentieth, then after twenty times what the last one took."""
    now = [100.0]
    monkeypatch.setattr(engine.time, "perf_counter", lambda: now[0])
    clock = engine._CheckpointClock()
    for seconds, is_due in ((0.0, False), (1.9, False), (0.2, True)):
        now[0] += seconds
        assert clock.is_due() is is_due
    with clock:
        now[0] += 3.0
    for seconds, is_due in ((0.0, False), (59.0, False), (1.5, True)):
        now[0] += seconds
        assert clock.is_due() is is_due


# --- What the terminal shows


def test_diverged_runs_are_counted_and_the_time_left_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [group_of(8)]
    (chunk,) = store.make_chunks(0, range(8), 8)
    with Progress(groups) as progress:
        for log_point in range(4):
            status = np.array([2] + [0] * 7) if log_point == 3 else np.zeros(8)
            progress.advance(chunk, log_point, {"return_mean": np.ones(8), "status": status})
            progress._bar.refresh()
            told = capsys.readouterr().err
            assert ("1 diverged" in told, "diverged" in told) == (log_point == 3, log_point == 3)
        assert progress._bar.left is not None


# --- Costs


class Stub:
    """In place of a compiled program, of which only sizes are asked."""

    num_devices = 1

    def __init__(self, group: Group, width: int):
        self.group, self.width = group, width

    def arguments(self, runs: Any) -> Any:
        return SimpleNamespace(hparams=None)

    def shapes(self, runs: Any) -> Any:
        return {"x": jax.ShapeDtypeStruct((self.width, 3), jnp.float32)}

    def init(self, runs: Any) -> None:
        return None

    def compiled(self, name: str) -> Any:
        return lambda state: {"evaluation_length_max": np.array([5.0, 10.0])}


def test_costs_are_those_of_a_block_times_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 runs in blocks of 4: a rollout takes 1 s, with one epoch 3 s, with four 9 s, thus an epoch 2 s."""
    timed = iter([1.0, 3.0, 9.0, 0.5, 0.25])
    monkeypatch.setattr(costs, "GroupProgram", Stub)
    monkeypatch.setattr(costs, "runs_at_once", lambda config, state: 4)
    monkeypatch.setattr(costs, "_compiled_pieces", lambda *arguments: (lambda *args: (None, None), None))
    monkeypatch.setattr(costs, "_compiled_plasticity", lambda *arguments: True)
    monkeypatch.setattr(costs, "_seconds", lambda compute: next(timed))
    stub: Any = Stub(group_of(16, num_plasticity_points=1), 16)
    assert costs.measure(stub) == Costs(rollout=4.0, epoch=8.0, diagnosis=2.0, plasticity=1.0)


def test_an_evaluation_is_timed_to_the_limit_of_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s for 10 steps; CartPole's limit is 500."""
    monkeypatch.setattr(costs, "_seconds", lambda compute: 2.0)
    stub: Any = Stub(group_of(2), 2)
    assert costs._evaluation_seconds(stub, stub.arguments(()), None) == 100.0


def test_a_chunk_that_is_padded_costs_as_much_as_a_full_one() -> None:
    """6 runs, 4 at once; evaluations by their own number: 2 after that of log point 0."""
    group = group_of(6, num_plasticity_points=1, num_evaluation_episodes=2, num_evaluation_points=3)
    found = estimate.seconds_of_group(
        group,
        store.make_chunks(0, range(6), 4),
        4,
        Costs(rollout=1.0, epoch=2.0, diagnosis=0.5, plasticity=10.0, evaluation=5.0),
    )
    logs = range(group.config.num_logs + 1)
    assert sum(map(group.config.is_evaluation_point, logs)) != sum(map(group.config.is_plasticity_point, logs))
    assert found["evaluation"] == 2 * 5 * sum(map(group.config.is_evaluation_point, logs))
    assert found["diagnostics"] == 2 * 4 * 0.5
