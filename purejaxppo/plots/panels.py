"""What the panels of the figures show: a metric, its words, and its axis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one panel shows."""

    metric: str
    title: str
    label: str
    sign: int = 1
    """-1 shows minus the metric."""
    is_log: bool = False
    is_from_zero: bool = False
    is_count: bool = False


RETURN = Panel(metric="return_mean", title="Return", label="mean return of an episode")
ENTROPY = Panel(metric="entropy", title="Policy entropy", label="nats")
POLICY_RANK = Panel(
    metric="policy_rank", title="Policy rank", label="dimensions (PCA, 99 %)", is_from_zero=True, is_count=True
)
CRITIC_RANK = Panel(
    metric="critic_rank", title="Critic rank", label="dimensions (PCA, 99 %)", is_from_zero=True, is_count=True
)
NORM = Panel(
    metric="policy_preactivation_norm", title="Policy pre-activation norm", label="mean L2 norm (log)", is_log=True
)
POLICY_PLASTICITY = Panel(
    metric="policy_plasticity_loss",
    title="Policy plasticity loss",
    label="KL to random targets, nats (log)",
    is_log=True,
)
CRITIC_PLASTICITY = Panel(
    metric="critic_plasticity_loss", title="Critic plasticity loss", label="squared error (log)", is_log=True
)
VARIANCE = Panel(metric="policy_variance", title="Policy variance", label="variance across states", is_from_zero=True)
DEAD = Panel(
    metric="policy_dead_neurons", title="Dead policy neurons", label="neurons", is_from_zero=True, is_count=True
)
RATIO_BELOW = Panel(
    metric="ratio_below_mean",
    title="Mean ratio below 1 \N{MINUS SIGN} \N{GREEK SMALL LETTER EPSILON}",
    label="pi_after / pi_before",
    is_from_zero=True,
)
EXCESS = Panel(metric="excess_ratio", title="Excess ratio", label="mean ratio above / below (log)", is_log=True)
OBJECTIVE = Panel(metric="policy_loss", title="PPO objective, last minibatch", label="normalised advantage", sign=-1)

OVERVIEW = (RETURN, POLICY_RANK, NORM, DEAD, VARIANCE, ENTROPY)
FIGURE_1 = (RETURN, POLICY_RANK, NORM, POLICY_PLASTICITY, CRITIC_RANK, CRITIC_PLASTICITY)
FIGURE_2 = (ENTROPY, VARIANCE, DEAD)
FIGURE_3 = (POLICY_RANK, POLICY_PLASTICITY, RETURN, RATIO_BELOW, VARIANCE, OBJECTIVE)
FIGURE_6 = (RETURN, EXCESS, DEAD, NORM, POLICY_RANK, POLICY_PLASTICITY)
