"""From a sweep file to groups of runs: parsing, grouping, numbering, and one sentence for every mistake."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from purejaxppo.config import SELECTABLE, TrainConfig
from purejaxppo.envs.suites import SUITES
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.presets import preset
from purejaxppo.sweep.plan import Group, Run, Sweep, describe, make_groups, parse_sweep, to_json

NAN = float("nan")
CONFIGS = Path(__file__).parent.parent / "experiments" / "configs"
AXES = {
    "num_epochs": st.integers(1, 9),
    "hidden_sizes": st.lists(st.integers(1, 64), min_size=1, max_size=3),
    "share_trunk": st.booleans(),
    "reset_optimizer": st.booleans(),
    "pfo_coef": st.one_of(st.integers(0, 3), st.floats(0, 10)),
    "gamma": st.floats(0, 1),
}


def distinct(values: list[Any]) -> list[Any]:
    return [x for i, x in enumerate(values) if x not in values[:i]]


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    """Sweeps over up to three axes of both kinds, or over none."""
    names = draw(st.lists(st.sampled_from(list(AXES)), max_size=3, unique=True))
    axes = {name: distinct(draw(st.lists(AXES[name], min_size=1, max_size=3))) for name in names}
    seeds = draw(st.one_of(st.integers(1, 4), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True)))
    return parse_sweep({"seeds": seeds, "axes": axes})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- Reading


def test_a_file_becomes_a_sweep(tmp_path: Path) -> None:
    """Lists become tuples, whole numbers in float fields floats, and axes their product, in the file's order."""
    file = write(
        tmp_path / "grid.toml",
        """
        seeds = [7, 3]
        [config]
        env = "gymnax/Acrobot-v1"
        hidden_sizes = [32, 16]
        [hparams]
        gamma = 1
        [axes]
        pfo_coef = [0, 1.5]
        num_epochs = [4, 32]
        """,
    )
    points = tuple({"pfo_coef": coef, "num_epochs": epochs} for coef in (0.0, 1.5) for epochs in (4, 32))
    sweep = Sweep.from_toml(file)
    assert sweep == Sweep(
        name="grid",
        seeds=(7, 3),
        config=TrainConfig(env="gymnax/Acrobot-v1", hidden_sizes=(32, 16)),
        hparams=HyperParams(gamma=1.0),
        points=points,
    )
    assert isinstance(sweep.hparams.gamma, float)
    assert isinstance(sweep.points[0]["pfo_coef"], float)
    assert (sweep.swept, sweep.num_runs) == (["pfo_coef", "num_epochs"], 8)


def test_points_are_taken_as_they_are() -> None:
    sweep = parse_sweep({"points": [{"hidden_sizes": [8], "gamma": 0.9}, {"gamma": 1, "hidden_sizes": [8, 8]}]})
    assert sweep.points == ({"hidden_sizes": (8,), "gamma": 0.9}, {"hidden_sizes": (8, 8), "gamma": 1.0})


def test_what_a_point_leaves_out_is_as_in_the_base_configuration() -> None:
    sweep = parse_sweep({"hparams": {"gamma": 0.9}, "points": [{}, {"share_trunk": True}, {"gamma": 0.8}]})
    assert sweep.points == (
        {"share_trunk": False, "gamma": 0.9},
        {"share_trunk": True, "gamma": 0.9},
        {"share_trunk": False, "gamma": 0.8},
    )


def test_axes_and_points_are_multiplied_and_every_point_is_run_at_each_place_of_the_axes() -> None:
    sweep = parse_sweep({"axes": {"num_epochs": [1, 2]}, "points": [{}, {"pfo_coef": 1}]})
    assert sweep.points == tuple({"num_epochs": epochs, "pfo_coef": coef} for epochs in (1, 2) for coef in (0.0, 1.0))


def test_a_number_of_seeds_counts_from_zero() -> None:
    assert parse_sweep({"seeds": 3}).seeds == (0, 1, 2)


def test_a_number_of_seeds_counts_from_zero_in_python_too() -> None:
    seeds: Any = 4
    assert Sweep(name="four", seeds=seeds) == Sweep(name="four", seeds=(0, 1, 2, 3))
    for seeds in (0, 2.5, None):
        with pytest.raises(ConfigError, match=rf"^seeds is {seeds}, but must be a number of at least 1 or a list"):
            Sweep(name="wrong", seeds=seeds)


def test_a_point_is_checked_whatever_an_equal_one_was() -> None:
    """1 == 1.0 == True, of which a field takes some: what was found out of one is never taken for another's."""
    points = ({"num_epochs": 1, "gamma": 0.5}, {"num_epochs": True, "gamma": 0.6})
    with pytest.raises(ConfigError, match="num_epochs is True, but must be a whole number"):
        make_groups(Sweep(name="mixed", seeds=(0,), points=points))


