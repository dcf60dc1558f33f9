"""A file a log point: what is written is what is read, however it is asked for, and what results.nc has at the end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from purejaxppo.errors import ConfigError
from purejaxppo.results.pieces import Joined
from purejaxppo.sweep import store
from purejaxppo.sweep.parts import Parts, PartsMetric, write_part
from purejaxppo.sweep.plan import make_groups, parse_sweep

NUM_LOGS = 149  # and the one before training: three stretches of writing
CONFIG = {"env": "gymnax/CartPole-v1", "total_steps": NUM_LOGS * 1024, "num_log_points": NUM_LOGS}
SWEEP = {"name": "parts", "seeds": 2, "config": CONFIG, "axes": {"pfo_coef": [0.0, 1.0, 10.0]}}
SHAPES = {"return_mean": (), "sparse": (), "policy_rank": (), "status": (), "policy_singular_values": (5,)}


def value(name: str, runs: range, points: range) -> np.ndarray:
    """A number for every metric, run, log point and feature, [S, L] or [S, L, D]; NaN where it is not measured."""
    axes = np.ogrid[(slice(1), *(slice(size) for size in SHAPES[name]))][1:]
    run, point = np.array(runs)[:, None], np.array(points)[None, :]
    numbers = (1e4 * list(SHAPES).index(name) + 1e3 * run + point).astype(np.float32)
    if name == "status":
        numbers[:] = 0
    if name == "sparse":
        numbers[:, np.array(points) % 10 != 0] = np.nan
    return numbers[:, :, None] + np.float32(axes[0] / 8) if axes else numbers


def write(folder: Path, runs: range, point: int, *, is_old: bool = False) -> None:
    """The part of a log point; `sparse`, at every tenth, comes where it comes in a sweep: after the status."""
    names = ["return_mean", "policy_rank", "status"] + ["sparse"] * (point % 10 == 0)
    found = {name: value(name, runs, range(point, point + 1))[:, 0] for name in names}
    spectra = {"policy_singular_values": value("policy_singular_values", runs, range(point, point + 1))[:, 0]}
    if is_old:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{point:05d}.npz", **spectra, **dict(reversed(found.items())))  # pyright: ignore
    else:
        metrics: Any = SimpleNamespace(names=tuple(names), scalars=np.stack(list(found.values()), 1), spectra=spectra)
        write_part(folder, point, metrics)


def test_every_stretch_of_every_metric_is_what_was_written(tmp_path: Path) -> None:
    """In any order, across chunks, and whichever version wrote a part."""
    spans = [range(4), range(4, 6)]
    for number, runs in enumerate(spans):
        for point in range(40):
            write(tmp_path / str(number), runs, point, is_old=point % 3 == 0)
    chunks = [Parts(tmp_path / str(number), len(runs)) for number, runs in enumerate(spans)]
    assert [parts.num_points for parts in chunks] == [40, 40]
    for stretch in (slice(None), slice(7, 8), slice(3, 30, 4), slice(7, 8), slice(35, 99), slice(5, 5)):
        for name in SHAPES:
            each = [PartsMetric(name, parts) for parts in chunks]
            metric = Joined(each, [part.shape[:2] for part in each], axis=0)
            assert metric.shape == (6, 40, *SHAPES[name])
            expected = value(name, range(6), range(40)[stretch])
            np.testing.assert_array_equal(metric[:, stretch], expected, err_msg=name)
            np.testing.assert_array_equal(metric[1:6:2, stretch], expected[1:6:2], err_msg=name)


def test_a_part_is_few_arrays(tmp_path: Path) -> None:
    write(tmp_path, range(3), 0)
    with np.load(tmp_path / "00000.npz") as part:
        assert set(part.files) == {"names", "values", "policy_singular_values"}
        assert part["values"].shape == (3, 4)


def test_parts_behind_a_gap_do_not_count(tmp_path: Path) -> None:
    for point in (0, 1, 3):
        write(tmp_path, range(2), point)
    assert Parts(tmp_path, 2).num_points == 2
    assert Parts(tmp_path / "nowhere", 2).num_points == 0


def test_a_part_that_is_damaged_or_gone_is_one_sentence(tmp_path: Path) -> None:
    for point in range(2):
        write(tmp_path, range(2), point)
    parts, path = Parts(tmp_path, 2), tmp_path / "00001.npz"
    whole = path.read_bytes()
    at = whole.index(value("return_mean", range(2), range(1, 2)).tobytes()[:4])
    for content in (whole[:-30], whole[:at] + b"\x00\x00\x00\x40" + whole[at + 4 :]):  # cut; another number
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^file .*00001\.npz is damaged and cannot be read\.$"):
            parts.read("return_mean", range(2))
    path.unlink()
    for name in ("return_mean", "policy_singular_values"):
        with pytest.raises(ConfigError, match=r"00001\.npz is gone: the sweep has ended meanwhile; load its results"):
            parts.read(name, range(2))


def test_a_sweep_ends_with_what_its_parts_hold(tmp_path: Path) -> None:
    out, sweep = tmp_path / "out", parse_sweep(SWEEP)
    store.create(out, sweep)
    (group,) = make_groups(sweep)
    chunks = store.make_chunks(0, [run.index for run in group.runs], 4)
    store.write_layout(out, chunks, None)
    for chunk, runs in zip(chunks, (range(4), range(4, 6)), strict=True):
        for point in range(1 + NUM_LOGS):
            write(out / store.PARTS / chunk.name, runs, point)
    running, order = store.load_results(out), np.argsort([run.index for run in group.runs])
    assert running["return_mean"].values.flags.c_contiguous  # the bits of sums are those of results.nc
    running.load()
    ended = store.finish(out)
    assert not (out / store.PARTS).exists()
    assert ended.identical(running)
    for name in SHAPES.keys() - {"status"}:
        np.testing.assert_array_equal(ended[name], value(name, range(6), range(1 + NUM_LOGS))[order], err_msg=name)
    assert ended["pfo_coef"].values.tolist() == [0, 0, 1, 1, 10, 10]
    assert ended["status"].values.tolist() == [0] * 6
