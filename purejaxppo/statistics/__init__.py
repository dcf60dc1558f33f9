"""Numbers about runs: estimates with intervals, collapse, comparison, the summary, and how all of them are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.statistics import collapse, comparison, correlations, estimates, summary, tables
    from purejaxppo.statistics.collapse import SurvivalCurve, detect_collapse, survival, survival_by_point
    from purejaxppo.statistics.comparison import comparison_table, format_comparison
    from purejaxppo.statistics.estimates import (
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
    from purejaxppo.statistics.summary import final_values, format_csv, format_markdown, format_table, summary_table

__getattr__, __dir__ = lazy(
    __name__,
    {
        "collapse": ("SurvivalCurve", "detect_collapse", "survival", "survival_by_point"),
        "comparison": ("comparison_table", "format_comparison"),
        "correlations": (),
        "estimates": (
            "Estimate",
            "bootstrap_interval",
            "iqm",
            "kendall_tau",
            "mean_over_settings",
            "paired_difference",
            "probability_of_best",
            "probability_of_improvement",
            "spearman_rho",
        ),
        "summary": ("final_values", "format_csv", "format_markdown", "format_table", "summary_table"),
        "tables": (),
    },
)

__all__ = [
    "Estimate",
    "SurvivalCurve",
    "bootstrap_interval",
    "collapse",
    "comparison",
    "comparison_table",
    "correlations",
    "detect_collapse",
    "estimates",
    "final_values",
    "format_comparison",
    "format_csv",
    "format_markdown",
    "format_table",
    "iqm",
    "kendall_tau",
    "mean_over_settings",
    "paired_difference",
    "probability_of_best",
    "probability_of_improvement",
    "spearman_rho",
    "summary",
    "summary_table",
    "survival",
    "survival_by_point",
    "tables",
]
