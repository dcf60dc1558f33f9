"""Fields that change nothing: one table of them, by which they are refused when set or swept, or named in the plan.

A point is here a mapping of every field of TrainConfig and HyperParams to its value, and of num_updates and
num_gradient_steps to what a run has of them. Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from purejaxppo.config import TrainConfig
from purejaxppo.envs.names import has_discrete_actions
from purejaxppo.errors import ConfigError
from purejaxppo.fields import field_names
from purejaxppo.hyperparams import HyperParams
from purejaxppo.presets import PRESETS

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """`fields` have no effect where `holds`; `sentence`, formatted with the point, ends "... has no effect while"."""

    fields: tuple[str, ...]
    holds: Callable[[Point], bool]
    sentence: str


_KL = ("kl_coef", "kl_target", "kl_increment", "kl_decrement")
_PFO_AUTO = ("pfo_target_share", "pfo_warmup")
_CONTINUAL = ("replacement_rate", "maturity_threshold", "utility_decay")
_LENGTHS = ("total_steps", "num_envs", "num_steps", "num_log_points", "num_epochs", "minibatch_size")
_PLASTICITY = ("num_plasticity_rollouts", "num_plasticity_epochs", "plasticity_curve")
_RESETS = ("reset_interval", "reset_threshold", "shrink", "perturb")
_WARM = "pfo_warmup is {pfo_warmup} and a run has {num_updates} updates"
_DUE = "reset_interval is {reset_interval} and a run has {num_updates} updates"
_MATURE = "maturity_threshold is {maturity_threshold} and a run has {num_gradient_steps} gradient steps"
RULES = (
    Rule(_KL, lambda p: not p["kl_penalty"], "kl_penalty is false"),
    Rule(_KL[1:], lambda p: p["kl_coef"] == 0, "kl_coef is 0"),
    Rule(("kl_target",), lambda p: p["kl_increment"] == p["kl_decrement"] == 1, "kl_increment and kl_decrement are 1"),
    Rule(("critic_learning_rate",), lambda p: not p["separate_learning_rates"], "separate_learning_rates is false"),
    Rule(("value_clip_eps",), lambda p: not p["value_clipping"], "value_clipping is false"),
    Rule(("lr_final_fraction",), lambda p: p["lr_schedule"] == "constant", "lr_schedule is constant"),
    Rule(("kl_stop_limit",), lambda p: not p["kl_stop"], "kl_stop is false"),
    Rule(("pfo_limit",), lambda p: p["pfo_mode"] == "penalty", "pfo_mode is penalty"),
    Rule(("pfo_coef",), lambda p: p["pfo_mode"] == "clip", "pfo_mode is clip"),
    Rule(("pfo_layers", "pfo_distance"), lambda p: p["pfo_features"] == "outputs", "pfo_features is outputs"),
    Rule(_PFO_AUTO, lambda p: not p["pfo_auto"], "pfo_auto is false"),
    Rule(_PFO_AUTO, lambda p: p["pfo_coef"] == p["critic_pfo_coef"] == 0, "pfo_coef and critic_pfo_coef are 0"),
    Rule(
        _PFO_AUTO,
        lambda p: p["pfo_mode"] == "clip" and p["critic_pfo_coef"] == 0,
        "pfo_mode is clip and critic_pfo_coef is 0",
    ),
    Rule(("weight_spectral_coef",), lambda p: not p["weight_spectral"], "weight_spectral is false"),
    Rule(
        ("feature_spectral_coef", "critic_feature_spectral_coef"),
        lambda p: not p["feature_spectral"],
        "feature_spectral is false",
    ),
    Rule(("l2_init_coef",), lambda p: not p["l2_init"], "l2_init is false"),
    Rule(("parseval_coef", "parseval_scale"), lambda p: not p["parseval"], "parseval is false"),
    Rule(("parseval_scale",), lambda p: p["parseval_coef"] == 0, "parseval_coef is 0"),
    Rule(("weight_decay_rate",), lambda p: not p["weight_decay"], "weight_decay is false"),
    Rule(("perturbation",), lambda p: p["shrink_and_perturb"] != "soft", "shrink_and_perturb is {shrink_and_perturb}"),
    Rule(
        ("shrink", "perturb"),
        lambda p: p["shrink_and_perturb"] != "hard",
        "shrink_and_perturb is {shrink_and_perturb}",
    ),
    Rule(("weight_clip_scale",), lambda p: not p["weight_clipping"], "weight_clipping is false"),
    Rule(
        ("reset_interval",),
        lambda p: p["unit_resets"] not in ("redo", "regrama") and p["shrink_and_perturb"] != "hard",
        "unit_resets is {unit_resets} and shrink_and_perturb is {shrink_and_perturb}",
    ),
    Rule(("reset_threshold",), lambda p: p["unit_resets"] not in ("redo", "regrama"), "unit_resets is {unit_resets}"),
    Rule(_CONTINUAL, lambda p: p["unit_resets"] != "continual_backprop", "unit_resets is {unit_resets}"),
    Rule(_CONTINUAL[1:], lambda p: p["replacement_rate"] == 0, "replacement_rate is 0"),
    # Runs that end before it begins.
    Rule(_PFO_AUTO, lambda p: p["num_updates"] <= p["pfo_warmup"], _WARM),
    Rule(_RESETS, lambda p: p["num_updates"] < p["reset_interval"], _DUE),
    Rule(_CONTINUAL, lambda p: p["num_gradient_steps"] <= p["maturity_threshold"], _MATURE),
    Rule(("trunk_optimizers",), lambda p: not p["share_trunk"], "share_trunk is false"),
    Rule(("hidden_sizes",), lambda p: p["network"] is not None, "network is {network}, whose layers are its own"),
    Rule(
        ("residual",),
        lambda p: (
            not any(a == b for name in ("hidden_sizes", "critic_hidden_sizes") for a, b in itertools.pairwise(p[name]))
        ),
        "hidden_sizes (critic_hidden_sizes) has no two equal widths in a row",
    ),
    Rule(("brax_backend",), lambda p: not p["env"].startswith("brax/"), "env is {env}, which is not of brax"),
    Rule(
        ("action_distribution", "initial_log_std"),
        lambda p: has_discrete_actions(p["env"]) is True,
        "env is {env}, whose actions are discrete",
    ),
    Rule(
        ("initial_log_std",),
        lambda p: p["action_distribution"] == "tanh_normal",
        "action_distribution is tanh_normal, whose scale depends on the state",
    ),
    Rule(("num_plasticity_points", *_PLASTICITY), lambda p: not p["diagnostics"], "diagnostics is false"),
    Rule(_PLASTICITY, lambda p: p["num_plasticity_points"] == 0, "num_plasticity_points is 0"),
    Rule(
        ("num_evaluation_points", "evaluation_actions"),
        lambda p: p["num_evaluation_episodes"] == 0,
        "num_evaluation_episodes is 0",
    ),
)
# What changes a measurement, but no run.
ONLY_MEASURED = (
    Rule(
        ("pfo_layers", "pfo_features", "pfo_distance", "pfo_reference", "pfo_states", "pfo_auto"),
        lambda p: p["pfo_coef"] == p["critic_pfo_coef"] == 0 and p["pfo_mode"] == "penalty",
        "pfo_coef and critic_pfo_coef are 0",
    ),
    Rule(
        ("pfo_auto",),
        lambda p: p["pfo_mode"] == "clip" and p["critic_pfo_coef"] == 0,
        "pfo_mode is clip and critic_pfo_coef is 0",
    ),
    Rule(
        ("clip_eps",),
        lambda p: p["policy_objective"] in ("unclipped", "dpo"),
        "policy_objective is {policy_objective}, which has none",
    ),
    Rule(("activation",), lambda p: p["network"] is not None, "network is {network}, whose activations are its own"),
)
# Switches that are on for nothing: runs end before they do anything.
NEVER_ACTS = (
    Rule(("pfo_auto",), lambda p: p["pfo_auto"] and p["num_updates"] <= p["pfo_warmup"], _WARM),
    Rule(
        ("unit_resets",),
        lambda p: p["unit_resets"] in ("redo", "regrama") and p["num_updates"] < p["reset_interval"],
        _DUE,
    ),
    Rule(
        ("shrink_and_perturb",),
        lambda p: p["shrink_and_perturb"] == "hard" and p["num_updates"] < p["reset_interval"],
        _DUE,
    ),
    Rule(
        ("unit_resets",),
        lambda p: p["unit_resets"] == "continual_backprop" and p["num_gradient_steps"] <= p["maturity_threshold"],
        _MATURE,
    ),
)


def reason(name: str, point: Point, rules: Sequence[Rule] = RULES) -> str | None:
    """Why a field has no effect at a point, such as "kl_penalty is false"; None where it has one."""
    return next((rule.sentence.format_map(point) for rule in rules if name in rule.fields and rule.holds(point)), None)


def full_points(config: TrainConfig, hparams: HyperParams, points: Iterable[Point]) -> list[Point]:
    """Every point with all fields, its own on top of the base configuration's, which they share, and its lengths."""
    base = {field.name: getattr(part, field.name) for part in (config, hparams) for field in dataclasses.fields(part)}
    base |= base.pop("strengths", {})  # of the user's own interventions: floats under names of their own
    whole = (ChainMap(dict(point), base) for point in points)
    return [ChainMap(*point.maps, _lengths(*(point[name] for name in _LENGTHS))) for point in whole]


