"""The interventions that the package has: one table of what acts where, with which fields, by which formula.

Claims, figures, the README's table and the generated tests read it. This file imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Fields = Mapping[str, Any]
Place = Literal["objective", "proximity", "penalty", "after a step", "reset", "optimizer", "network"]


@dataclass(frozen=True)
class Intervention:
    """A departure from plain PPO.

    name: as the field calls it. acts: where, which is also the file of `ppo/interventions/` (or `networks.py`).
    fields: of the configuration and the hyper-parameters, the switch first. on: what switches it on, its strengths
    being the defaults. formula, source: in plain text. is_on: whether a run's fields turn it on. is_papers: whether it
    is then one of claim C6.
    """

    name: str
    acts: Place
    fields: tuple[str, ...]
    on: Fields
    formula: str
    source: str
    is_on: Callable[[Fields], bool]
    is_papers: Callable[[Fields], bool] = lambda fields: False


def _switched(*fields: str) -> Callable[[Fields], bool]:
    """On where the first field is true, and not all further ones, its coefficients, are 0."""
    return lambda run: bool(run[fields[0]]) and (len(fields) == 1 or any(run[name] != 0 for name in fields[1:]))


_PFO = ("pfo_coef", "critic_pfo_coef", "pfo_layers", "pfo_features", "pfo_distance", "pfo_mode", "pfo_limit")
_PFO_AUTO = ("pfo_auto", "pfo_target_share", "pfo_warmup")


def _is_pfo_on(run: Fields) -> bool:
    return run["pfo_coef"] > 0 or run["critic_pfo_coef"] > 0 or run["pfo_mode"] == "clip"


def _is_since_rollout(run: Fields) -> bool:
    """Whether PFO's term is about the change of a minibatch's own samples since the rollout."""
    return (run["pfo_reference"], run["pfo_states"]) == ("rollout", "minibatch")


# A falling learning rate is none: the paper's settings have it both ways.
INTERVENTIONS = (
    Intervention(
        "Proximal Feature Optimization (PFO)",
        "proximity",
        (*_PFO, *_PFO_AUTO),
        {"pfo_coef": 1.0},
        "+ pfo_coef E|phi(s) - phi_old(s)|^2 / D",
        "Moalla et al. 2024, arXiv 2405.00662",
        lambda run: _is_pfo_on(run) and _is_since_rollout(run),
        # The paper's coefficients are 1 and 10, on pre-activations, as a penalty on the squared distance.
        lambda run: (
            1 <= run["pfo_coef"] <= 10
            and not run["pfo_auto"]
            and (run["pfo_mode"], run["pfo_features"], run["pfo_distance"]) == ("penalty", "preactivations", "l2")
        ),
    ),
    Intervention(
        "CHAIN, churn reduction",
        "proximity",
        ("pfo_reference", "pfo_states", *_PFO[:5], *_PFO_AUTO),
        {
            "pfo_reference": "previous",
            "pfo_states": "other",
            "pfo_features": "outputs",
            "pfo_auto": True,
            "pfo_coef": 100.0,
        },
        "+ pfo_coef E KL(previous || new) on another minibatch; continuous: (mean - mean_previous)^2",
        "Tang et al. 2024, NeurIPS, and their public code",
        lambda run: _is_pfo_on(run) and not _is_since_rollout(run),
    ),
    Intervention(
        "shared trunk",
        "network",
        ("share_trunk",),
        {"share_trunk": True},
        "policy and critic are heads of one network",
        "Moalla et al. 2024, arXiv 2405.00662",
        _switched("share_trunk"),
        lambda run: True,
    ),
    Intervention(
        "Adam reset",
        "optimizer",
        ("reset_optimizer",),
        {"reset_optimizer": True},
        "at every rollout: m, v, t <- 0",
        "Asadi et al. 2023, arXiv 2306.17833",
        _switched("reset_optimizer"),
        lambda run: True,
    ),
    Intervention(
        "equal decays of Adam's moments",
        "optimizer",
        ("adam_beta1", "adam_beta2"),
        {"adam_beta2": 0.9},
        "beta_2 = beta_1",
        "Dohare et al. 2023, Overcoming Policy Collapse in Deep RL",
        lambda run: run["adam_beta1"] == run["adam_beta2"],
        lambda run: run["adam_beta1"] == 0.9,
    ),
    Intervention(
        "LayerNorm",
        "network",
        ("layer_norm",),
        {"layer_norm": True},
        "z <- g (z - mean z) / std z + b, before every activation",
        "Ba et al. 2016, arXiv 1607.06450",
        _switched("layer_norm"),
    ),
    Intervention(
        "SPO, or no clip",
        "objective",
        ("policy_objective",),
        {"policy_objective": "spo"},
        "E[r A - |A| (r - 1)^2 / (2 clip_eps)] (spo), E[r A] (unclipped)",
        "Xie et al. 2024, arXiv 2401.16025",
        lambda run: run["policy_objective"] != "clip",
    ),
    Intervention(
        "KL penalty",
        "proximity",
        ("kl_penalty", "kl_coef", "kl_target", "kl_increment", "kl_decrement"),
        {"kl_penalty": True},
        "+ beta E KL(old || new), beta doubled or halved after a rollout",
        "Schulman et al. 2017, arXiv 1707.06347",
        _switched("kl_penalty"),
    ),
    Intervention(
        "KL stop",
        "proximity",
        ("kl_stop", "kl_stop_limit"),
        {"kl_stop": True},
        "the first minibatch with KL(old || new) > kl_stop_limit is the rollout's last",
        "Moalla et al. 2024, their public code",
        _switched("kl_stop"),
    ),
    Intervention(
        "spectral regularisation",
        "penalty",
        ("weight_spectral", "weight_spectral_coef"),
        {"weight_spectral": True},
        "+ weight_spectral_coef sum (sigma_max(W) - 1)^2",
        "Lewandowski et al. 2024, arXiv 2406.06811",
        _switched("weight_spectral", "weight_spectral_coef"),
    ),
    Intervention(
        "spectral concentration of features",
        "penalty",
        ("feature_spectral", "feature_spectral_coef", "critic_feature_spectral_coef"),
        {"feature_spectral": True},
        "+ feature_spectral_coef sum sigma^4 / (sum sigma^2)^2",
        "ours",
        _switched("feature_spectral", "feature_spectral_coef", "critic_feature_spectral_coef"),
    ),
)
