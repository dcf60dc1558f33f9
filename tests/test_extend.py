"""Sweeps that grow and meet: what is added is what one sweep would have computed, bit for bit, also after a kill."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr

import purejaxppo as pjp
from purejaxppo import own
from purejaxppo.commands.computing import resume
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.sweep import checkpoints, engine, extend, store
from purejaxppo.sweep.extended import extended, lengthened, parse_additions, planned
from purejaxppo.sweep.merge import merge
from purejaxppo.sweep.plan import Sweep, make_groups, parse_sweep, to_json
from purejaxppo.sweep.policies import load_policies
from purejaxppo.sweep.program import GroupProgram

CONTENT = {
    "name": "small",
    "seeds": 8,
    "config": {
        "env": "gymnax/CartPole-v1",
        "total_steps": 2 * 64,
        "num_envs": 4,
        "num_steps": 16,
        "minibatch_size": 32,
        "hidden_sizes": [8],
        "num_log_points": 2,
        "num_plasticity_points": 1,
    },
    "hparams": {"learning_rate": 1e-2},
}


def make_sweep(**changes: Any) -> Sweep:
    config = CONTENT["config"] | changes.pop("config", {})  # type: ignore[operator]
    return parse_sweep(CONTENT | changes | {"config": config})


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Runs that differ in their length alone are computed by one program; each is compiled once for all tests here."""
    original = GroupProgram.compile

    def compile(self: GroupProgram, *arguments: Any) -> None:
        same = {"total_steps": 64, "num_log_points": 1, "num_plasticity_points": 1}
        key = (dataclasses.replace(self.group.config, **same), self.width, self._learner.absent)
        if key in COMPILED:
            for name in ("_compiled", "_init", "_tasks", "sharding", "needed_memory"):
                setattr(self, name, getattr(COMPILED[key], name))
        original(self, *arguments)
        COMPILED[key] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupProgram, "compile", compile)
        yield