@functools.lru_cache(maxsize=1024)
def _lengths(*values: int) -> dict[str, Any]:
    """What a run of a configuration with these values of `_LENGTHS` has."""
    config = TrainConfig(**dict(zip(_LENGTHS, values, strict=True)))
    steps = config.num_updates * config.num_epochs * config.num_minibatches
    return {"num_updates": config.num_updates, "num_gradient_steps": steps}


def effective(point: Point) -> tuple[Any, ...]:
    """What a point's program and numbers depend on: points that agree in it are the same runs.

    Without fields that have no effect, with the steps and log points that the numbers asked for are rounded to, and
    floats as float32.
    """
    found = {name: None if reason(name, point) else value for name, value in point.items()}
    config = TrainConfig(**{name: point[name] for name in field_names(TrainConfig)})
    found |= {"total_steps": config.num_updates, "num_log_points": config.num_logs}
    if config.critic_hidden_sizes == config.hidden_sizes:
        found["critic_hidden_sizes"] = ()
    if config.measures_plasticity:
        found["num_plasticity_points"] = min(config.num_plasticity_points, config.num_logs)
    if config.num_evaluation_episodes:
        found["num_evaluation_points"] = min(config.num_evaluation_points, config.num_logs)
    found["num_snapshots"] = None  # keeps more of the same runs
    static = field_names(TrainConfig)
    return tuple(x if name in static or x is None else np.float32(x).item() for name, x in found.items())


