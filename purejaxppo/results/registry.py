"""Every metric that training reports: one table, from which the README's list and `purejaxppo metrics` are made.

No JAX in here. Names are put together the way the program puts them together: a network, a measure, a moment.
F is the N x D matrix of a network's features or pre-activations on the whole rollout, sigma_i its singular values in
descending order. Standard deviations and variances divide by n - 1. "NaN" always means "there was nothing to measure".

The first log point of a run, log point 0 at 0 environment steps, is its initial network, diagnosed on a rollout from
which nothing is learned: there nothing has been updated, changes are 0 and minibatch metrics NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Moalla et al. 2024 (arXiv 2405.00662)"
PPO = "Schulman et al. 2017 (arXiv 1707.06347)"
CHAIN = "Tang et al. 2024 (NeurIPS, Chain Effect of Value and Policy Churn)"
SCHAUL = "Schaul et al. 2022 (arXiv 2206.00730)"
LEWANDOWSKI = "Lewandowski et al. 2024 (arXiv 2406.06811)"
KUMAR = "Kumar et al. 2023 (arXiv 2308.11958)"
CHUNG = "Chung et al. 2024 (arXiv 2412.07224)"
GRAMA = "GraMa; Liu et al. 2025 (arXiv 2505.24061)"
ESTIMATORS = "Schulman 2020, Approximating KL Divergence"

AT_START = "at log point 0 nothing has been updated: changes are 0, minibatch metrics NaN"
NETWORKS = ("policy", "critic")
_MATRICES = {"": "features (penultimate post-activations)", "preactivation_": "penultimate pre-activations"}
_SUBJECTS = {
    "feature": "features",
    "preactivation": "penultimate pre-activations",
    "all_preactivations": "pre-activations of all hidden layers side by side",
}
_AFTER = "on the whole rollout, after the update phase"
_BEFORE = "on the whole rollout, before the update phase"


@dataclass(frozen=True)
class Metric:
    """One variable of a results file: its name, its axes `dims`, and what a reader needs to check it.

    `family` is one of spectral, norm, neuron, output, weight, plasticity, trust_region, drift, minibatch,
    performance, evaluation, run.
    """

    name: str
    long_name: str
    units: str
    definition: str
    source: str
    dims: tuple[str, ...]
    family: str


# What each table holds: name -> (long name, units, definition, source).
Row = tuple[str, str, str, str]

RANKS: dict[str, Row] = {
    "rank": (
        "rank (PCA 99 %)",
        "dimensions",
        "approximate rank: least k >= 1 with sum_{i<=k} sigma_i^2 >= 0.99 sum_i sigma_i^2",
        "Yang et al. 2020 (arXiv 1909.12255)",
    ),
    "effective_rank": (
        "effective rank",
        "dimensions",
        "exp(H(p)), p_i = sigma_i / sum_j sigma_j, with 0 log 0 = 0; 1 for a matrix of zeros",
        "Roy & Vetterli 2007",
    ),
    "srank": (
        "srank",
        "dimensions",
        "least k >= 1 with sum_{i<=k} sigma_i >= 0.99 sum_i sigma_i",
        "Kumar et al. 2021 (arXiv 2010.14498)",
    ),
    "feature_rank": (
        "feature rank",
        "dimensions",
        "number of i with sigma_i / sqrt(N) > 0.01",
        "Lyle et al. 2022 (arXiv 2204.09560)",
    ),
    "numerical_rank": (
        "numerical rank",
        "dimensions",
        "number of i with sigma_i > sigma_1 max(N, D) eps, eps = 1.19e-7 (float32)",
        "the rule of numpy.linalg.matrix_rank",
    ),
}
SINGULAR_VALUES: dict[str, Row] = {
    "sigma_1": ("largest singular value", "", "sigma_1 / sqrt(N)", PAPER),
    "sigma_2": ("second singular value", "", "sigma_2 / sqrt(N)", PAPER),
    "sigma_min": ("smallest singular value", "", "sigma_min(N, D) / sqrt(N)", PAPER),
    "participation_ratio": (
        "participation ratio",
        "dimensions",
        "(sum_i sigma_i^2)^2 / sum_i sigma_i^4; 1 for a matrix of zeros",
        "",
    ),
    "condition_number": (
        "condition number",
        "",
        "sigma_1 / sigma_min(N, D); inf where sigma_min(N, D) <= sigma_1 eps, which float32 cannot tell from 0",
        "",
    ),
}
_NORMS = {
    "norm": ("norm", "mean over samples of the L2 norm"),
    "mean": ("mean", "mean over dimensions, averaged over samples"),
    "std": ("standard deviation", "standard deviation over dimensions, averaged over samples"),
}
# name -> (long name, units, definition, source, family).
_UNITS = {
    "dormant_neurons": (
        "dormant neurons",
        "neurons",
        "number of units whose mean |activation| over samples is at most 0.025 times the layer's mean of that",
        "Sokar et al. 2023 (arXiv 2302.12902)",
        "neuron",
    ),
    "always_active_neurons": (
        "always active neurons",
        "neurons",
        "number of units whose pre-activation is positive on every sample, which makes a relu or leaky_relu linear",
        "Lyle et al. 2024 (arXiv 2402.18762)",
        "neuron",
    ),
    "collinearity": (
        "collinearity",
        "",
        "mean cosine similarity of all pairs of samples, |sum_n f_n / |f_n||^2 / N^2, 0 for a vector of zeros",
        "",
        "norm",
    ),
}
_OUTPUTS: dict[str, Row] = {
    "policy_variance": (
        "policy variance",
        "",
        "variance over states of each action's probability (continuous actions: of each loc and scale), averaged",
        PAPER,
    ),
    "value_mean": ("mean value", "", "mean of V(s) over states", PAPER),
    "value_std": ("standard deviation of values", "", "standard deviation of V(s) over states", PAPER),
    "value_explained_variance": (
        "explained variance of the critic",
        "",
        "1 - var(V_target - V) / var(V_target) over states, V_target = A_GAE + V_before; NaN where that is constant",
        "",
    ),
    "entropy": (
        "policy entropy",
        "nat",
        "mean over states of the policy's entropy (tanh-squashed normal: of -log p of one fresh sample per state)",
        PAPER,
    ),
}
_TRUST_REGION: dict[str, Row] = {
    "kl": ("KL(old || new)", "nat", "mean over states of the exact KL(pi_before || pi_after)", PAPER),
    "kl_k1": ("KL(old || new), k1", "nat", "mean of -log r; an estimate of KL from the rollout's actions", ESTIMATORS),
    "kl_k3": ("KL(old || new), k3", "nat", "mean of r - 1 - log r; an estimate that is never negative", ESTIMATORS),
    "ratio_above_fraction": ("fraction of ratios above the clip range", "", "fraction of samples with r > 1 + eps", ""),
    "ratio_below_fraction": ("fraction of ratios below the clip range", "", "fraction of samples with r < 1 - eps", ""),
    "excess_ratio": (
        "excess ratio",
        "",
        "ratio_above_mean / ratio_below_mean; NaN unless there are samples on both sides",
        PAPER,
    ),
}
# With running statistics only: what moving them does to the policy, after an update phase that left them alone.
_STATISTICS: dict[str, tuple[Row, str]] = {
    "statistics_kl": (
        (
            "KL(after || after with the next statistics)",
            "nat",
            "with normalize_observations running: mean over states of the exact KL from the policy after the update "
            "phase to the same policy once the observation statistics are updated; on the whole rollout",
            "",
        ),
        "trust_region",
    ),
    "statistics_drift": (
        (
            "drift by the observation statistics",
            "",
            "with normalize_observations running: mean over samples and dimensions of the squared difference of the "
            "policy's penultimate pre-activations after the update phase and once the observation statistics are "
            "updated; on the whole rollout",
            "",
        ),
        "drift",
    ),
}
_RATIO_SUBSETS = {
    "": ("probability ratio", "over all samples"),
    "_above": ("ratio above the clip range", "over samples with r > 1 + eps; NaN where there is none"),
    "_below": ("ratio below the clip range", "over samples with r < 1 - eps; NaN where there is none"),
}
_RATIO_STATISTICS = {
    "mean": "mean",
    "std": "standard deviation (NaN for fewer than two samples)",
    "min": "minimum",
    "max": "maximum",
}
_MINIBATCH: dict[str, Row] = {
    "policy_loss": (
        "PPO loss",
        "",
        "-mean of min(r A, clip(r, 1 - eps, 1 + eps) A), A as advantage_normalization has it; with policy_objective "
        "spo, of r A - |A| (r - 1)^2 / (2 eps), with unclipped, of r A, with dpo, of r A less its drift",
        PPO,
    ),
    "value_loss": (
        "value loss",
        "",
        "mean of (V - V_target)^2, without its coefficient; with value_clipping, of the larger one of it and "
        "(V_old + clip(V - V_old, -eps, eps) - V_target)^2, eps = value_clip_eps",
        PPO,
    ),
    "entropy_loss": ("entropy loss", "nat", "minus the mean entropy, without its coefficient", PPO),
    "pfo_loss": (
        "PFO loss of the policy",
        "",
        "mean over samples and dimensions of (phi_new - phi_old)^2, without its coefficient; phi: the pre-activations "
        "that pfo_layers names (pfo_features features: post-activations); with pfo_distance cosine, mean of "
        "1 - cos(phi_new, phi_old); with pfo_features outputs, mean KL(old || new) in nat of discrete actions, of "
        "continuous ones of the squared difference of their means, of the critic of V; old, and on which samples: as "
        "pfo_reference and pfo_states say",
        PAPER,
    ),
    "critic_pfo_loss": ("PFO loss of the critic", "", "as pfo_loss, for the critic", PAPER),
    "kl_loss": (
        "KL penalty",
        "nat",
        "with kl_penalty: mean of the exact KL(old || new), without its coefficient",
        PPO,
    ),
    "weight_spectral_loss": (
        "spectral loss of the weights",
        "",
        "with weight_spectral: sum over all weight matrices of all networks of (spectral norm - 1)^2, spectral norms "
        "by one power iteration per gradient step, without its coefficient",
        LEWANDOWSKI,
    ),
    "feature_spectral_loss": (
        "concentration of the policy's feature spectrum",
        "",
        "with feature_spectral: sum sigma^4 / (sum sigma^2)^2 of the policy's penultimate features on the minibatch, "
        "without its coefficient; 1 / D where all are equal, 1 at rank one",
        "",
    ),
    "critic_feature_spectral_loss": (
        "concentration of the critic's feature spectrum",
        "",
        "as feature_spectral_loss, for the critic",
        "",
    ),
    "l2_init_loss": (
        "squared distance from the initial weights",
        "",
        "with l2_init: sum over all weights of all networks of (theta - theta_0)^2, without its coefficient",
        KUMAR,
    ),
    "parseval_loss": (
        "Parseval loss of the weights",
        "",
        "with parseval: sum over all hidden layers of all networks of ||W W^T - parseval_scale I||^2, W being "
        "[units, fan_in] and the norm Frobenius', without its coefficient",
        CHUNG,
    ),
    "clip_fraction": (
        "clipped fraction",
        "",
        "fraction of samples on which the clipped branch is strictly the smaller one",
        PPO,
    ),
    "minibatch_kl": ("KL(old || new)", "nat", "mean of the exact KL from the policy that collected the rollout", PAPER),
    "minibatch_entropy": ("entropy", "nat", "mean entropy of the policy", PAPER),
    "policy_churn": (
        "churn of the policy",
        "nat",
        "mean KL(before || after) of one gradient step on the next minibatch of the epoch (after the last: the first), "
        "on which it was not made; NaN where an epoch has one minibatch",
        SCHAUL,
    ),
    "critic_churn": ("churn of the value", "", "mean |V_after - V_before| of one gradient step, likewise", SCHAUL),
    "learning_rate": ("learning rate", "", "Adam's learning rate (with separate_learning_rates: the policy's)", ""),
}
_MINIBATCH_NETWORK = {
    "gradient_norm": (
        "gradient norm",
        "L2 norm of the gradient of the whole loss with respect to all its weights (trunk_optimizers two: the critic's "
        "is of a trunk gradient that the policy's optimiser has clipped)",
    ),
    "gradient_norm_clipped": ("clipped gradient norm", "the same after clipping to max_grad_norm"),
    "step_norm": ("step norm", "L2 norm of the change of all its weights in the step"),
    "weight_norm": ("weight norm", "L2 norm of all its weights and biases, after the step"),
}
_PLASTICITY = {
    "policy": ("nat", "mean KL(target || output) of its action distributions"),
    "critic": ("", "mean of (V_target - V)^2"),
}
_ADAPTED = "pfo_target_share x mean, over the last gradient steps of the latest 100 rollouts, of"
_UPDATE_PHASE: dict[str, Row] = {
    "kl_coef": (
        "coefficient of the KL penalty",
        "",
        "with kl_penalty: its coefficient beta in the last update phase, before it was adapted to that phase's KL",
        PPO,
    ),
    "pfo_auto_coef": (
        "adapted coefficient of PFO",
        "",
        "with pfo_auto: the coefficient of the policy's PFO term in the last update phase: pfo_coef during the first "
        f"pfo_warmup rollouts, then {_ADAPTED} |policy loss|, over the mean of the term",
        CHAIN,
    ),
    "critic_pfo_auto_coef": (
        "adapted coefficient of the critic's PFO",
        "",
        "with pfo_auto: that of the critic's PFO term: critic_pfo_coef during the first pfo_warmup rollouts, then "
        f"{_ADAPTED} value_coef x the value loss, over the mean of the term",
        CHAIN,
    ),
    "minibatches_done_fraction": (
        "minibatches before the KL stop",
        "",
        "with kl_stop: share of the last update phase's minibatches whose gradient step was made",
        PAPER,
    ),
}
_UNITS_RESET: Row = (
    "resets of {network} units",
    "neurons",
    "with unit_resets: number of resets of the {network} network's hidden units (convolutions: channels; with "
    "share_trunk: the shared network's) since the start of training",
    "",
)
_MOMENTS = {
    "": "last minibatch of the last epoch",  # of the configuration's, also where kl_stop has ended the steps before
    "_first_epoch_first": "first minibatch of the first epoch",
    "_first_epoch_last": "last minibatch of the first epoch",
    "_last_epoch_first": "first minibatch of the last epoch",
}
_EPISODES = "episodes finished since the last log point; NaN where there is none"
_PERFORMANCE: dict[str, Row] = {
    "return_mean": ("return", "reward", f"mean undiscounted return, raw reward, of {_EPISODES}", PAPER),
    "return_max": ("best return", "reward", f"largest undiscounted return, raw reward, of {_EPISODES}", PAPER),
    "episode_length_mean": ("episode length", "steps", f"mean length of {_EPISODES}", PAPER),
    "episode_length_max": ("longest episode", "steps", f"largest length of {_EPISODES}", PAPER),
    "learning_return_mean": (
        "return of the learning reward",
        "reward",
        f"mean undiscounted return of the reward after sign_reward, before normalize_rewards, of {_EPISODES}",
        PAPER,
    ),
    "learning_return_max": (
        "best return of the learning reward",
        "reward",
        f"largest undiscounted return of the reward after sign_reward, before normalize_rewards, of {_EPISODES}",
        PAPER,
    ),
    "episode_count": ("finished episodes", "episodes", "number of episodes finished since the last log point", ""),
}
_EVALUATED = (
    "of num_evaluation_episodes whole episodes that the policy of the log point plays in environments of their own; "
    "NaN at log points without an evaluation"
)
_EVALUATION: dict[str, Row] = {
    "evaluation_return_mean": (
        "evaluation return",
        "reward",
        f"mean undiscounted return, raw reward, {_EVALUATED}",
        "",
    ),
    "evaluation_return_std": (
        "standard deviation of evaluation returns",
        "reward",
        f"standard deviation of the undiscounted return, raw reward, {_EVALUATED}",
        "",
    ),
    "evaluation_length_mean": ("evaluation episode length", "steps", f"mean length {_EVALUATED}", ""),
    "evaluation_length_max": ("longest evaluation episode", "steps", f"largest length {_EVALUATED}", ""),
}

HEADLINE = (
    "return_mean",
    "evaluation_return_mean",
    "policy_rank",
    "critic_rank",
    "policy_effective_rank",
    "policy_preactivation_norm",
    "policy_dead_neurons",
    "critic_dead_neurons",
    "policy_variance",
    "policy_plasticity_loss",
    "critic_plasticity_loss",
    "entropy",
    "kl",
    "ratio_below_mean",
    "excess_ratio",
    "clip_fraction",
    "pfo_loss",
)
"""The metrics shown to a user first."""


def _metric(name: str, row: Row, family: str, dims: tuple[str, ...] = ("run", "log")) -> Metric:
    long_name, units, definition, source = row
    return Metric(name, long_name, units, definition, source, dims, family)


def _before_and_after(name: str, row: Row, family: str) -> list[Metric]:
    long_name, units, definition, source = row
    return [
        _metric(name, (long_name, units, f"{definition}; {_AFTER}", source), family),
        _metric(f"{name}_before", (f"{long_name}, before", units, f"{definition}; {_BEFORE}", source), family),
    ]


def _spectral() -> list[Metric]:
    metrics = []
    for network in NETWORKS:
        for matrix, subject in _MATRICES.items():
            prefix, what = f"{network}_{matrix}", f"{network} {matrix.rstrip('_')}".strip()
            for name, (long_name, units, definition, source) in (RANKS | SINGULAR_VALUES).items():
                row = (f"{what} {long_name}", units, f"{definition}, of the {network}'s {subject}", source)
                metrics += _before_and_after(f"{prefix}{name}", row, "spectral")
                if name in RANKS:
                    change = f"{prefix}{name} minus {prefix}{name}_before: its change over the update phase"
                    row = (f"change of {what} {long_name}", units, change, PAPER)
                    metrics.append(_metric(f"{prefix}{name}_change", row, "spectral"))
            spectrum = f"all singular values sigma_i of the {network}'s {subject}, descending, not divided by sqrt(N)"
            row = (f"{what} singular values", "", f"{spectrum}; {_AFTER}", PAPER)
            metrics.append(_metric(f"{prefix}singular_values", row, "spectral", ("run", "log", "D")))
    return metrics


def _norms_and_neurons() -> list[Metric]:
    metrics = []
    dead = (
        "units of the penultimate layer that are, on every sample, 0 (relu, gelu) or negative (leaky_relu), or whose "
        "standard deviation over samples is below 1e-3 (tanh)"
    )
    for network in NETWORKS:
        for subject, words in _SUBJECTS.items():
            for name, (long_name, definition) in _NORMS.items():
                if subject == "all_preactivations" and name != "norm":
                    continue
                label = f"{network} {subject.replace('_', ' ')} {long_name}"
                row = (label, "", f"{definition}, of the {network}'s {words}", PAPER)
                metrics += _before_and_after(f"{network}_{subject}_{name}", row, "norm")
        row = (f"dead {network} neurons", "neurons", f"number of the {network}'s {dead}", PAPER)
        metrics += _before_and_after(f"{network}_dead_neurons", row, "neuron")
        for name, (long_name, units, definition, source, family) in _UNITS.items():
            row = (f"{network} {long_name}", units, f"{definition}, of the {network}'s {_SUBJECTS['feature']}", source)
            metrics += _before_and_after(f"{network}_{name}", row, family)
    return metrics


def _probes_and_weights() -> list[Metric]:
    metrics = []
    for network in NETWORKS:
        probe = (
            f"R^2 of the least squares fit of V_target by the {network}'s {_SUBJECTS['feature']} and an intercept: the "
            f"share of its variance that a linear probe explains; NaN where V_target is constant; {_AFTER}"
        )
        metrics.append(_metric(f"{network}_probe_r2", (f"{network} value probe", "", probe, ""), "output"))
        inactive = (
            "number of units of the penultimate layer whose mean |dL / dh| over samples is at most 0.025 times the "
            f"layer's mean of that, h being the {network}'s features and L the loss of PPO (policy, entropy and value "
            f"terms, as the run's objective and value loss are) on the whole rollout; after the update phase"
        )
        row = (f"{network} neurons without gradient", "neurons", inactive, GRAMA)
        metrics.append(_metric(f"{network}_gradient_inactive_neurons", row, "neuron"))
        moved = (
            f"L2 norm of the change of all weights and biases of the {network} network (with share_trunk: the shared "
            "one) over the update phase"
        )
        metrics.append(_metric(f"{network}_weight_change", (f"change of {network} weights", "", moved, ""), "weight"))
        norm = f"spectral norm of the {network}'s kernels [fan_in, fan_out]"
        largest = (f"{network} spectral norm", "", f"largest {norm} over its hidden layers; after the update phase", "")
        head = (f"{network} head spectral norm", "", f"{norm}, of its head; after the update phase", "")
        metrics.append(_metric(f"{network}_weight_spectral_norm_max", largest, "weight"))
        metrics.append(_metric(f"{network}_head_spectral_norm", head, "weight"))
    return metrics


def _plasticity() -> list[Metric]:
    task = (
        "a copy of the network is fitted, in num_plasticity_epochs passes by a fresh Adam with the run's "
        "hyper-parameters (learning rate as at the start), to a randomly initialised network's outputs on observations "
        "of the initial policy, the same at every measurement"
    )
    metrics = []
    for network, (units, loss) in _PLASTICITY.items():
        last = f"{loss} on the last minibatch when {task}; NaN at log points without a measurement"
        row = (f"{network} plasticity loss", units, last, PAPER)
        metrics.append(_metric(f"{network}_plasticity_loss", row, "plasticity"))
        least = f"least {loss} of a constant on the same minibatch of the same task; the same at every measurement"
        fresh = (
            f"{network}_plasticity_loss of the run's initial network, fitted alike (normalize_observations running: by "
            "the task's own statistics, not log point 0's); the same at every measurement"
        )
        for of, definition in (("constant", least), ("fresh", fresh)):
            row = (f"{network} plasticity loss, {of}", units, definition, "")
            metrics.append(_metric(f"{network}_plasticity_{of}_loss", row, "plasticity"))
            excess = f"{network}_plasticity_loss - {network}_plasticity_{of}_loss"
            row = (f"{network} plasticity loss over {of}", units, excess, "")
            metrics.append(_metric(f"{network}_plasticity_excess_over_{of}", row, "plasticity"))
        curve = f"with plasticity_curve: {network}_plasticity_loss on every minibatch, before its gradient step"
        row = (f"{network} plasticity curve", units, curve, PAPER)
        metrics.append(_metric(f"{network}_plasticity_curve", row, "plasticity", ("run", "log", "minibatch")))
    return metrics


def _ratios() -> list[Metric]:
    metrics = []
    for subset, (long_name, where) in _RATIO_SUBSETS.items():
        for name, statistic in _RATIO_STATISTICS.items():
            definition = f"{statistic} of r = pi_after(a|s) / pi_before(a|s) {where}; {_AFTER}"
            row = (f"{long_name}, {statistic.split(' (')[0]}", "", definition, PAPER)
            metrics.append(_metric(f"ratio{subset}_{name}", row, "trust_region"))
    return metrics


def _drift() -> list[Metric]:
    metrics = []
    for network in NETWORKS:
        for subject, words in _SUBJECTS.items():
            label, of = f"{network} {subject.replace('_', ' ')}", f"the {network}'s {words} before and after the update"
            difference = f"mean over samples and dimensions of the squared difference of {of}"
            cosine = f"mean over samples of the cosine similarity of {of}; 0 for a vector of zeros"
            metrics.append(_metric(f"{network}_{subject}_drift", (f"{label} drift", "", difference, PAPER), "drift"))
            metrics.append(_metric(f"{network}_{subject}_cosine", (f"{label} cosine", "", cosine, PAPER), "drift"))
    return metrics


def at_moments(name: str, row: Row) -> dict[str, Row]:
    """Rows of a minibatch metric at each moment at which it is taken, by their full names."""
    long_name, units, definition, source = row
    return {f"{name}{suffix}": (long_name, units, f"{definition}; {at}", source) for suffix, at in _MOMENTS.items()}


def _minibatch() -> list[Metric]:
    rows = dict(_MINIBATCH)
    for network in NETWORKS:
        for name, (long_name, definition) in _MINIBATCH_NETWORK.items():
            whose = f"the {network} network (with share_trunk: the shared one; trunk_optimizers two: trunk, own head)"
            rows[f"{network}_{name}"] = (f"{network} {long_name}", "", f"{definition}, of {whose}", PAPER)
    metrics = [
        _metric(full_name, described, "minibatch")
        for name, row in rows.items()
        for full_name, described in at_moments(name, row).items()
    ]
    metrics += [_metric(name, row, "minibatch") for name, row in _UPDATE_PHASE.items()]
    for network in NETWORKS:
        long_name, units, definition, source = (text.format(network=network) for text in _UNITS_RESET)
        metrics.append(_metric(f"{network}_units_reset", (long_name, units, definition, source), "neuron"))
    return metrics


def _table() -> dict[str, Metric]:
    status = (
        "status",
        "",
        "0 where the run stayed finite; else the log point, counted from 1 after the start, in whose segment it "
        "diverged: from there on it is frozen and its metrics are NaN",
        "",
    )
    snapshot = (
        "snapshot",
        "",
        "with num_snapshots: 1 where the networks of the log point are kept, else 0; the k-th one of a run, counted "
        "from 0, is load_policy(..., snapshot=k)",
        "",
    )
    metrics = [_metric(name, row, "performance") for name, row in _PERFORMANCE.items()]
    metrics += [_metric(name, row, "evaluation") for name, row in _EVALUATION.items()]
    metrics += _spectral() + _norms_and_neurons()
    metrics += [m for name, row in _OUTPUTS.items() for m in _before_and_after(name, row, "output")]
    metrics += _probes_and_weights() + _plasticity()
    metrics += [_metric(name, row, "trust_region") for name, row in _TRUST_REGION.items()]
    metrics += _ratios() + _drift() + [_metric(name, row, family) for name, (row, family) in _STATISTICS.items()]
    metrics += [*_minibatch(), _metric("is_snapshot", snapshot, "run"), _metric("status", status, "run", ("run",))]
    return {metric.name: metric for metric in metrics}


METRICS: dict[str, Metric] = _table()
"""Every metric by name."""


def markdown_table(names: tuple[str, ...] | None = None) -> str:
    """The metrics as a Markdown table, all of them or those named, in the order of `METRICS` or of `names`."""
    lines = ["| name | units | definition | source |", "|---|---|---|---|"]
    for metric in METRICS.values() if names is None else (METRICS[name] for name in names):
        cells = (f"`{metric.name}`", metric.units, metric.definition.replace("|", "\\|"), metric.source)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