def test_no_tables_are_one_run_of_the_defaults() -> None:
    sweep = parse_sweep({}, default_name="empty")
    assert sweep == Sweep(name="empty", seeds=(0,), config=TrainConfig(), hparams=HyperParams(), points=({},))


def test_the_files_own_tables_come_on_top_of_its_preset() -> None:
    config, hparams = preset("paper_atari", num_epochs=8)
    sweep = parse_sweep({"preset": "paper_atari", "config": {"num_epochs": 8}})
    assert (sweep.config, sweep.hparams) == (config, hparams)


# --- Grouping


def test_traced_axes_share_a_program_and_static_axes_do_not() -> None:
    sweep = parse_sweep({"axes": {"pfo_coef": [0.0, 1.0], "num_steps": [64, 32], "gamma": [0.9, 0.99]}})
    groups = make_groups(sweep)
    assert [group.config.num_steps for group in groups] == [64, 32]
    assert [[(run.hparams.pfo_coef, run.hparams.gamma) for run in group.runs] for group in groups] == 2 * [
        [(0.0, 0.9), (0.0, 0.99), (1.0, 0.9), (1.0, 0.99)]
    ]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(sweep=sweeps())
def test_every_point_is_run_once_with_every_seed(sweep: Sweep) -> None:
    """Runs are numbered point by point, seeds innermost, each in the one group of what splits programs.

    Within a group they are ordered by their numbers of epochs, and else as in the sweep.
    """
    groups = make_groups(sweep)
    splitting = [replace(group.config, **{x: getattr(TrainConfig(), x) for x in SELECTABLE}) for group in groups]
    assert len(set(splitting)) == len(groups)
    runs = sorted((run for group in groups for run in group.runs), key=lambda run: run.index)
    assert [run.index for run in runs] == list(range(sweep.num_runs))
    assert [(run.point, run.seed) for run in runs] == [(point, s) for point in sweep.points for s in sweep.seeds]
    for group in groups:
        assert group.config == group.runs[0].config
        order = [(run.config.num_epochs, run.index) for run in group.runs]
        assert order == sorted(order)
        for run in group.runs:
            for name, value in run.point.items():
                owner = run.config if hasattr(run.config, name) else run.hparams
                assert getattr(owner, name) == value
                assert not hasattr(run.config, name) or name in SELECTABLE or getattr(group.config, name) == value


@settings(deadline=None, max_examples=100, derandomize=True)
@given(sweep=sweeps())
def test_json_gives_the_sweep_back(sweep: Sweep) -> None:
    assert parse_sweep(json.loads(json.dumps(to_json(sweep)))) == sweep


def test_the_description_tells_the_cost() -> None:
    config = {"num_envs": 2, "num_steps": 8, "minibatch_size": 4, "total_steps": 160, "num_log_points": 5}
    sweep = parse_sweep(
        {"name": "grid", "seeds": 3, "config": config, "axes": {"gamma": [0.9, 1], "num_epochs": [1, 2]}}
    )
    (group,) = groups = make_groups(sweep)
    assert group.env_steps == 12 * 160
    assert describe(sweep, groups).splitlines() == [
        "Sweep 'grid': 12 runs = 4 points x 3 seeds, 1 program, 1,920 environment steps",
        "  gamma: 0.9, 1.0 (inside one program)",
        "  num_epochs: 1, 2 (inside one program)",
        "  program 1: gymnax/CartPole-v1, 12 runs x 10 updates of 2 x 8 steps, 1, 2 epochs x 4 minibatches, "
        "5 log points",
    ]
    config["num_log_points"] = 10
    axes = {"lr_schedule": ["linear", "constant"], "num_steps": [8, 4], "activation": ["tanh", "relu"]}
    sweep = parse_sweep({"name": "grid", "seeds": 3, "config": config, "axes": axes})
    groups = make_groups(sweep)
    assert [group.env_steps for group in groups] == [12 * 160, 12 * 160]
    assert describe(sweep, groups).splitlines() == [
        "Sweep 'grid': 24 runs = 8 points x 3 seeds, 2 programs, 3,840 environment steps",
        "  lr_schedule: linear, constant (inside one program)",
        "  num_steps: 8, 4 (one program per value)",
        "  activation: tanh, relu (inside one program)",
        "  program 1: gymnax/CartPole-v1, 12 runs x 10 updates of 2 x 8 steps, 4 epochs x 4 minibatches, "
        "10 log points, selects activation, lr_schedule",
        "  program 2: gymnax/CartPole-v1, 12 runs x 20 updates of 2 x 4 steps, 4 epochs x 2 minibatches, "
        "10 log points, selects activation, lr_schedule",
    ]


