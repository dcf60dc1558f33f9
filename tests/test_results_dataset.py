"""Results: groups of runs become one labelled Dataset, and the Dataset survives the disk."""

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from purejaxppo.errors import ConfigError
from purejaxppo.results import files
from purejaxppo.results.dataset import GroupResult, points, swept_fields, to_dataset
from purejaxppo.results.files import load, save
from purejaxppo.results.registry import METRICS


def group(run_index, swept, num_logs=4, width=None, steps_per_log=100, metrics=("return_mean",), status=None):
    """A group whose value of run i at log point t is 100 i + t (+ d / 10 in a spectrum)."""
    index = np.array(run_index)
    values = 100.0 * index[:, None] + np.arange(num_logs)[None, :]
    found = {name: values.astype(np.float32) for name in metrics}
    if width is not None:
        found["policy_singular_values"] = values[:, :, None] + np.arange(width)[None, None, :] / 10
    return GroupResult(
        metrics=found,
        env_steps=steps_per_log * np.arange(1, num_logs + 1),
        seeds=index % 2,
        swept=swept,
        status=np.zeros(index.size, dtype=int) if status is None else np.array(status),
        run_index=index,
    )


def test_runs_of_all_groups_come_in_the_order_of_the_sweep():
    dataset = to_dataset(
        [group([3, 0], {"num_epochs": [16, 4]}, status=[2, 0]), group([2, 1], {"num_epochs": [16, 4]})], {}
    )
    assert dataset["return_mean"].dims == ("run", "log")
    assert dataset["return_mean"].dtype == np.float32
    np.testing.assert_array_equal(dataset["return_mean"][:, 1], [1, 101, 201, 301])
    np.testing.assert_array_equal(dataset["run_index"], [0, 1, 2, 3])
    np.testing.assert_array_equal(dataset["num_epochs"], [4, 4, 16, 16])
    np.testing.assert_array_equal(dataset["group"], [0, 1, 1, 0])
    np.testing.assert_array_equal(dataset["seed"], [0, 1, 0, 1])
    np.testing.assert_array_equal(dataset["status"], [0, 0, 0, 2])
    assert dataset["status"].dtype == np.int32
    assert dataset["env_steps"].dims == ("log",)
    np.testing.assert_array_equal(dataset["env_steps"], [100, 200, 300, 400])


def test_spectra_of_a_critic_with_another_width_are_padded_like_those_of_other_groups(tmp_path):
    made = group([0, 1], {"num_envs": [8, 8]}, width=4)
    wide = made.metrics["policy_singular_values"][:, :, :1] + np.arange(6.0)
    metrics = made.metrics | {"critic_singular_values": wide}
    dataset = to_dataset([dataclasses.replace(made, metrics=metrics)], {})
    save(dataset, tmp_path / "results.nc")
    for found in (dataset, load(tmp_path / "results.nc")):
        assert found.sizes["D"] == 6
        np.testing.assert_array_equal(found["critic_singular_values"], wide)
        np.testing.assert_array_equal(found["policy_singular_values"][:, :, :4], made.metrics["policy_singular_values"])
        assert np.isnan(found["policy_singular_values"][:, :, 4:]).all()


@pytest.mark.parametrize("name", ["seed", "env_steps", "group", "log"])
def test_a_metric_may_not_be_called_as_what_tells_runs_apart(name):
    made = group([0, 1], {}, metrics=("return_mean", name))
    with pytest.raises(ValueError, match=f"group 0: a metric may not be called '{name}'"):
        to_dataset([made], {})


def test_fewer_log_points_and_narrower_spectra_are_padded_with_nan():
    swept = {"num_envs": [8]}
    dataset = to_dataset([group([1], swept, num_logs=2, width=3), group([0], swept, num_logs=4, width=5)], {})
    assert dataset["env_steps"].dims == ("run", "log")
    np.testing.assert_array_equal(dataset["env_steps"], [[100, 200, 300, 400], [100, 200, np.nan, np.nan]])
    np.testing.assert_array_equal(dataset["return_mean"], [[0, 1, 2, 3], [100, 101, np.nan, np.nan]])
    spectrum = dataset["policy_singular_values"]
    assert spectrum.dims == ("run", "log", "D")
    assert spectrum.shape == (2, 4, 5)
    np.testing.assert_allclose(spectrum[1, 0], [100, 100.1, 100.2, np.nan, np.nan])
    assert np.all(np.isnan(spectrum[1, 2:]))
    assert not np.any(np.isnan(spectrum[0]))


def test_equally_many_log_points_at_other_steps_keep_their_own_steps():
    dataset = to_dataset([group([0], {}), group([1], {}, steps_per_log=250)], {})
    np.testing.assert_array_equal(dataset["env_steps"], [[100, 200, 300, 400], [250, 500, 750, 1000]])


