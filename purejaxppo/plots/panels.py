"""What the panels of the figures show: a metric, its words, and its axis."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.results.registry import METRICS


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
    short: str = ""
    """Title where there is little room."""
    is_free: bool = False
    """Whether the values choose its scale: linear, logarithmic or symmetric logarithmic."""


RETURN = Panel(metric="return_mean", title="Return", label="mean return of an episode")
ENTROPY = Panel(metric="entropy", title="Policy entropy", label="nats")
POLICY_RANK = Panel(
    metric="policy_rank", title="Policy rank", label="dimensions (PCA, 99 %)", is_from_zero=True, is_count=True
)
CRITIC_RANK = Panel(
    metric="critic_rank", title="Critic rank", label="dimensions (PCA, 99 %)", is_from_zero=True, is_count=True
)
NORM = Panel(
    metric="policy_preactivation_norm",
    title="Policy pre-activation norm",
    short="Policy norm",
    label="mean L2 norm (log)",
    is_log=True,
)
POLICY_PLASTICITY = Panel(
    metric="policy_plasticity_loss",
    title="Policy plasticity loss",
    short="Policy plasticity",
    label="KL to random targets, nats (log)",
    is_log=True,
)
CRITIC_PLASTICITY = Panel(
    metric="critic_plasticity_loss", title="Critic plasticity loss", label="squared error (log)", is_log=True
)
VARIANCE = Panel(
    metric="policy_variance", title="Policy variance", label="variance across states", is_from_zero=True, is_free=True
)
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

_KNOWN = {panel.metric: panel for panel in (*OVERVIEW, *FIGURE_1, *FIGURE_3, *FIGURE_6) if panel.sign == 1}


def panel_of(dataset: xr.Dataset, metric: str) -> Panel:
    """The panel of any metric that is one number per run and log point.

    Those of the paper's figures have words of their own, the others the names and units of the table of metrics.
    Raises ConfigError for an unknown metric, and for one that has no single value per log point (spectra).
    """
    if metric not in dataset or dataset[metric].dims != ("run", "log"):
        known = [str(key) for key, value in dataset.data_vars.items() if value.dims == ("run", "log")]
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`purejaxppo metrics` lists all."
        raise ConfigError(f"Metric {metric!r} has no single value per run and log point in these results; {hint}")
    if metric in _KNOWN:
        return _KNOWN[metric]
    name = METRICS[metric].long_name if metric in METRICS else str(dataset[metric].attrs.get("long_name", metric))
    units = METRICS[metric].units if metric in METRICS else str(dataset[metric].attrs.get("units", ""))
    return Panel(metric=metric, title=name[:1].upper() + name[1:], label=units, is_free=True)