def test_runs_of_equal_numbers_of_epochs_come_one_after_the_other() -> None:
    """A program's runs lie in spans of one number of epochs each, in the order of that number."""
    axes = {"num_epochs": [3, 1, 2], "activation": ["tanh", "relu"]}
    (group,) = make_groups(parse_sweep({"name": "grid", "seeds": 1, "axes": axes}))
    found = [(run.config.num_epochs, run.config.activation) for run in group.runs]
    assert found == [(1, "tanh"), (1, "relu"), (2, "tanh"), (2, "relu"), (3, "tanh"), (3, "relu")]
    assert [run.index for run in group.runs] == [2, 3, 4, 5, 0, 1]
    assert group.spans == [(0, 2), (2, 4), (4, 6)]
    assert group.alternatives == {"activation": ("tanh", "relu"), "num_epochs": (1, 2, 3)}


def runs_by_index(groups: list[Group]) -> dict[int, Run]:
    return {run.index: run for group in groups for run in group.runs}


@pytest.mark.parametrize(
    ("name", "splitting", "selected"),
    [
        (
            "figure6_brax",
            {"env": 2, "share_trunk": 2, "pfo_layers": 2, "layer_norm": 2},
            {"activation", "reset_optimizer", "kl_penalty"},
        ),
        ("paper_baselines_brax", {"env": 4}, {"activation", "lr_schedule"}),
        ("paper_baselines_minatar", {"env": 4}, {"activation", "lr_schedule"}),
    ],
)
def test_programs_of_the_papers_sweeps(name: str, splitting: dict[str, int], selected: set[str]) -> None:
    """As many programs as the fields that shape them have combinations; all others are told apart inside."""
    sweep = Sweep.from_toml(CONFIGS / f"{name}.toml")
    groups = make_groups(sweep)
    assert len(groups) == {"figure6_brax": 8}.get(name, 4)
    told = {line.split(":")[0].strip(): line for line in describe(sweep, groups).splitlines() if line.endswith(")")}
    assert set(told) == set(sweep.swept)
    for field, line in told.items():
        assert line.endswith("(one program per value)" if field in splitting else "(inside one program)"), line
    for field in splitting:
        for group in groups:
            assert len({getattr(run.config, field) for run in group.runs}) == 1
        assert len({getattr(group.config, field) for group in groups}) == splitting[field]
    assert set().union(*(group.alternatives for group in groups)) == selected | {"num_epochs"}
    runs = runs_by_index(groups)
    expected = [(point, seed) for point in sweep.points for seed in sweep.seeds]  # seeds innermost
    assert sorted(runs) == list(range(len(expected)))
    for index, (point, seed) in enumerate(expected):
        fields = {key: value for key, value in point.items() if hasattr(sweep.config, key)}
        floats = {key: value for key, value in point.items() if hasattr(sweep.hparams, key)}
        assert (runs[index].point, runs[index].seed) == (point, seed)
        assert runs[index].config == replace(sweep.config, **fields)
        assert runs[index].hparams == replace(sweep.hparams, **floats)


