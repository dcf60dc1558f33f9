"""What reads, summarises and plots results, under one name: `pjp.analysis.summary_table(dataset)`.

The code is in the rooms `results`, `statistics`, `claims`, `plots` and in `report`; this file has no code of its own.
Names are imported on first use, so that reading a file does not load matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from purejaxppo._moved import MOVED

if TYPE_CHECKING:
    from purejaxppo.claims.table import format_claims
    from purejaxppo.claims.verdicts import evaluate_claims
    from purejaxppo.plots.curves import overview
    from purejaxppo.plots.figures import FIGURES, draw_figure
    from purejaxppo.plots.style import save_figure
    from purejaxppo.plots.toy import toy_figure
    from purejaxppo.report import html_report
    from purejaxppo.results.dataset import (
        GroupResult,
        by_environment,
        load,
        points,
        save,
        swept_fields,
        to_dataset,
    )
    from purejaxppo.statistics.collapse import CollapseCount, Outcomes, detect_collapse, outcomes, survival_by_point
    from purejaxppo.statistics.comparison import comparison_table, format_comparison
    from purejaxppo.statistics.contrasts import (
        Difference,
        Selection,
        difference,
        holm,
        probability_of_best,
        select_best,
    )
    from purejaxppo.statistics.estimates import (
        Estimate,
        bootstrap_interval,
        exact_interval,
        iqm,
        kendall_tau,
        mean_over_settings,
        paired_difference,
        probability_of_improvement,
        spearman_rho,
    )
    from purejaxppo.statistics.finals import comparable_values, final_values
    from purejaxppo.statistics.kaplan_meier import SurvivalCurve, survival
    from purejaxppo.statistics.summary import format_csv, format_markdown, format_table, summary_table

__path__: list[str] = []
"""No folder, but modules are found below this one: those that moved, under their old names (`_moved.py`)."""

_HOME = {
    "evaluate_claims": "claims.verdicts",
    "format_claims": "claims.table",
    "comparison_table": "statistics.comparison",
    "format_comparison": "statistics.comparison",
    "CollapseCount": "statistics.collapse",
    "Outcomes": "statistics.collapse",
    "SurvivalCurve": "statistics.kaplan_meier",
    "detect_collapse": "statistics.collapse",
    "outcomes": "statistics.collapse",
    "survival": "statistics.kaplan_meier",
    "survival_by_point": "statistics.collapse",
    "FIGURES": "plots.figures",
    "draw_figure": "plots.figures",
    "html_report": "report",
    "toy_figure": "plots.toy",
    "overview": "plots.curves",
    "save_figure": "plots.style",
    "GroupResult": "results.dataset",
    "by_environment": "results.dataset",
    "load": "results.dataset",
    "points": "results.dataset",
    "save": "results.dataset",
    "swept_fields": "results.dataset",
    "to_dataset": "results.dataset",
    "Difference": "statistics.contrasts",
    "Selection": "statistics.contrasts",
    "difference": "statistics.contrasts",
    "holm": "statistics.contrasts",
    "probability_of_best": "statistics.contrasts",
    "select_best": "statistics.contrasts",
    "bootstrap_interval": "statistics.estimates",
    "exact_interval": "statistics.estimates",
    "iqm": "statistics.estimates",
    "Estimate": "statistics.estimates",
    "kendall_tau": "statistics.estimates",
    "mean_over_settings": "statistics.estimates",
    "paired_difference": "statistics.estimates",
    "probability_of_improvement": "statistics.estimates",
    "spearman_rho": "statistics.estimates",
    "comparable_values": "statistics.finals",
    "final_values": "statistics.finals",
    "format_csv": "statistics.summary",
    "format_markdown": "statistics.summary",
    "format_table": "statistics.summary",
    "summary_table": "statistics.summary",
}
_OLD_MODULES = {name.removeprefix(f"{__name__}.") for name in MOVED if name.startswith(f"{__name__}.")}

__all__ = [
    "FIGURES",
    "CollapseCount",
    "Difference",
    "Estimate",
    "GroupResult",
    "Outcomes",
    "Selection",
    "SurvivalCurve",
    "bootstrap_interval",
    "by_environment",
    "comparable_values",
    "comparison_table",
    "detect_collapse",
    "difference",
    "draw_figure",
    "evaluate_claims",
    "exact_interval",
    "final_values",
    "format_claims",
    "format_comparison",
    "format_csv",
    "format_markdown",
    "format_table",
    "holm",
    "html_report",
    "iqm",
    "kendall_tau",
    "load",
    "mean_over_settings",
    "outcomes",
    "overview",
    "paired_difference",
    "points",
    "probability_of_best",
    "probability_of_improvement",
    "save",
    "save_figure",
    "select_best",
    "spearman_rho",
    "summary_table",
    "survival",
    "survival_by_point",
    "swept_fields",
    "to_dataset",
    "toy_figure",
]


def __getattr__(name: str) -> Any:
    if name in _OLD_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"purejaxppo.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_OLD_MODULES])
