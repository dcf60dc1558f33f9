"""Exports: what other people's tools read back is what the dataset holds."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.results.export import LiveTensorBoard, export, long_table, run_name, tag
from purejaxppo.results.registry import HEADLINE, METRICS
from purejaxppo.sweep.plan import Run, parse_sweep, to_json

AXES = {"num_epochs": [4, 16], "learning_rate": [0.1, 2.5e-4]}
SEEDS = (3, 7)
NAMES = ("return_mean", "policy_rank", "critic_dead_neurons", "kl", "pfo_loss", "learning_rate", "excess_ratio")


@pytest.fixture
def dataset() -> xr.Dataset:
    """4 points x 2 seeds in two groups, 3 log points of 100 steps and 2 of 250; float32 values with NaN and inf."""
    sweep = parse_sweep({"name": "grid", "seeds": list(SEEDS), "axes": AXES})
    points = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
    rng, groups = np.random.default_rng(0), []
    for epochs, num_logs, steps in ((4, 3, 100), (16, 2, 250)):
        index = [i for i in range(8) if points[i // 2]["num_epochs"] == epochs]
        metrics = {name: rng.normal(size=(4, num_logs)).astype(np.float32) for name in NAMES}
        metrics["return_mean"][0, 0] = np.nan
        metrics["excess_ratio"][1, 1] = np.inf
        metrics["policy_singular_values"] = np.ones((4, num_logs, 5), np.float32)
        groups.append(
            GroupResult(
                metrics=metrics,
                env_steps=steps * np.arange(1, num_logs + 1),
                seeds=np.array([SEEDS[i % 2] for i in index]),
                swept={name: [points[i // 2][name] for i in index] for name in AXES},
                status=np.array([0, 2, 0, 0]),
                run_index=np.array(index),
            )
        )
    return to_dataset(groups, {"name": "grid", "sweep": json.dumps(to_json(sweep))})


def scalars(dataset: xr.Dataset, run: int) -> dict[str, list[tuple[int, float]]]:
    """Metric -> [(step, value)] of one run, without NaN: what a plotting tool must show."""
    steps, found = dataset["env_steps"].values[run], {}
    for name in (str(name) for name in dataset.data_vars if dataset[name].dims == ("run", "log")):
        values = dataset[name].values[run]
        found[name] = [(int(s), float(x)) for s, x in zip(steps, values, strict=True) if not np.isnan([s, x]).any()]
    return found


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> [(step, value)], as TensorBoard itself reads a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder)
    )
    accumulator.Reload()
    return {name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}


# --- Tables


def test_the_table_has_one_row_per_log_point_reached(dataset: xr.Dataset) -> None:
    """4 runs x 3 log points + 4 x 2; spectra are not in it, and padding is no row."""
    table = long_table(dataset)
    first = ["run_index", "seed", "num_epochs", "learning_rate", "status", "env_steps"]
    measured = [name.replace("learning_rate", "learning_rate_measured") for name in NAMES]
    assert list(table.columns) == first + measured
    assert len(table) == 4 * 3 + 4 * 2
    assert table["env_steps"].tolist() == 4 * [100, 200, 300] + 4 * [250, 500]
    row = table[(table["run_index"] == 5) & (table["env_steps"] == 500)].iloc[0]
    assert (row["seed"], row["num_epochs"], row["learning_rate"], row["status"]) == (7, 16, 0.1, 2)
    assert row["kl"] == dataset["kl"].values[5, 1]


@pytest.mark.parametrize(("to", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_table_comes_back_from_the_disk(dataset: xr.Dataset, tmp_path: Path, to: str, read: Any) -> None:
    """Parquet keeps types too; CSV keeps every digit of a float32."""
    if to == "parquet":
        pytest.importorskip("pyarrow")
    path = export(dataset, tmp_path, to)
    assert path == tmp_path / "export" / f"results.{to}"
    table = long_table(dataset)
    found = read(path)
    if to == "csv":
        found = found.astype(table.dtypes)
    pd.testing.assert_frame_equal(found, table, check_exact=True)


def test_an_export_replaces_the_one_before(dataset: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for to in ("csv", "tensorboard"):
        export(dataset, tmp_path, to)
        export(dataset.isel(run=[2, 5]), tmp_path, to)
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["results.csv", "tensorboard"]
    assert set(pd.read_csv(tmp_path / "export" / "results.csv")["run_index"]) == {2, 5}
    folders = list((tmp_path / "export" / "tensorboard").iterdir())
    assert sorted(folder.name[:8] for folder in folders) == ["run_0002", "run_0005"]
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)


# --- TensorBoard


def test_tensorboard_reads_every_scalar_of_every_run(dataset: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    path = export(dataset, tmp_path, "tensorboard")
    assert path == tmp_path / "export" / "tensorboard"
    folders = sorted(path.iterdir())
    assert len(folders) == 8
    assert folders[3].name == "run_0003_num_epochs=4_learning_rate=0.00025_seed=7"
    for run, folder in enumerate(folders):
        assert read_events(folder) == {tag(name): values for name, values in scalars(dataset, run).items()}


def test_live_files_are_those_of_an_export(dataset: xr.Dataset, tmp_path: Path) -> None:
    """Same folders, tags, steps and values, of the headline metrics; a second process goes on in the same folders."""
    pytest.importorskip("tensorboardX")
    group = dataset.isel(run=slice(0, 4))
    points = [{"num_epochs": 4, "learning_rate": rate} for rate in AXES["learning_rate"] for _ in SEEDS]
    runs = [
        Run(index=i, point=points[i], seed=SEEDS[i % 2], config=TrainConfig(), hparams=HyperParams()) for i in range(4)
    ]
    live = LiveTensorBoard(tmp_path / "live", runs)
    for log_point in range(3):
        if log_point == 2:
            live.close()
            live = LiveTensorBoard(tmp_path / "live", runs)
        metrics = {name: group[name].values[:, log_point] for name in NAMES if name in group.data_vars}
        spectra = {"policy_singular_values": np.ones((4, 5)), "status": np.zeros(4)}
        live.write(100 * (log_point + 1), metrics | spectra)
    live.close()
    exported = export(group, tmp_path, "tensorboard")
    assert sorted(p.name for p in exported.iterdir()) == sorted(p.name for p in (tmp_path / "live").iterdir())
    headline = {tag(name) for name in HEADLINE}
    for folder in exported.iterdir():
        wanted = {name: values for name, values in read_events(folder).items() if name in headline}
        assert len(wanted) == 6
        assert read_events(tmp_path / "live" / folder.name) == wanted


def test_live_files_are_readable_after_every_write(tmp_path: Path) -> None:
    """Nothing waits in a buffer, and a NaN leaves no point."""
    pytest.importorskip("tensorboardX")
    live = LiveTensorBoard(tmp_path, [Run(index=12, point={}, seed=0, config=TrainConfig(), hparams=HyperParams())])
    live.write(8, {"return_mean": np.array([1.5])})
    assert read_events(tmp_path / "run_0012_seed=0") == {"0_overview/return_mean": [(8, 1.5)]}
    live.write(16, {"return_mean": np.array([np.nan])})
    live.write(24, {"return_mean": np.array([2.0])})
    assert read_events(tmp_path / "run_0012_seed=0") == {"0_overview/return_mean": [(8, 1.5), (24, 2.0)]}


def test_live_files_hold_no_file_open(tmp_path: Path) -> None:
    """More runs than a process may have open files."""
    pytest.importorskip("tensorboardX")
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("counts open files by /proc")
    before = len(list(open_files.iterdir()))
    runs = [Run(index=i, point={}, seed=i, config=TrainConfig(), hparams=HyperParams()) for i in range(50)]
    live = LiveTensorBoard(tmp_path, runs)
    live.write(8, {"kl": np.arange(50.0)})
    assert len(list(open_files.iterdir())) <= before + 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("return_mean", "0_overview/return_mean"),
        ("episode_count", "return/episode_count"),
        ("policy_rank", "0_overview/policy_rank"),
        ("policy_srank", "policy/policy_srank"),
        ("policy_variance", "0_overview/policy_variance"),
        ("entropy", "0_overview/entropy"),
        ("critic_feature_norm_before", "critic/critic_feature_norm_before"),
        ("value_mean", "critic/value_mean"),
        ("excess_ratio", "0_overview/excess_ratio"),
        ("kl_k3", "trust_region/kl_k3"),
        ("critic_gradient_norm", "minibatch/critic_gradient_norm"),
        ("learning_rate_measured", "minibatch/learning_rate_measured"),
        ("mine", "other/mine"),
    ],
)
def test_tags_group_metrics_by_what_they_measure(name: str, expected: str) -> None:
    assert tag(name) == expected


def test_every_metric_has_a_group() -> None:
    groups = {tag(name).split("/")[0] for name, metric in METRICS.items() if metric.dims == ("run", "log")}
    assert groups == {"0_overview", "return", "policy", "critic", "trust_region", "minibatch"}


@pytest.mark.parametrize(
    ("swept", "expected"),
    [
        ({}, "run_0012_seed=3"),
        ({"num_epochs": 4, "pfo_coef": 1.0}, "run_0012_num_epochs=4_pfo_coef=1.0_seed=3"),
        ({"hidden_sizes": (64, 32), "share_trunk": True}, "run_0012_hidden_sizes=64-32_share_trunk=True_seed=3"),
        ({"env": "gymnax/CartPole-v1"}, "run_0012_env=gymnax-CartPole-v1_seed=3"),
        ({"env": 'own:Env <a|b> "c" \\d?*'}, "run_0012_env=own-Env -a-b- -c- -d--_seed=3"),  # not on Windows
    ],
)
def test_a_run_is_named_by_what_it_is(swept: dict[str, Any], expected: str) -> None:
    """The dataset has tuples as text already, a plan has not: both give one name."""
    assert run_name(12, swept, 3) == expected
    of_dataset = {name: "-".join(map(str, x)) if isinstance(x, tuple) else x for name, x in swept.items()}
    assert run_name(12, of_dataset, 3) == expected


# --- Weights & Biases


def read_wandb(path: Path) -> list[Any]:
    """The records of an offline run: 7 bytes, then blocks of 32 KiB of (checksum 4, length 2, kind 1, data).

    Those that are whole, as it may still be written.
    """
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, position, found, pending = path.read_bytes(), 7, [], b""
    while position < len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        if position + 7 > len(content):
            break
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if position + 7 + length > len(content):
            break
        pending += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(records.Record.FromString(pending))
            pending = b""
    return found


@pytest.fixture
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the machine's settings nor its login."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.mark.filterwarnings("ignore")  # a large third party
@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("mode", [None, "offline"])
def test_wandb_keeps_history_and_configuration_offline(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """Offline where nobody has logged in, and where WANDB_MODE says so."""
    pytest.importorskip("wandb")
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    chosen = dataset.isel(run=[3, 4])
    for _ in range(2):  # the second one replaces the first
        folder = export(chosen, tmp_path, "wandb")
    assert folder == tmp_path / "export" / "wandb"
    deadline = time.monotonic() + 60  # W&B's own process writes the files, and is not always done when we are

    def is_whole(path: Path) -> bool:
        return any(record.HasField("exit") for record in read_wandb(path))

    while sum(map(is_whole, folder.glob("offline-run-*/*.wandb"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    files = sorted(folder.glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    found = {}
    for path in files:
        records = read_wandb(path)
        run = next(record.run for record in records if record.HasField("run"))
        axes = [
            x.metric for x in records if x.HasField("metric") and (x.metric.step_metric or x.metric.step_metric_index)
        ]
        assert {metric.glob_name: metric.step_metric for metric in axes} == {"*": "env_steps"}
        found[run.display_name] = (run, [record.history for record in records if record.HasField("history")])
    assert sorted(found) == [
        "run_0003_num_epochs=4_learning_rate=0.00025_seed=7",
        "run_0004_num_epochs=16_learning_rate=0.1_seed=3",
    ]
    for position, (_, (run, history)) in enumerate(sorted(found.items())):
        assert (run.project, run.run_group) == ("purejaxppo", "grid")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        facts = {name: chosen[name].values[position].item() for name in ("seed", "run_index", *AXES)}
        assert config.items() >= (facts | {"env": "gymnax/CartPole-v1", "gamma": 0.99}).items()
        rows = [{item.nested_key[0] or item.key: json.loads(item.value_json) for item in row.item} for row in history]
        series: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            for name, value in row.items():
                if "/" in name:
                    series.setdefault(name, []).append((row["env_steps"], float(value)))
        assert series == {tag(name): values for name, values in scalars(chosen, position).items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("no_login")
def test_wandb_that_writes_nothing_or_does_not_answer_is_told(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(ConfigError, match="WANDB_MODE is disabled, so nothing would be written"):
        export(dataset, tmp_path, "wandb")
    monkeypatch.setattr("purejaxppo.results.export._WANDB_SECONDS", 3)
    for name, value in {"MODE": "online", "BASE_URL": "http://127.0.0.1:9", "API_KEY": 40 * "0"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with pytest.raises(RunError, match=r"^Weights & Biases cannot be reached \(.*WANDB_MODE=offline writes"):
        export(dataset.isel(run=[0]), tmp_path, "wandb")


# --- What can go wrong


def test_an_unknown_format_is_refused(dataset: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export format 'tensorbord' is unknown; did you mean tensorboard"):
        export(dataset, tmp_path, "tensorbord")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "package"), [("parquet", "pyarrow"), ("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_with_its_remedy(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, package: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"^package {package} is not installed, .*pip install 'purejaxppo\[export\]'"
    ):
        export(dataset, tmp_path, to)


def test_a_disk_that_refuses_is_told(dataset: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"export cannot be written: "):
        export(dataset, tmp_path, "csv")
    assert (tmp_path / "export").read_text() == "a file where the folder should be"


def test_exporting_imports_no_jax_and_no_optional_package() -> None:
    code = "import sys, purejaxppo.results.export; sys.exit(bool({'jax', 'wandb', 'tensorboardX'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