COMPILED: dict[Any, GroupProgram] = {}


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished sweep of eight seeds."""
    out = tmp_path_factory.mktemp("sweeps") / "eight"
    pjp.run_sweep(make_sweep(), out, is_quiet=True)
    return out


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "sixteen"
    pjp.run_sweep(make_sweep(seeds=16), out, is_quiet=True)
    return out


@pytest.fixture
def copy(eight: Path, tmp_path: Path) -> Path:
    return shutil.copytree(eight, tmp_path / "out")


def states(out: Path) -> dict[tuple[str, int], bytes]:
    found = {}
    for path in (out / "states").glob("*.npz"):
        with np.load(path) as content:
            for row, index in enumerate(content["run_index"].tolist()):
                for name in content.files:
                    assert (name, index) not in found
                    found[name, index] = content[name][row].tobytes()
    return found


def assert_same(one: Path, other: Path) -> None:
    """Two finished sweeps agree in all bits: numbers, coordinates, policies, final states."""
    assert store.read_sweep(one) == store.read_sweep(other)
    a, b = store.load_results(one), store.load_results(other)
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())
    for x, y in zip(load_policies(one), load_policies(other), strict=True):
        assert x.runs == y.runs
        assert jax.tree.all(jax.tree.map(lambda p, q: p.tobytes() == q.tobytes(), x.params, y.params))
    assert states(one) == states(other)
    assert not (one / store.EXTENSION).exists()


def interrupt(monkeypatch: pytest.MonkeyPatch, num_segments: int) -> None:
    """The process dies when it has computed some log points, each of which has left a checkpoint."""
    original, count = GroupProgram.segment, [0]

    def segment(self: GroupProgram, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] > num_segments:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(GroupProgram, "segment", segment)
    monkeypatch.setattr(engine._CheckpointClock, "is_due", lambda self: True)


# --- What a sweep becomes


def test_more_seeds_and_points_are_the_sweep_that_a_file_would_have_said() -> None:
    axes = {"learning_rate": [1e-3, 1e-2], "pfo_coef": [0.0, 1.0]}
    sweep = make_sweep(axes=axes)
    assert extended(sweep, seeds=16) == make_sweep(axes=axes, seeds=16)
    assert extended(sweep, add={"pfo_coef": [3]}) == make_sweep(axes=axes | {"pfo_coef": [0.0, 1.0, 3.0]})
    wider = axes | {"hidden_sizes": [[8], [8, 4]]}
    assert extended(sweep, add={"hidden_sizes": [[8, 4]]}) == make_sweep(axes=wider)
    assert extended(sweep, seeds=[9, 8]).seeds == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert extended(make_sweep(seeds=[3, 1]), seeds=3).seeds == (3, 1, 0, 2)
    assert extended(sweep, seeds=4) == sweep


def test_points_of_a_list_stay_and_new_ones_follow() -> None:
    points = [{"num_epochs": 4, "pfo_coef": 0.0}, {"num_epochs": 8, "pfo_coef": 1.0}]
    found = extended(make_sweep(points=points), add={"pfo_coef": [3.0]}).points
    assert found == (*points, {"num_epochs": 4, "pfo_coef": 3.0}, {"num_epochs": 8, "pfo_coef": 3.0})


def test_more_steps_keep_the_log_intervals_and_the_cadence_of_plasticity() -> None:
    before = make_sweep(config={"total_steps": 10 * 64, "num_log_points": 10, "num_plasticity_points": 5})
    sweep = lengthened(before, 20 * 64)
    assert sweep == make_sweep(config={"total_steps": 20 * 64, "num_log_points": 20, "num_plasticity_points": 10})
    due = [[log for log in range(11) if s.config.is_plasticity_point(log)] for s in (before, sweep)]
    assert due[0] == due[1]
    before = make_sweep(config={"total_steps": 15 * 64, "num_log_points": 3})  # five updates between two log points
    sweep = lengthened(before, 16 * 64)
    assert (sweep.config.updates_per_log, sweep.config.num_logs, sweep.config.total_steps) == (5, 4, 20 * 64)


@pytest.mark.parametrize(
    ("sweep", "options", "message"),
    [
        ({"config": {"lr_schedule": "linear"}}, {"total_steps": 640}, "lr_schedule is linear: .*cannot go on"),
        ({"axes": {"lr_schedule": ["constant", "linear"]}}, {"total_steps": 640}, "lr_schedule is linear"),
        ({}, {"total_steps": 64}, "total_steps is 64, but must be at least 128, which the runs have"),
        ({"axes": {"total_steps": [128, 256]}}, {"total_steps": 640}, "total_steps is swept"),
        ({"axes": {"num_steps": [16, 64]}}, {"total_steps": 640}, "log intervals of different lengths"),
        ({}, {"total_steps": 640, "seeds": 9}, "must be given alone"),
        ({}, {}, "nothing to do"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({}, {"add": {"pfo_cof": [1.0]}}, "'pfo_cof' is unknown; did you mean pfo_coef"),
        ({}, {"add": {"pfo_coef": [-1.0]}}, "pfo_coef is -1.0, but must be at least 0"),
    ],
)
def test_what_cannot_be_extended_is_refused(sweep: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(make_sweep(**sweep), **options)


def test_additions_are_read_as_in_a_sweep_file() -> None:
    texts = ["pfo_coef=3,1e1", "hidden_sizes=[8, 4],[8]", "activation=tanh,relu", "kl_stop=true", "pfo_coef=7"]
    found = {"pfo_coef": [3, 10.0, 7], "hidden_sizes": [[8, 4], [8]], "activation": ["tanh", "relu"], "kl_stop": [True]}
    assert parse_additions(texts) == found
    for text in ("pfo_coef", "=3", "pfo_coef="):
        with pytest.raises(ConfigError, match=r"^add is '.*', but must be FIELD=VALUE"):
            parse_additions([text])


# --- Growing


def test_eight_seeds_extended_to_sixteen_are_sixteen_also_after_a_kill(
    copy: Path, sixteen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copy / store.RESULTS).read_bytes()
    (copy / "claims.csv").write_text("of eight\n")
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            pjp.extend_sweep(copy, seeds=16, is_quiet=True)
    assert store.is_extending(copy)
    assert (copy / store.RESULTS).read_bytes() == before  # whole until the larger one is
    partial = store.load_results(copy / store.EXTENSION)
    np.testing.assert_array_equal(partial["policy_rank"][:8], pjp.load_results(copy)["policy_rank"])
    with pytest.raises(ConfigError, match=r"being extended otherwise; finish that with: purejaxppo resume"):
        pjp.extend_sweep(copy, seeds=12, is_quiet=True)
    pjp.extend_sweep(copy, seeds=16, is_quiet=True)
    assert_same(copy, sixteen)
    (note,) = store.read_json(copy / store.PROVENANCE)["continued"][:1]
    assert note["extended"] == "8 runs there, 8 computed, 0 of them from their end"
    assert not (copy / "claims.csv").exists()  # nothing that says "eight" is taken for the sixteen's
    assert (copy / extend.SMALLER / "claims.csv").read_text() == "of eight\n"
    monkeypatch.setattr(GroupProgram, "segment", None)  # nothing is computed
    pjp.extend_sweep(copy, seeds=16, is_quiet=True)


def test_what_an_earlier_extension_set_aside_stays(tmp_path: Path) -> None:
    for runs in ("eight", "sixteen"):
        (tmp_path / "claims.csv").write_text(runs)
        (tmp_path / "notes.txt").write_text("the user's own")
        extend._set_aside(tmp_path)
    assert (tmp_path / "smaller" / "claims.csv").read_text() == "sixteen"
    assert (tmp_path / "smaller" / "smaller" / "claims.csv").read_text() == "eight"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "smaller"]


def test_more_steps_go_on_from_the_final_states_to_the_bits_of_a_longer_sweep(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = make_sweep(config={"total_steps": 4 * 64, "num_log_points": 4, "num_plasticity_points": 2})
    pjp.run_sweep(longer, tmp_path / "longer", is_quiet=True)
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            pjp.extend_sweep(copy, total_steps=4 * 64, is_quiet=True)
    parts = sorted(path.name for path in copy.glob("extension/parts/*/*.npz"))
    assert set(parts) <= {"00003.npz", "00004.npz"}  # nothing is computed again
    pjp.extend_sweep(copy, total_steps=4 * 64, is_quiet=True)
    assert_same(copy, tmp_path / "longer")


def test_new_points_are_those_of_one_sweep(copy: Path, tmp_path: Path) -> None:
    pjp.extend_sweep(copy, add={"learning_rate": [1e-3]}, is_quiet=True)
    pjp.run_sweep(make_sweep(axes={"learning_rate": [1e-2, 1e-3]}), tmp_path / "one", is_quiet=True)
    assert_same(copy, tmp_path / "one")


class _Killed(BaseException):
    pass


def _files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole_extension(eight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seeds with what commands have written of them, and sixteen that are whole and not yet in their place."""
    out = shutil.copytree(eight, tmp_path_factory.mktemp("sweeps") / "eight")
    for name in ("claims.csv", "figure.pdf", "figure.svg", "figure.txt", "run_3.gif", "run_3.html", "notes.txt"):
        (out / name).write_text("of eight\n")
    for name in ("export/long.csv", "tensorboard/run_0000/events", "smaller/claims.csv"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("of eight\n" if "smaller" not in name else "of four\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extend, "adopt", lambda out: None)
        pjp.extend_sweep(out, seeds=16, is_quiet=True)
    (out / "extension/tensorboard/run_0008").mkdir(parents=True)
    (out / "extension/tensorboard/run_0008/events").write_text("of sixteen\n")
    return out


def test_a_kill_at_any_instant_while_the_larger_sweep_takes_its_place_loses_nothing(
    whole_extension: Path, sixteen: Path, tmp_path: Path
) -> None:
    """Before each call that changes the disk, and whoever resumes goes on there: the same files in the end."""
    calls = ("replace", "rename", "mkdir", "rmdir", "unlink")
    originals, left = {name: getattr(os, name) for name in calls}, [10**9]

    def dying(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return originals[name](*arguments, **options)

        return call

    def adopt_killed_after(num_calls: int, out: Path) -> bool:
        left[0] = num_calls
        with pytest.MonkeyPatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, dying(name))
            try:
                extend.adopt(out)
            except _Killed:
                return True
        return False

    expected = shutil.copytree(whole_extension, tmp_path / "expected")
    extend.adopt(expected)
    found = _files(expected)
    assert sorted(path.name for path in (expected / "smaller").iterdir()) == [
        *("claims.csv", "export", "figure.pdf", "figure.svg", "figure.txt", "run_3.gif", "run_3.html", "smaller"),
        "tensorboard",
    ]
    assert found["smaller/smaller/claims.csv"] == b"of four\n"
    assert found["tensorboard/run_0008/events"] == b"of sixteen\n"
    assert found["notes.txt"] == b"of eight\n"
    assert not list(expected.glob(".*"))
    sweeps = [[_files(of / folder) for of in (whole_extension, expected)] for folder in ("policies", "states")]
    with pytest.raises(ConfigError, match=r"is being replaced by its extension; finish that with: purejaxppo resume"):
        load_policies(whole_extension)
    num_calls = 0
    while True:
        out = shutil.copytree(whole_extension, tmp_path / "out", copy_function=os.link)  # no file is written into
        if not adopt_killed_after(num_calls, out):
            break
        for folder, whole in zip(("policies", "states"), sweeps, strict=True):  # at every instant one of the two
            assert any(_files(out / name) in whole for name in (folder, f".{folder}.old")), num_calls
        if store.is_extending(out):
            adopt_killed_after(3, out)  # and once more
            if store.is_extending(out):
                extend.adopt(out)
        store.clean(out)
        assert _files(out) == found, f"killed after {num_calls} calls"
        shutil.rmtree(out)
        num_calls += 1
    assert num_calls > 20
    shutil.rmtree(expected / "tensorboard")
    assert_same(expected, sixteen)


def test_a_full_disk_while_the_larger_sweep_takes_its_place_is_one_sentence(
    whole_extension: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace = shutil.copytree(whole_extension, tmp_path / "out"), os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == store.LAYOUT:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"No space left on device; nothing is lost, continue with: purejaxppo res"):
            extend.grow(make_sweep(seeds=16), out, is_quiet=True)
    with pytest.raises(ConfigError, match="is being replaced by its extension"):
        pjp.run_sweep(make_sweep(seeds=16), out, is_quiet=True)
    extend.grow(store.read_sweep(out), out, is_quiet=True)  # as resume does
    assert pjp.load_results(out).sizes["run"] == 16
    assert not list(out.glob(f"{store.LOCK}*"))


def test_two_processes_never_extend_one_directory(
    whole_extension: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(whole_extension, tmp_path / "out")
    before = _files(out)
    with store.lock(out, 0), pytest.raises(ConfigError, match="another process is computing this sweep right now"):
        extend.grow(make_sweep(seeds=16), out, is_quiet=True)
    assert _files(out) == before
    adopt, waited = extend.adopt, []

    def wait_until(is_true: Any, what: str) -> None:
        assert not is_true()
        adopt(out)  # as process 0 does
        assert is_true()
        waited.append(what)

    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(engine, "wait_until", wait_until)
    monkeypatch.setattr(extend, "adopt", None)
    assert extend.grow(make_sweep(seeds=16), out, is_quiet=True).sizes["run"] == 16
    assert len(waited) == 1


def test_a_finished_sweep_that_is_run_again_leaves_its_extension_the_lock(copy: Path) -> None:
    with store.lock(copy, 0):
        pjp.run_sweep(make_sweep(), copy, is_quiet=True)
        assert (copy / f"{store.LOCK}0").is_file()
    assert not (copy / f"{store.LOCK}0").exists()


def test_an_extension_that_ends_before_it_has_begun_leaves_nothing_that_is_taken_for_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk and a kill while it copies what it takes over."""
    monkeypatch.setattr(own, "before_first_import", [])

    def failing(error: BaseException) -> Any:
        def write_sweep(*arguments: Any, **options: Any) -> None:
            raise error

        return write_sweep

    before = _files(copy)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_sweep", failing(OSError(28, "No space left on device")))
        with pytest.raises(RunError, match=r"cannot be written: No space left on device; it is as it was, extend it"):
            pjp.extend_sweep(copy, seeds=16, is_quiet=True)
        assert _files(copy) == before
        patch.setattr(store, "write_sweep", failing(_Killed()))
        with pytest.raises(_Killed):
            pjp.extend_sweep(copy, seeds=16, is_quiet=True)
    assert not store.is_extending(copy)
    with pytest.raises(ConfigError, match=r"was to be extended, which was stopped before anything was computed; exten"):
        resume(copy)
    monkeypatch.setattr(engine, "compute", failing(_Killed()))
    with pytest.raises(_Killed):
        pjp.extend_sweep(copy, seeds=16, is_quiet=True)
    assert store.is_extending(copy)
    assert not (copy / store.BEGUN).exists()


def test_without_final_states_more_steps_are_refused_and_more_seeds_are_not(copy: Path) -> None:
    shutil.rmtree(copy / store.STATES)
    with pytest.raises(
        ConfigError, match=r"no final state of run 0, .*: it was computed with --no-keep, or by an earl"
    ):
        pjp.extend_sweep(copy, total_steps=256, is_quiet=True)
    assert not (copy / store.EXTENSION).exists()
    (copy / "tensorboard/run_0000_seed=0").mkdir(parents=True)  # event files do not stop where a sweep did
    pjp.extend_sweep(copy, seeds=16, is_quiet=True, is_kept=False)
    assert pjp.load_results(copy).sizes["run"] == 16
    assert not list((copy / store.STATES).glob("*"))
    new = sorted(path.name for path in (copy / "tensorboard").iterdir())
    assert new == [f"run_{index:04d}_seed={index}" for index in range(8, 16)]
    assert (copy / "smaller/tensorboard/run_0000_seed=0").is_dir()


def test_other_versions_and_what_is_not_finished_are_refused(copy: Path, tmp_path: Path) -> None:
    facts = store.read_json(copy / store.PROVENANCE)
    store.write_json(copy / store.PROVENANCE, facts | {"version_jax": "0.1"})
    with pytest.raises(ConfigError, match=r"version_jax \(0\.1 there, .*needs --force"):
        pjp.extend_sweep(copy, seeds=16, is_quiet=True)
    assert not (copy / store.EXTENSION).exists()
    pjp.extend_sweep(copy, seeds=16, is_quiet=True, is_forced=True)
    store.create(tmp_path / "new", make_sweep())
    with pytest.raises(ConfigError, match="is not finished; finish it with: purejaxppo resume"):
        pjp.extend_sweep(tmp_path / "new", seeds=16)


def test_a_program_with_more_in_it_is_said(copy: Path) -> None:
    kept = {index: index for index in range(8)}
    for changes, is_said in ({"seeds": 16}, False), ({"axes": {"pfo_coef": [0.0, 1.0]}}, True):
        assert bool(extend._said_of_programs(copy, make_sweep(**changes), kept)) == is_said


# --- Meeting


def test_two_sweeps_merged_are_one(eight: Path, sixteen: Path, tmp_path: Path) -> None:
    pjp.run_sweep(make_sweep(seeds=list(range(8, 16)), name="later"), tmp_path / "later", is_quiet=True)
    merge([tmp_path / "later", eight], tmp_path / "out")
    found = store.read_sweep(tmp_path / "out")
    store.write_json(tmp_path / "out" / store.SWEEP, to_json(found) | {"name": "small"})
    assert_same(tmp_path / "out", sixteen)
    told = store.read_json(tmp_path / "out" / store.PROVENANCE)
    assert told["version_jax"] == jax.__version__
    assert [own["directory"] for own in told["merged"]] == ["later", "eight"]
    for target in (eight, tmp_path / "out"):
        with pytest.raises(ConfigError, match="holds something that is not a sweep, but must be a new or empty"):
            merge([tmp_path / "later", eight], target)
    pjp.extend_sweep(tmp_path / "out", seeds=24, is_quiet=True)
    assert pjp.load_results(tmp_path / "out")["seed"].values.tolist() == list(range(24))


def test_what_a_merge_lacks_of_a_product_is_computed_by_extending_it(
    eight: Path, sixteen: Path, tmp_path: Path
) -> None:
    """Eight seeds of one learning rate, eight others of another: of 2 x 16 runs 16 are missing."""
    sweep = make_sweep(seeds=list(range(8, 16)), hparams={"learning_rate": 1e-3})
    pjp.run_sweep(sweep, tmp_path / "other", is_quiet=True)
    merged = merge([eight, tmp_path / "other"], tmp_path / "out")
    assert merged["run_index"].values.tolist() == [*range(8), *range(24, 32)]
    assert len(make_groups(store.read_sweep(tmp_path / "out"))[0].runs) == 32
    pjp.extend_sweep(tmp_path / "out", seeds=16, is_quiet=True)
    found = pjp.load_results(tmp_path / "out")
    assert found["run_index"].values.tolist() == list(range(32))
    np.testing.assert_array_equal(found["return_mean"][:16], pjp.load_results(sixteen)["return_mean"])


def test_only_finished_sweeps_are_merged(eight: Path, tmp_path: Path) -> None:
    store.create(tmp_path / "new", make_sweep())
    with pytest.raises(ConfigError, match="new is not finished; finish it with: purejaxppo resume"):
        merge([eight, tmp_path / "new"], tmp_path / "out")
    with pytest.raises(ConfigError, match="must have at least two"):
        merge([eight], tmp_path / "out")
    (tmp_path / "results").mkdir()
    shutil.copy(eight / store.RESULTS, tmp_path / "results")  # as `import_metrics` makes them
    with pytest.raises(ConfigError, match=r"results is not a sweep's: sweep\.json is missing"):
        merge([eight, tmp_path / "results"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "results"]


def test_a_run_in_two_sweeps_with_other_numbers_is_named(eight: Path, copy: Path, tmp_path: Path) -> None:
    merge([eight, copy], tmp_path / "same")
    assert pjp.load_results(tmp_path / "same").sizes["run"] == 8
    other = pjp.load_results(copy).load()
    other["kl"][3, 1] += 1
    pjp.results.save(other, copy / store.RESULTS)
    with pytest.raises(ConfigError, match=r"eight and .*out both have the run seed 3, with other numbers"):
        merge([eight, copy], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_state_of_another_shape_is_refused(copy: Path) -> None:
    fresh = {"a": np.zeros((2, 3), np.float32)}
    folder = copy / "other"
    checkpoints.save_final(folder / "0.npz", [4, 2], {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})
    found = checkpoints.restore_final(folder, [2], fresh)
    np.testing.assert_array_equal(found["a"], [[3, 4, 5]] * 2)  # padded
    with pytest.raises(ConfigError, match="is damaged"):  # nothing that a state must have is made up
        checkpoints.restore_final(folder, [2], fresh | {"new": np.zeros(2)})
    with pytest.raises(ConfigError, match="has another shape or type"):
        checkpoints.restore_final(folder, [2], {"a": np.zeros((2, 4), np.float32)})
    with pytest.raises(ConfigError, match="no final state of run 9"):
        checkpoints.restore_final(folder, [9], fresh)
