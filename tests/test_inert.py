"""Fields without effect: the table says the truth about the program, and what it names is refused or told."""

import ast
import dataclasses
import functools
import inspect
import re
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo import envs, hyperparams
from purejaxppo.config import TrainConfig
from purejaxppo.envs.base import Discrete
from purejaxppo.envs.names import GYMNAX_NAMES, PROBE_NAMES, has_discrete_actions
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.interventions.proximity import AutoCoefs, start_pfo
from purejaxppo.ppo.interventions.resets import Utility, is_due, judge
from purejaxppo.ppo.state import HyperParams
from purejaxppo.sweep.extend import _check_what_is_new
from purejaxppo.sweep.inert import NEVER_ACTS, RULES, effective, full_points, reason
from purejaxppo.sweep.plan import Sweep, check_effects, describe, make_groups, parse_sweep

ENV = 'env = "gymnax/CartPole-v1"\n'
TINY: dict[str, Any] = {"total_steps": 64, "num_envs": 2, "num_steps": 16, "num_epochs": 1, "minibatch_size": 16}
TINY |= {"hidden_sizes": (4,), "num_log_points": 2, "num_plasticity_points": 0}


def fields(**changes: Any) -> Any:
    return full_points(TrainConfig(), HyperParams(), [changes])[0]


def read(folder: Path, text: str) -> Sweep:
    path = folder / "sweep.toml"
    path.write_text(text)
    return Sweep.from_toml(path)


# --- The table


def test_every_field_that_says_with_what_it_acts_has_a_rule() -> None:
    """Its docstring begins "With kl_penalty: ..."."""
    cls = next(node for node in ast.parse(inspect.getsource(hyperparams)).body if isinstance(node, ast.ClassDef))
    told = [
        field.target.id
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)
        if str(ast.literal_eval(text.value)).startswith("With ")
    ]
    assert len(told) >= 25
    assert set(told) <= {name for rule in RULES for name in rule.fields}


def test_actions_are_known_by_the_environments_name() -> None:
    for name in [*(f"gymnax/{name}" for name in GYMNAX_NAMES), *(f"probe/{name}" for name in PROBE_NAMES)]:
        assert has_discrete_actions(name) is isinstance(envs.make(name).action_space, Discrete), name
    assert has_discrete_actions("brax/hopper") is False
    assert has_discrete_actions("mine/Corridor") is None


def test_floats_without_effect_change_no_bit_and_others_do() -> None:
    """In one program of plain PPO, a run for each field that is changed."""
    inert = ["kl_coef", "kl_target", "kl_increment", "kl_decrement", "kl_stop_limit", "pfo_limit"]
    inert += ["weight_spectral_coef", "feature_spectral_coef", "critic_feature_spectral_coef"]
    inert += ["critic_learning_rate", "value_clip_eps", "pfo_target_share", "pfo_warmup"]
    inert += ["l2_init_coef", "parseval_coef", "parseval_scale"]
    inert += ["weight_decay_rate", "perturbation", "weight_clip_scale"]
    inert += ["reset_threshold", "replacement_rate", "maturity_threshold", "utility_decay", "shrink", "perturb"]
    assert all(reason(name, fields(**TINY)) for name in inert)
    runs = [HyperParams(), *(HyperParams(**{name: 7.0}) for name in [*inert, "critic_pfo_coef"])]
    runs.insert(-1, HyperParams(clip_eps=1e-6))
    stacked = jax.tree.map(lambda *x: np.asarray(x, np.float32), *runs)
    train = pjp.make_train(TrainConfig(**TINY))
    state = jax.jit(jax.vmap(train, (0, None)))(stacked, jax.random.key(0)).state
    weights = [np.asarray(x) for x in jax.tree.leaves(state.params)]
    for number in range(1, len(inert) + 1):
        assert all(np.array_equal(x[0], x[number]) for x in weights), inert[number - 1]
    for number in (-2, -1):
        assert any(not np.array_equal(x[0], x[number]) for x in weights)