def test_a_metric_that_only_one_group_has_is_nan_elsewhere():
    counts = GroupResult(
        metrics={"episode_count": np.array([[3, 4]])},
        env_steps=np.array([1, 2]),
        seeds=np.array([0]),
        swept={},
        status=np.array([0]),
        run_index=np.array([1]),
    )
    dataset = to_dataset([group([0], {}, num_logs=2), counts], {})
    np.testing.assert_array_equal(dataset["episode_count"], [[np.nan, np.nan], [3, 4]])
    np.testing.assert_array_equal(dataset["return_mean"], [[0, 1], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], np.array([True, False])),
        ([4, 32], np.array([4, 32])),
        ([0, 0.5], np.array([0.0, 0.5])),
        ([np.float32(0.1), np.float32(2.5e-4)], np.array([0.1, 2.5e-4])),
        (["relu", "tanh"], np.array(["relu", "tanh"])),
        ([(64, 64), (128,)], np.array(["64-64", "128"])),
        ([None, 500], np.array(["none", "500"])),
    ],
)
def test_swept_values_keep_their_kind(values, expected, tmp_path):
    dataset = load(save(to_dataset([group([0, 1], {"field": values})], {}), tmp_path / "results.nc"))
    assert dataset["field"].dtype.kind == expected.dtype.kind
    np.testing.assert_array_equal(dataset["field"], expected)


def test_every_variable_says_what_it_is():
    names = ("return_mean", "policy_rank", "no_such_metric")
    dataset = to_dataset([group([0], {"pfo_coef": [1.0]}, metrics=names, width=3)], {})
    for name, variable in dataset.variables.items():
        assert min(len(variable.attrs["long_name"]), len(variable.attrs["definition"])) > 0, name
    assert dataset["policy_rank"].attrs["definition"] == METRICS["policy_rank"].definition
    assert dataset["policy_rank"].attrs["units"] == METRICS["policy_rank"].units
    assert "units" not in dataset["no_such_metric"].attrs
    assert "0: ok" in dataset["status"].attrs["meaning"]


def test_provenance_becomes_strings():
    attrs = {
        "git": "abc",
        "config": {"env": "x", "sizes": (64, 64)},
        "seeds": np.arange(2),
        "clean": True,
        "none": None,
    }
    dataset = to_dataset([group([0], {})], attrs)
    assert all(isinstance(value, str) for value in dataset.attrs.values())
    assert dataset.attrs["git"] == "abc"
    assert json.loads(dataset.attrs["config"]) == {"env": "x", "sizes": [64, 64]}
    assert json.loads(dataset.attrs["seeds"]) == [0, 1]
    assert json.loads(dataset.attrs["clean"]) is True


def test_a_swept_field_keeps_its_name_when_a_metric_has_it_too():
    dataset = to_dataset([group([0, 1], {"learning_rate": [0.1, 0.2]}, metrics=("learning_rate",))], {})
    np.testing.assert_array_equal(dataset["learning_rate"], [0.1, 0.2])
    np.testing.assert_array_equal(dataset["learning_rate_measured"][1], [100, 101, 102, 103])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([group([0, 0], {})], "run_index must name every run once"),
        ([group([0, 1], {"a": [1]})], "a has 1 values for 2 runs"),
        ([group([0], {"a": [1]}), group([1], {"b": [1]})], r"group 1: swept fields \['b'\]"),
        ([group([0], {}, metrics=("a/b",))], "may not contain '/'"),
        ([group([0], {"status": [1]})], "may not be called 'status'"),
    ],
)
def test_contradictions_are_told(groups, message):
    with pytest.raises(ValueError, match=message):
        to_dataset(groups, {})


def test_a_metric_of_another_length_is_told():
    wrong = group([0], {})
    wrong.metrics["return_mean"] = np.zeros((1, 3))
    with pytest.raises(ValueError, match=r"return_mean has shape \(1, 3\), not \(1, 4"):
        to_dataset([wrong], {})


def test_points_are_the_combinations_in_order_of_appearance(tmp_path):
    swept = {"pfo_coef": [1.0, 1.0, 0.0, 0.0], "activation": ["tanh", "relu", "tanh", "tanh"], "seed": [0, 1, 0, 1]}
    dataset = to_dataset([group([0, 1, 2, 3], swept)], {})
    for found in (dataset, load(save(dataset, tmp_path / "results.nc"))):
        assert swept_fields(found) == ["pfo_coef", "activation"]
        assert [(point, runs.tolist()) for point, runs in points(found)] == [
            ({"pfo_coef": 1.0, "activation": "tanh"}, [0]),
            ({"pfo_coef": 1.0, "activation": "relu"}, [1]),
            ({"pfo_coef": 0.0, "activation": "tanh"}, [2, 3]),
        ]
    assert swept_fields(dataset.assign_coords(label=("run", list("aabb")))) == ["pfo_coef", "activation", "label"]
    assert [(point, runs.tolist()) for point, runs in points(to_dataset([group([0, 1], {})], {}))] == [({}, [0, 1])]