def check_base(names: Iterable[str], points: Sequence[Point], where: str = "") -> None:
    """Raise ConfigError for the first field of the base configuration, out of those set, that acts at no point."""
    for name in names:
        if why := _reason_everywhere(name, points):
            raise _refusal(name, points[0][name], why, where)


def check_axes(axes: Mapping[str, Sequence[Any]], points: Sequence[Point]) -> None:
    """Raise ConfigError for an axis that has no effect at any point, or two values of which give the same runs."""
    for name, values in axes.items():
        if why := _reason_everywhere(name, points):
            raise _refusal(name, list(values), why, "axes")
    keys = [effective(point) for point in points]
    for name in axes:
        runs_of: dict[Any, list[Any]] = {}
        for point, key in zip(points, keys, strict=True):
            runs_of.setdefault(point[name], []).append(key)
        first: dict[tuple[Any, ...], Any] = {}
        for value, runs in runs_of.items():
            if tuple(runs) in first:
                raise ConfigError(
                    f"axes.{name} has {_show(first[tuple(runs)])} and {_show(value)}, which give the same program and "
                    "the same numbers; leave one of them out."
                )
            first[tuple(runs)] = value


def check_points(given: Sequence[Point], points: Sequence[Point]) -> None:
    """Raise ConfigError for what an entry of [[points]] sets without effect, and for two that give the same runs.

    given: the entries as they are; points: every entry at every place of the axes, entries innermost.
    """
    first: dict[tuple[Any, ...], int] = {}
    for number, entry in enumerate(given):
        own = points[number :: len(given)]
        for name in entry:
            if why := _reason_everywhere(name, own):
                raise _refusal(name, entry[name], why, f"points[{number}]")
        runs = tuple(effective(point) for point in own)
        if runs in first:
            raise ConfigError(
                f"points[{number}] gives the same program and the same numbers as points[{first[runs]}]; "
                "leave one of them out."
            )
        first[runs] = number