def test_pfo_coef_has_no_effect_as_a_clip() -> None:
    config = TINY | {"pfo_mode": "clip"}
    assert reason("pfo_coef", fields(**config)) == "pfo_mode is clip"
    train = jax.jit(pjp.make_train(TrainConfig(**config)))
    off, on = (train(HyperParams(pfo_coef=coef), jax.random.key(0)) for coef in (0.0, 9.0))
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (off.state.params, on.state.params)), strict=True)
    )


@pytest.mark.parametrize("at", [3, 4])
def test_what_begins_after_the_end_of_a_run_has_no_effect(at: int) -> None:
    """Of 4 updates of one step: what begins with the last one acts, what begins after 4 does not (resets: after 5)."""
    config: Any = {**TINY, "total_steps": 64, "num_steps": 8, "num_log_points": 4}
    assert TrainConfig(**config).num_updates == fields(**config)["num_gradient_steps"] == 4
    hparams = HyperParams(pfo_coef=1.0, pfo_warmup=at, maturity_threshold=at, replacement_rate=1.0)
    on: Any = {"pfo_auto": True, "unit_resets": "continual_backprop", "pfo_coef": 1.0}
    point = fields(**config | on | {"pfo_warmup": at, "maturity_threshold": at})

    memory, is_replaced = Utility(utility=jnp.zeros(2), age=jnp.zeros(2), due=jnp.zeros(())), False
    for _ in range(4):
        memory, chosen = judge(hparams, memory, jnp.ones(2), jnp.ones(2))
        is_replaced |= bool(chosen.any())
    assert is_replaced is (reason("unit_resets", point, NEVER_ACTS) is None) is (at == 3)
    assert is_replaced is (reason("utility_decay", point) is None)

    zeros = dict.fromkeys(("pfo_loss", "critic_pfo_loss"), jnp.zeros(()))
    auto = AutoCoefs(coefs=zeros, terms=zeros, added_to=zeros)
    last: Any = types.SimpleNamespace(update=jnp.int32(3), memory={"pfo_auto": auto})
    learner: Any = types.SimpleNamespace(config=TrainConfig(**config, pfo_auto=True, reset_interval=at + 1))
    is_adapted = bool(start_pfo(learner, hparams, last)["pfo_auto"].coefs["pfo_loss"] == 0.0)
    assert is_adapted is (reason("pfo_auto", point, NEVER_ACTS) is None)

    redo = fields(**config, unit_resets="redo", reset_interval=at + 1)
    assert bool(is_due(learner, last, 1)) is (reason("reset_interval", redo) is None) is (at == 3)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"trunk_optimizers": "two"}),
        ({}, {"brax_backend": "mjx"}),
        ({"hidden_sizes": (4, 3)}, {"residual": True}),
        ({}, {"action_distribution": "normal"}),
        ({}, {"lr_final_fraction": 0.5, "initial_log_std": 1.0, "critic_hidden_sizes": (4,)}),
        ({"pfo_features": "outputs"}, {"pfo_layers": "all", "pfo_distance": "cosine"}),
        ({}, {"num_plasticity_epochs": 3}),
        ({}, {"num_plasticity_rollouts": 3, "plasticity_curve": True}),
        ({"diagnostics": False}, {"num_plasticity_points": 2}),
        ({}, {"total_steps": 50}),  # rounded up to 2 log points of one update
        ({}, {"num_log_points": 3}),
        ({}, {"num_evaluation_points": 3, "evaluation_actions": "mode"}),
    ],
)
def test_static_fields_without_effect_give_the_same_program(base: dict[str, Any], change: dict[str, Any]) -> None:
    configs = [TINY | base, TINY | base | change]
    assert len({effective(fields(**config)) for config in configs}) == 1
    assert len({_program(TrainConfig(**config)) for config in configs}) == 1


@functools.cache
def _program(config: TrainConfig) -> str:
    text = str(jax.make_jaxpr(pjp.make_train(config))(HyperParams(), jax.random.key(0)))
    return re.sub(r"0x[0-9a-f]+", "", text)  # without addresses


