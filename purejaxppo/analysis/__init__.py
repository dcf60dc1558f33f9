"""Reading, summarising and plotting results. NumPy, xarray, pandas and matplotlib only: no JAX in here.

Names are imported on first use, so that reading a file does not load matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purejaxppo.analysis.claims import evaluate_claims, format_claims
    from purejaxppo.analysis.collapse import SurvivalCurve, detect_collapse, survival, survival_by_point
    from purejaxppo.analysis.comparison import comparison_table, format_comparison
    from purejaxppo.analysis.figures import FIGURES, draw_figure
    from purejaxppo.analysis.page import save_figure
    from purejaxppo.analysis.plotting import overview
    from purejaxppo.analysis.report import html_report
    from purejaxppo.analysis.results import (
        GroupResult,
        by_environment,
        load,
        points,
        save,
        swept_fields,
        to_dataset,
    )
    from purejaxppo.analysis.statistics import (
        Estimate,
        bootstrap_interval,
        iqm,
        kendall_tau,
        mean_over_settings,
        paired_difference,
        probability_of_best,
        probability_of_improvement,
        spearman_rho,
    )
    from purejaxppo.analysis.summary import final_values, format_csv, format_markdown, format_table, summary_table
    from purejaxppo.analysis.toy import toy_figure

_MODULE_OF = {
    "evaluate_claims": "claims",
    "format_claims": "claims",
    "comparison_table": "comparison",
    "format_comparison": "comparison",
    "SurvivalCurve": "collapse",
    "detect_collapse": "collapse",
    "survival": "collapse",
    "survival_by_point": "collapse",
    "FIGURES": "figures",
    "draw_figure": "figures",
    "html_report": "report",
    "toy_figure": "toy",
    "overview": "plotting",
    "save_figure": "page",
    "GroupResult": "results",
    "by_environment": "results",
    "load": "results",
    "points": "results",
    "save": "results",
    "swept_fields": "results",
    "to_dataset": "results",
    "bootstrap_interval": "statistics",
    "iqm": "statistics",
    "Estimate": "statistics",
    "kendall_tau": "statistics",
    "mean_over_settings": "statistics",
    "paired_difference": "statistics",
    "probability_of_best": "statistics",
    "probability_of_improvement": "statistics",
    "spearman_rho": "statistics",
    "final_values": "summary",
    "format_csv": "summary",
    "format_markdown": "summary",
    "format_table": "summary",
    "summary_table": "summary",
}
_MODULES = (
    "boxes",
    "claims",
    "collapse",
    "comparison",
    "correlations",
    "effects",
    "encoding",
    "figures",
    "interventions",
    "page",
    "plotting",
    "report",
    "results",
    "spectrum",
    "statistics",
    "summary",
    "survival_curves",
    "toy",
)

__all__ = [
    "FIGURES",
    "Estimate",
    "GroupResult",
    "SurvivalCurve",
    "bootstrap_interval",
    "by_environment",
    "comparison_table",
    "detect_collapse",
    "draw_figure",
    "evaluate_claims",
    "final_values",
    "format_claims",
    "format_comparison",
    "format_csv",
    "format_markdown",
    "format_table",
    "html_report",
    "iqm",
    "kendall_tau",
    "load",
    "mean_over_settings",
    "overview",
    "paired_difference",
    "points",
    "probability_of_best",
    "probability_of_improvement",
    "save",
    "save_figure",
    "spearman_rho",
    "summary_table",
    "survival",
    "survival_by_point",
    "swept_fields",
    "to_dataset",
    "toy_figure",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
