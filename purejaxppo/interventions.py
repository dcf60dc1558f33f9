"""The interventions that the package has: one table of what acts where, with which fields, by which formula.

Claims, figures, the README's table and the generated tests read it. This file imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Fields = Mapping[str, Any]
Place = Literal["objective", "proximity", "penalty", "after a step", "reset", "optimizer", "network"]


@dataclass(frozen=True)
class Intervention:
    """A departure from plain PPO.

    name: as the field calls it. acts: where, which is also the file of `ppo/interventions/` (or `networks.py`).
    fields: of the configuration and the hyper-parameters, the switch first. on: what switches it on, its strengths
    being the defaults. formula, source: in plain text. is_on: whether a run's fields turn it on. is_papers: whether it
    is then one of claim C6. needs: what else must be set for it.
    """

    name: str
    acts: Place
    fields: tuple[str, ...]
    on: Fields
    formula: str
    source: str
    is_on: Callable[[Fields], bool]
    is_papers: Callable[[Fields], bool] = lambda fields: False
    needs: Fields = field(default_factory=dict)


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
        "Adam-Rel",
        "optimizer",
        ("adam_rel",),
        {"adam_rel": True},
        "at every rollout: t <- 0, m and v kept",
        "Ellis et al. 2024, arXiv 2412.17113",
        _switched("adam_rel"),
    ),
    Intervention(
        "Muon",
        "optimizer",
        ("optimizer",),
        {"optimizer": "muon"},
        "W <- W - learning_rate sqrt(max(1, fan_out / fan_in)) U V^T, U S V^T being about the gradient's momentum",
        "Jordan et al. 2024, kellerjordan.github.io/posts/muon",
        lambda run: run["optimizer"] == "muon",
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
        "RMSNorm",
        "network",
        ("rms_norm",),
        {"rms_norm": True},
        "z <- g z / sqrt(mean z^2), before every activation",
        "Zhang and Sennrich 2019, arXiv 1910.07467",
        _switched("rms_norm"),
    ),
    Intervention(
        "CReLU",
        "network",
        ("crelu",),
        {"crelu": True},
        "h = (relu(z), relu(-z)), of half as many units",
        "Shang et al. 2016, arXiv 1603.05201; Abbas et al. 2023, arXiv 2303.07507",
        _switched("crelu"),
    ),
    Intervention(
        "residual connections",
        "network",
        ("residual",),
        {"residual": True},
        "z_l = W_l h_{l-1} + b_l + h_{l-1}, from the second hidden layer on, where widths agree",
        "He et al. 2016, arXiv 1512.03385",
        _switched("residual"),
    ),
    Intervention(
        "SPO, or no clip",
        "objective",
        ("policy_objective",),
        {"policy_objective": "spo"},
        "E[r A - |A| (r - 1)^2 / (2 clip_eps)] (spo), E[r A] (unclipped)",
        "Xie et al. 2024, arXiv 2401.16025",
        lambda run: run["policy_objective"] in ("spo", "unclipped"),
    ),
    Intervention(
        "Discovered Policy Optimisation (DPO)",
        "objective",
        ("policy_objective",),
        {"policy_objective": "dpo"},
        "E[r A - relu(x - c tanh(x / c))], c = 2, x = (r - 1) A for A >= 0, else c = 0.6, x = log(r) A",
        "Lu et al. 2022, arXiv 2210.05639",
        lambda run: run["policy_objective"] == "dpo",
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
    Intervention(
        "L2 Init",
        "penalty",
        ("l2_init", "l2_init_coef"),
        {"l2_init": True},
        "+ l2_init_coef |theta - theta_0|^2, theta_0 being the initial weights",
        "Kumar et al. 2023, arXiv 2308.11958",
        _switched("l2_init", "l2_init_coef"),
    ),
    Intervention(
        "Parseval regularisation",
        "penalty",
        ("parseval", "parseval_coef", "parseval_scale"),
        {"parseval": True},
        "+ parseval_coef sum over hidden layers of |W W^T - parseval_scale I|^2",
        "Chung et al. 2024, arXiv 2412.07224",
        _switched("parseval", "parseval_coef"),
    ),
    Intervention(
        "decoupled weight decay",
        "after a step",
        ("weight_decay", "weight_decay_rate"),
        {"weight_decay": True},
        "theta <- theta - learning_rate weight_decay_rate theta",
        "Loshchilov and Hutter 2019, arXiv 1711.05101",
        _switched("weight_decay", "weight_decay_rate"),
    ),
    Intervention(
        "soft shrink and perturb",
        "after a step",
        ("shrink_and_perturb", "perturbation"),
        {"shrink_and_perturb": "soft"},
        "theta <- (1 - perturbation) theta + perturbation theta_fresh",
        "Juliani and Ash 2024, arXiv 2405.19153",
        lambda run: run["shrink_and_perturb"] == "soft" and run["perturbation"] != 0,
    ),
    Intervention(
        "weight clipping",
        "after a step",
        ("weight_clipping", "weight_clip_scale"),
        {"weight_clipping": True},
        "theta <- clip(theta, +-weight_clip_scale / sqrt(fan_in))",
        "Elsayed et al. 2024, arXiv 2407.01704",
        _switched("weight_clipping"),
    ),
    Intervention(
        "weight projection (NaP)",
        "after a step",
        ("weight_projection",),
        {"weight_projection": True},
        "W, b <- |W_0| / |W| (W, b) of every hidden layer, with layer_norm or rms_norm",
        "Lyle et al. 2024, arXiv 2407.01800",
        _switched("weight_projection"),
        needs={"layer_norm": True},
    ),
    Intervention(
        "ReDo",
        "reset",
        ("unit_resets", "reset_interval", "reset_threshold"),
        {"unit_resets": "redo"},
        "every reset_interval rollouts, units with mean |h| <= reset_threshold (layer's mean): weights to them fresh, "
        "from them 0",
        "Sokar et al. 2023, arXiv 2302.12902",
        lambda run: run["unit_resets"] == "redo",
    ),
    Intervention(
        "ReGraMa",
        "reset",
        ("unit_resets", "reset_interval", "reset_threshold"),
        {"unit_resets": "regrama"},
        "as ReDo, by mean |gradient of the loss with respect to h|",
        "Liu et al. 2025, arXiv 2505.24061",
        lambda run: run["unit_resets"] == "regrama",
    ),
    Intervention(
        "continual backpropagation",
        "reset",
        ("unit_resets", "replacement_rate", "maturity_threshold", "utility_decay"),
        {"unit_resets": "continual_backprop"},
        "every step, replacement_rate of the units older than maturity_threshold: those of least mean |h| sum |w_out|",
        "Dohare et al. 2024, Nature 632",
        lambda run: run["unit_resets"] == "continual_backprop" and run["replacement_rate"] != 0,
    ),
    Intervention(
        "hard shrink and perturb",
        "reset",
        ("shrink_and_perturb", "reset_interval", "shrink", "perturb"),
        {"shrink_and_perturb": "hard"},
        "every reset_interval rollouts: theta <- shrink theta + perturb theta_fresh",
        "Ash and Adams 2020, arXiv 1910.08475",
        lambda run: run["shrink_and_perturb"] == "hard" and (run["shrink"], run["perturb"]) != (1, 0),
    ),
)