@settings(max_examples=10, deadline=None)
@given(
    flags=st.lists(st.booleans(), min_size=3, max_size=3),
    # Unicode without control characters and surrogates, which HDF5 strings cannot hold.
    names=st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8), min_size=3, max_size=3),
    floats=st.lists(st.floats(allow_nan=False, width=64), min_size=3, max_size=3),
    num_logs=st.integers(0, 3),
)
def test_a_dataset_survives_the_disk(tmp_path_factory, flags, names, floats, num_logs):
    swept = {"is_shared": flags, "activation": names, "pfo_coef": floats}
    dataset = to_dataset([group([2, 0, 1], swept, num_logs=num_logs, width=2)], {"git": "", "config": {"é": [1]}})
    path = tmp_path_factory.mktemp("disk") / "results.nc"
    found = load(save(dataset, path))
    assert found.identical(dataset)
    save(found, path)  # saving what was loaded, over the file it came from
    assert load(path).identical(dataset)


def test_numbers_stay_numbers_whatever_their_units(tmp_path):
    dataset = to_dataset([group([0], {})], {})
    dataset["return_mean"].attrs["units"] = "seconds since 2000-01-01"  # which netCDF readers turn into dates
    assert load(save(dataset, tmp_path / "results.nc")).identical(dataset)


def test_large_constant_arrays_are_compressed(tmp_path):
    zeros = GroupResult(
        metrics={"policy_singular_values": np.zeros((4, 50, 64))},
        env_steps=np.arange(50),
        seeds=np.arange(4),
        swept={},
        status=np.zeros(4),
        run_index=np.arange(4),
    )
    path = save(to_dataset([zeros], {}), tmp_path / "new" / "folder" / "results.nc")
    assert path.stat().st_size < 4 * 50 * 64 * 8 / 2


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "xarray.Dataset.to_netcdf"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = save(to_dataset([group([0], {})], {}), tmp_path / "results.nc")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="disk full"):
        save(to_dataset([group([0, 1], {})], {}), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.nc"]


def test_what_netcdf_calls_a_runtime_error_is_the_disks(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr("xarray.Dataset.to_netcdf", fail)
    with pytest.raises(OSError, match="NetCDF: HDF error"):
        save(to_dataset([group([0], {})], {}), tmp_path / "results.nc")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_where_folders_cannot_be_forced_to_disk_files_still_are(tmp_path, monkeypatch, number):
    fsync, forced = os.fsync, []

    def refusing(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        assert os.write(handle, b"") == 0  # Windows asks that the file is open for writing
        forced.append(fsync(handle))

    monkeypatch.setattr(os, "fsync", refusing)
    if number == errno.EIO:
        with pytest.raises(OSError, match="error"):
            files.write_atomically(tmp_path / "a", lambda file: file.write(b"whole"))
        return
    files.write_atomically(tmp_path / "a", lambda file: file.write(b"whole"))
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(forced) == 1


def test_texts_that_are_no_utf8_are_written_as_codes(tmp_path):
    """As Python reads an argument of bytes in Latin-1; directories of earlier versions have it as JSON has it."""
    dataset = to_dataset([group([0], {})], {"command": os.fsdecode(b"sweep Gr\xf6sse.toml")})
    dataset["return_mean"].attrs["definition"] = "\udcf6"
    loaded = load(save(dataset, tmp_path / "results.nc"))
    assert loaded.attrs["command"] == "sweep Gr\\udcf6sse.toml"
    assert loaded["return_mean"].attrs["definition"] == "\\udcf6"
    assert dataset.attrs["command"] == os.fsdecode(b"sweep Gr\xf6sse.toml")


def test_the_file_is_whole_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), load(a), replace(a, b)))
    save(to_dataset([group([0], {})], {}), tmp_path / "results.nc")
    assert calls[:2] == ["fsync", "replace"]


def damaged(path, kind):
    whole = path.read_bytes()
    if kind == "flipped":
        middle = len(whole) // 2  # within the random numbers, which are most of the file
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    else:
        path.write_bytes(whole[: int(kind * len(whole))])


@pytest.mark.parametrize("kind", [0.0, 0.001, 0.01, 0.3, 0.7, 0.999, "flipped"])
def test_a_damaged_file_is_one_sentence(tmp_path, kind):
    dataset = to_dataset([group([0, 1], {}, num_logs=200, width=64)], {})
    noise = np.random.default_rng(0).normal(size=dataset["policy_singular_values"].shape)
    dataset["policy_singular_values"][:] = noise
    path = save(dataset[["status", "policy_singular_values"]], tmp_path / "results.nc")
    damaged(path, kind)
    with pytest.raises(ConfigError, match=r"^Results file '.*results\.nc' is damaged or not netCDF, and .*\.$"):
        load(path).load()  # numbers are read, and checked, when they are asked for