def chosen(config: TrainConfig, hparams: HyperParams, presets: Iterable[str] = tuple(PRESETS)) -> list[str]:
    """Fields that somebody must have set: neither as the classes nor as one of these presets have them."""
    usual: dict[str, list[Any]] = {}
    for part in (TrainConfig(), HyperParams()):
        usual |= {field.name: [getattr(part, field.name)] for field in dataclasses.fields(part)}
    for fields in (fields for name in presets for fields in PRESETS[name]):
        for name, value in fields.items():
            usual[name].append(value)
    (point,) = full_points(config, hparams, [{}])
    return [name for name, value in point.items() if name in usual and value not in usual[name]]


def remarks(names: Iterable[str], points: Sequence[Point]) -> list[str]:
    """Lines for the plan: what is only measured, or never acts, what a platform ignores, and how many points repeat."""
    lines, names = [], list(names)
    for name in names:
        if why := _reason_everywhere(name, points, ONLY_MEASURED):
            lines.append(f"  {name} changes what is measured, but no run, while {why}")
    for rule in NEVER_ACTS:
        if idle := [point for point in points if rule.holds(point)]:
            why = rule.sentence.format_map(idle[0])
            lines.append(f"  {rule.fields[0]} never acts at {len(idle)} of {len(points)} points: {why}")
    swept = [name for name in names if len({point[name] for point in points}) > 1]
    if "matmul_precision" in swept:
        lines.append("  matmul_precision: on a CPU all its values give the same numbers")
    keys = [effective(point) for point in points]
    if repeated := len(keys) - len(set(keys)):
        why = [why for name in swept for point in points if (why := reason(name, point))]
        because = f", since some fields have no effect while {' or '.join(dict.fromkeys(why))}" if why else ""
        lines.append(f"  {repeated} of {len(keys)} points give the same numbers as another one{because}")
    return lines


def _reason_everywhere(name: str, points: Sequence[Point], rules: Sequence[Rule] = RULES) -> str | None:
    """Why a field has no effect at any of the points, as the first of them says; None where it has one somewhere."""
    reasons = (reason(name, point, rules) for point in points)
    first = next(reasons)
    return first if first and all(reasons) else None


def _refusal(name: str, value: Any, why: str, where: str) -> ConfigError:
    place = f" in {where}" if where else ""
    return ConfigError(f"{name} has no effect while {why}, but is {_show(value)}{place}; leave it out, or change that.")


def _show(value: Any) -> Any:
    """A value as a TOML file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return list(value) if isinstance(value, tuple) else value