# --- Mistakes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"seed": 3}, "key 'seed' is unknown; did you mean seeds"),
        ({"config": 3}, "config is 3, but must be a table"),
        ({"config": {"num_epoch": 4}}, r"\[config\] field 'num_epoch' is unknown; did you mean num_epochs"),
        ({"hparams": {"lr": 1e-3}}, r"\[hparams\] field 'lr' is unknown; did you mean learning_rate"),
        ({"hparams": {"zzz": 1e-3}}, r"\[hparams\] field 'zzz' is unknown; allowed are learning_rate, critic"),
        ({"config": {"gamma": 0.9}}, r"gamma is in \[config\], but belongs in \[hparams\]"),
        ({"hparams": {"num_envs": 4}}, r"num_envs is in \[hparams\], but belongs in \[config\]"),
        ({"config": {"num_epochs": 0}}, "num_epochs is 0, but must be at least 1"),
        ({"hparams": {"gamma": 2}}, "gamma is 2.0, but must be between 0 and 1"),
        ({"axes": {"num_epochs": [4, 0]}}, "num_epochs is 0, but must be at least 1"),
        ({"axes": {"hidden_sizes": [64, 128]}}, "hidden_sizes is 64, but must be a list of whole numbers"),
        ({"axes": {"pfo_coeff": [0.0]}}, "swept field 'pfo_coeff' is unknown; did you mean pfo_coef"),
        ({"axes": {"pfo_coef": []}}, r"axes.pfo_coef is \[\], but must be a non-empty list"),
        ({"axes": {"pfo_coef": 1.0}}, "axes.pfo_coef is 1.0, but must be a non-empty list"),
        ({"axes": {"gamma": [1, 0.9, 1.0]}}, ".*gamma.* 1.0.* same"),
        (
            {"axes": {"gamma": [1.0]}, "points": [{"gamma": 1.0}]},
            "gamma is in both axes and points, but must be in one",
        ),
        (
            {"axes": {"gamma": [i / 2000 for i in range(2000)]}, "points": [{"pfo_coef": i} for i in range(1000)]},
            "axes and points have 2000000 points together, but at most 1000000",
        ),
        ({"points": [{"gamma": 0.9}, {"gamma": 0.9}]}, r"points\[1\] is .*gamma.*0.9.* same"),
        ({"points": [{"gamma": 0.9}, {"num_epochs": 4}, {"gamma": 0.9}]}, r"points\[2\] is .*gamma.*0.9.* same"),
        ({"points": [{"share_trunk": False}, {}]}, r"points\[1\] is .*share_trunk.* same"),
        ({"points": {"gamma": 0.9}}, "points is .*, but must be a list of tables"),
        ({"points": 5}, "points is 5, but must be a list of tables"),
        ({"points": True, "axes": {"gamma": [1]}}, "points is True, but must be a list of tables"),
        ({"axes": {"num_epochs": [4, 4.0]}}, "axes.num_epochs has 4 twice"),
        ({"axes": {"share_trunk": [True, 1]}}, "axes.share_trunk has 1 twice"),
        ({"axes": {"gamma": [NAN, 0.5, NAN]}}, "axes.gamma has nan twice"),
        ({"axes": {"gamma": [float("nan"), float("nan")]}}, "gamma is nan, but must be a finite number"),
        ({"axes": {"hidden_sizes": [[[[8]]], [[[8]]]]}}, "axes.hidden_sizes has .* twice"),
        ({"points": [{"gamma": {}}, {"gamma": 1.0}]}, "gamma is {}, but must be a number"),
        ({"preset": "paper"}, "preset 'paper' is unknown"),
        ({"preset": 3}, "preset is 3, but must be"),
        ({"preset": ["paper_atari"]}, "preset is .*, but must be"),
        ({"hparams": {"learning_rate": 10**400}}, "learning_rate is .*, but must be"),
        ({"name": "a/b"}, "name is 'a/b', but must be"),
        ({"name": " "}, "name is ' ', but must be"),
        ({"name": ".."}, "name is '..', but must be"),
        ({"name": "Gr\udcf6sse"}, r"name is 'Gr\\udcf6sse', but must be"),
    ],
)
def test_a_mistake_in_the_file_is_refused_in_one_sentence(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}") as error:
        parse_sweep(content)
    assert str(error.value).endswith((".", "?"))


@pytest.mark.parametrize("seeds", [0, -1, True, 2.0, "3", [], [0, 0], [-1], [2**32], [True], [1.0]])
def test_seeds_must_be_a_count_or_different_whole_numbers(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"^seeds is .*, but must be a number of at least 1 or a list"):
        parse_sweep({"seeds": seeds})


def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    write(tmp_path / "broken.toml", "seeds = ")
    for name, sentence in {
        "missing.toml": "does not exist",
        "broken.toml": "is not valid TOML",
        "latin.toml": "is not UTF-8 text",
        "": "cannot be read",  # a directory
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            Sweep.from_toml(tmp_path / name)


def test_planning_imports_no_jax() -> None:
    """`--dry-run` and `--help` answer at once."""
    code = "import sys, purejaxppo.sweep.plan; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def needs_its_suite(path: Path) -> tuple[pytest.MarkDecorator, ...]:
    """Of a suite's sweep, suite_NAME.toml: the suite's package must be there for it to be planned."""
    suite = SUITES.get(path.stem.removeprefix("suite_"))
    return () if suite is None else (pytest.mark.skipif(not suite.is_installed, reason=f"needs {suite.package}"),)


@pytest.mark.parametrize(
    "path", [pytest.param(x, id=x.stem, marks=needs_its_suite(x)) for x in sorted(CONFIGS.glob("*.toml"))]
)
def test_every_shipped_sweep_is_what_its_header_says(path: Path) -> None:
    """Its name and command are its file's, and so are its numbers of runs and programs."""
    header = path.read_text(encoding="utf-8").split("name =")[0]
    sweep = Sweep.from_toml(path)
    groups = make_groups(sweep)
    assert sweep.name == path.stem
    assert f"purejaxppo sweep experiments/configs/{path.name}" in header
    assert f"{sweep.num_runs} runs" in header
    assert f"in {len(groups)} program" in header