def test_what_is_no_results_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.nc' does not exist"):
        load(tmp_path / "nowhere.nc")
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path)
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ConfigError, match="damaged or not netCDF"):
        load(tmp_path / "text.nc")
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="netcdf4")
    with pytest.raises(ConfigError, match="is no results file"):
        load(tmp_path / "other.nc")


class OnDisk:
    """Numbers that can only be read in slices."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, key):
        assert all(isinstance(part, slice) for part in key)
        return self.values[key]


def large(num_logs=200, width=8):
    """Two groups of different lengths whose metrics are on disk, and the same in memory; two stretches of writing."""
    rng = np.random.default_rng(0)
    groups = []
    for first, length in ((0, num_logs), (3, num_logs - 70)):
        part = group([first + 1, first, first + 2], {"a": [1, 2, 3]}, num_logs=length, width=width)
        noise = {name: rng.normal(size=values.shape).astype(values.dtype) for name, values in part.metrics.items()}
        groups.append(dataclasses.replace(part, metrics=noise))
    away = [
        dataclasses.replace(one, metrics={name: OnDisk(values) for name, values in one.metrics.items()})
        for one in groups
    ]
    return to_dataset(away, {}), to_dataset(groups, {})


def slices(size):
    """Any but those that go backwards over nothing, at which xarray itself fails, as old versions do at empty lists."""
    return st.slices(size).filter(lambda key: (key.step or 1) > 0 or len(range(size)[key]) > 0)


KEYS = st.one_of(
    st.integers(-6, 5),
    slices(6),
    st.lists(st.integers(-6, 5), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=6, max_size=6).filter(any).map(np.array),
)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Parts, what they hold, and the file of results that they make."""
    away, here = large(num_logs=100)
    return away, here, save(here, tmp_path_factory.mktemp("disk") / "results.nc")


@settings(max_examples=40)
@given(run=KEYS, log=st.one_of(st.integers(-100, 99), slices(100)), width=st.one_of(st.just(0), slices(8)))
def test_what_is_read_when_asked_for_is_what_was_written(on_disk, run, log, width):
    away, here, path = on_disk
    stored = load(path)
    for name, index in (("return_mean", {}), ("policy_singular_values", {"D": width})):
        expected = here[name].isel(run=run, log=log, **index)
        for dataset in (away, stored):
            xr.testing.assert_identical(dataset[name].isel(run=run, log=log, **index), expected)


def test_metrics_on_disk_are_written_some_log_points_at_a_time(tmp_path):
    away, here = large()
    path = save(away, tmp_path / "results.nc")
    assert load(path).identical(here)
    assert away.identical(here)


def test_a_metric_is_read_once_and_its_neighbours_not_at_all(tmp_path, monkeypatch):
    _, here = large()
    read, original = [], files._Stored.__getitem__

    def get(self, key):
        read.append((self.variable.attrs["long_name"], key))
        return original(self, key)

    monkeypatch.setattr(files._Stored, "__getitem__", get)
    dataset = load(save(here, tmp_path / "results.nc"))
    assert read == []
    for _ in range(2):
        np.testing.assert_array_equal(dataset["return_mean"].values, here["return_mean"].values)
    dataset["return_mean"][0, 0] = 7.0  # in memory alone
    assert len(read) == 1
    assert load(tmp_path / "results.nc").identical(here)


def test_writing_needs_little_memory(tmp_path):
    """100 metrics x 64 runs x 1024 log points are 26 MB; a stretch of one metric 16 kB, of all of them 1.6 MB."""

    class Zeros:
        shape, dtype = (64, 1024), np.dtype(np.float32)

        def __getitem__(self, key):
            return np.zeros(self.shape, self.dtype)[key].copy()

    one = group(range(64), {}, num_logs=1024)
    save(to_dataset([group(range(2), {})], {}), tmp_path / "first.nc")  # imports what is imported when it is needed
    tracemalloc.start()
    try:
        dataset = to_dataset([dataclasses.replace(one, metrics={f"m{i}": Zeros() for i in range(100)})], {})
        save(dataset, tmp_path / "results.nc")
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    assert load(tmp_path / "results.nc")["m99"].shape == (64, 1024)


def test_reading_results_loads_neither_jax_nor_matplotlib():
    code = (
        "import sys; from purejaxppo.analysis import load, summary_table, overview, save_figure; "
        "print([name for name in ('jax', 'flax', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