@pytest.mark.parametrize(
    "change", [{"total_steps": 65}, {"num_log_points": 1}, {"share_trunk": True}, {"num_evaluation_episodes": 1}]
)
def test_static_fields_with_an_effect_are_told_apart(change: dict[str, Any]) -> None:
    assert effective(fields(**TINY)) != effective(fields(**TINY | change))


# --- Files


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[hparams]\nkl_coef = 3", "kl_coef has no effect while kl_penalty is false, but is 3.0 in [hparams]"),
        ("[axes]\nkl_coef = [1, 2]", "kl_coef has no effect while kl_penalty is false, but is [1, 2] in axes"),
        ("kl_penalty = true\n[hparams]\nkl_coef = 0\nkl_target = 1", "kl_target has no effect while kl_coef is 0"),
        ("[hparams]\nkl_stop_limit = 0.1", "kl_stop_limit has no effect while kl_stop is false"),
        ("[hparams]\npfo_limit = 0.2", "pfo_limit has no effect while pfo_mode is penalty"),
        ('pfo_mode = "clip"\n[axes]\npfo_coef = [0, 1]', "pfo_coef has no effect while pfo_mode is clip"),
        ('pfo_features = "outputs"\npfo_layers = "all"', "pfo_layers has no effect while pfo_features is outputs"),
        ("[hparams]\npfo_target_share = 1", "pfo_target_share has no effect while pfo_auto is false"),
        ("pfo_auto = true\n[hparams]\npfo_warmup = 1", "no effect while pfo_coef and critic_pfo_coef are 0"),
        (
            'pfo_auto = true\npfo_mode = "clip"\n[hparams]\npfo_warmup = 1\n[[points]]\ncritic_pfo_coef = 0',
            "no effect while pfo_coef and critic_pfo_coef are 0",
        ),
        ("[hparams]\nweight_spectral_coef = 1", "weight_spectral_coef has no effect while weight_spectral is false"),
        ("[hparams]\ncritic_feature_spectral_coef = 1", "no effect while feature_spectral is false"),
        ('brax_backend = "mjx"', "brax_backend has no effect while env is gymnax/CartPole-v1, which is not of brax"),
        ('action_distribution = "normal"', "env is gymnax/CartPole-v1, whose actions are discrete"),
        ("[hparams]\nl2_init_coef = 1", "l2_init_coef has no effect while l2_init is false"),
        ("parseval = true\n[hparams]\nparseval_coef = 0\nparseval_scale = 1", "no effect while parseval_coef is 0"),
        ("[hparams]\nparseval_scale = 1", "parseval_scale has no effect while parseval is false"),
        ("[hparams]\nweight_decay_rate = 1", "weight_decay_rate has no effect while weight_decay is false"),
        ("[hparams]\nperturbation = 1", "perturbation has no effect while shrink_and_perturb is off"),
        ("[hparams]\nweight_clip_scale = 1", "weight_clip_scale has no effect while weight_clipping is false"),
        ("[hparams]\nvalue_clip_eps = 1", "value_clip_eps has no effect while value_clipping is false"),
        ("[hparams]\ncritic_learning_rate = 1", "no effect while separate_learning_rates is false"),
        ("lr_final_fraction = 0.5", "lr_final_fraction has no effect while lr_schedule is constant"),
        ("initial_log_std = 1", "env is gymnax/CartPole-v1, whose actions are discrete"),
        ("[hparams]\nreplacement_rate = 0.1", "replacement_rate has no effect while unit_resets is off"),
        ("reset_interval = 3", "no effect while unit_resets is off and shrink_and_perturb is off"),
        ('trunk_optimizers = "two"', "trunk_optimizers has no effect while share_trunk is false"),
        ("diagnostics = false\nnum_plasticity_points = 3", "num_plasticity_points has no effect while diagnostics is"),
        ("num_plasticity_points = 0\nplasticity_curve = true", "plasticity_curve has no effect while num_plasticity"),
        ("num_evaluation_points = 3", "num_evaluation_points has no effect while num_evaluation_episodes is 0"),
        ('evaluation_actions = "mode"', "evaluation_actions has no effect while num_evaluation_episodes is 0"),
        ("[axes]\nnum_snapshots = [0, 4]", "axes.num_snapshots has 0 and 4, which give the same program and the same"),
        (
            'unit_resets = "continual_backprop"\n[hparams]\nreplacement_rate = 0.1',
            "replacement_rate has no effect while maturity_threshold is 10000.0 and a run has 7840 gradient steps",
        ),
        (
            'unit_resets = "continual_backprop"\n[axes]\nmaturity_threshold = [100, 8000, 9000]',
            "axes.maturity_threshold has 8000.0 and 9000.0, which give the same program",
        ),
        (
            'unit_resets = "redo"\nreset_interval = 491',
            "reset_interval has no effect while reset_interval is 491 and a run has 490 updates",
        ),
        ('shrink_and_perturb = "hard"\nreset_interval = 500\n[hparams]\nshrink = 0.5', "and a run has 490 updates"),
        (
            "pfo_auto = true\ntotal_steps = 51_200\n[hparams]\npfo_coef = 1\npfo_target_share = 0.5",
            "pfo_target_share has no effect while pfo_warmup is 50.0 and a run has 50 updates, but is 0.5 in [hparams]",
        ),
        ("[[points]]\npfo_coef = 1\n[[points]]\nkl_coef = 2", "kl_coef has no effect while kl_penalty is false, but"),
        ("[axes]\ntotal_steps = [1000, 1024]", "axes.total_steps has 1000 and 1024, which give the same program"),
        ("[axes]\npfo_coef = [1.0, 1.000000001]", "axes.pfo_coef has 1.0 and 1.000000001, which give the same"),
        ("[[points]]\nnum_log_points = 500\n[[points]]\nnum_log_points = 600", "points[1] gives the same program"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f"[config]\n{ENV}{text}")
    assert sentence in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "[hparams]\nkl_coef = 3\n[axes]\nkl_penalty = [false, true]",
        "kl_penalty = true\n[axes]\nkl_coef = [1, 2]",
        '[hparams]\npfo_limit = 1\n[[points]]\npfo_coef = 1\n[[points]]\npfo_mode = "clip"',
        '[axes]\nbrax_backend = ["spring", "generalized"]\nenv = ["brax/hopper"]',
        'unit_resets = "redo"\nreset_interval = 490',
        'unit_resets = "continual_backprop"\n[hparams]\nmaturity_threshold = 7839',
        "pfo_auto = true\ntotal_steps = 52_200\n[hparams]\npfo_coef = 1\npfo_target_share = 0.5",
    ],
)
def test_what_acts_at_some_point_is_fine(text: str, tmp_path: Path) -> None:
    read(tmp_path, f"[config]\n{ENV}{text}")


@pytest.mark.parametrize(
    "text", ["", "seeds = 3", 'preset = "paper_atari"', '[[points]]\nenv = "brax/ant"\n[[points]]']
)
def test_a_file_must_name_its_environment(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^sweep file .*sweep.toml names no env; \[config\] needs one"):
        read(tmp_path, text)


def test_the_record_of_a_sweep_is_read_whatever_it_holds() -> None:
    """Directories of earlier versions have every field written out."""
    parse_sweep({"config": {"brax_backend": "mjx"}, "hparams": {"kl_coef": 3.0}, "points": [{"pfo_limit": 0.3}]})


@pytest.mark.parametrize(
    ("config", "hparams", "points"),
    [({}, {"kl_coef": 3.0}, ({},)), ({"trunk_optimizers": "two", "kl_penalty": True}, {"kl_stop_limit": 1.0}, ({},))],
)
def test_what_python_sets_without_effect_is_refused(config: Any, hparams: Any, points: Any) -> None:
    """A preset's own values (two optimisers) are not what somebody set."""
    with pytest.raises(ConfigError, match=r"^kl_(coef|stop_limit) has no effect while kl_(penalty|stop) is false"):
        check_effects(
            Sweep(name="s", seeds=(0,), config=TrainConfig(**config), hparams=HyperParams(**hparams), points=points)
        )
    check_effects(Sweep(name="s", seeds=(0,), config=pjp.preset("paper_mujoco")[0]))


@pytest.mark.parametrize(("preset", "is_refused"), [(None, True), ("brax_ant", True), ("paper_mujoco", False)])
def test_only_the_values_of_the_preset_that_was_named_are_nobodys(preset: str | None, is_refused: bool) -> None:
    """As `train` asks: two optimisers of a trunk that is not shared are set by somebody, or by paper_mujoco."""
    sweep = Sweep(name="s", seeds=(0,), config=TrainConfig(trunk_optimizers="two"))
    with pytest.raises(ConfigError, match="trunk_optimizers has no effect") if is_refused else nullcontext():
        check_effects(sweep, presets=() if preset is None else (preset,))


def test_the_plan_names_what_is_only_measured_and_what_repeats() -> None:
    axes = {"pfo_mode": ["penalty", "clip"], "pfo_limit": [0.1, 0.2], "matmul_precision": ["highest", "default"]}
    sweep = parse_sweep({"config": {"pfo_layers": "all"}, "axes": axes})
    lines = describe(sweep, make_groups(sweep)).splitlines()
    assert "  matmul_precision: on a CPU all its values give the same numbers" in lines
    assert (
        "  2 of 8 points give the same numbers as another one, since some fields have no effect while pfo_mode is "
        "penalty" in lines
    )
    sweep = parse_sweep({"config": {"pfo_layers": "all"}})
    assert "  pfo_layers changes what is measured, but no run, while pfo_coef and critic_pfo_coef are 0" in describe(
        sweep, make_groups(sweep)
    )
    sweep = parse_sweep({"config": {"network": "lab.nets:Torso"}, "axes": {"activation": ["relu", "tanh"]}})
    told = (
        "  activation changes what is measured, but no run, while network is lab.nets:Torso, whose activations are its"
    )
    assert told in describe(sweep, make_groups(sweep))


def test_the_plan_names_switches_that_defaults_keep_from_acting() -> None:
    """Continual backpropagation as it is by default spares every unit for longer than a run by default."""
    points = [{"unit_resets": "continual_backprop"}, {"unit_resets": "redo"}, {}, {"shrink_and_perturb": "hard"}]
    sweep = parse_sweep({"config": {"reset_interval": 1000}, "points": [*points, {"pfo_auto": True, "pfo_coef": 1.0}]})
    lines = describe(sweep, make_groups(sweep)).splitlines()
    told = "maturity_threshold is 10000.0 and a run has 7840 gradient steps"
    assert f"  unit_resets never acts at 1 of 5 points: {told}" in lines
    for name in ("unit_resets", "shrink_and_perturb"):
        assert f"  {name} never acts at 1 of 5 points: reset_interval is 1000 and a run has 490 updates" in lines
    assert not any("pfo_auto never" in line for line in lines)
    sweep = parse_sweep({"config": {"total_steps": 50_000, "pfo_auto": True}, "hparams": {"pfo_coef": 1.0}})
    lines = describe(sweep, make_groups(sweep)).splitlines()
    assert "  pfo_auto never acts at 1 of 1 points: pfo_warmup is 50.0 and a run has 49 updates" in lines


def test_an_automatic_coefficient_warms_up_in_a_fifth_of_the_runs_that_are_shipped() -> None:
    for path in sorted((Path(__file__).parent.parent / "experiments/configs").glob("*.toml")):
        if "pfo_auto = true" not in path.read_text():
            continue
        sweep = Sweep.from_toml(path)
        for point in full_points(sweep.config, sweep.hparams, sweep.points):
            if point["pfo_auto"]:
                assert 5 * point["pfo_warmup"] <= point["num_updates"], (path.name, point["pfo_warmup"])


def test_a_directory_that_was_begun_with_what_has_no_effect_can_be_extended() -> None:
    """Its configuration cannot be changed any more; what is new can."""
    plain = Sweep(name="s", seeds=(0,), config=TrainConfig(**TINY))
    inert = dataclasses.replace(plain, hparams=HyperParams(kl_coef=3.0))
    _check_what_is_new(inert, dataclasses.replace(inert, seeds=(0, 1)))
    with pytest.raises(ConfigError, match=r"^kl_coef has no effect"):
        _check_what_is_new(plain, inert)
