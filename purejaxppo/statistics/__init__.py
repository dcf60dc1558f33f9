"""Numbers about runs: estimates with intervals, collapse, comparison, the summary, and how all of them are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.statistics import (
        collapse,
        comparison,
        contrasts,
        correlations,
        estimates,
        factorial,
        finals,
        kaplan_meier,
        summary,
        tables,
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
    from purejaxppo.statistics.factorial import factorial_effects
    from purejaxppo.statistics.finals import comparable_values, final_values
    from purejaxppo.statistics.kaplan_meier import SurvivalCurve, survival
    from purejaxppo.statistics.summary import format_csv, format_markdown, format_table, summary_table

__getattr__, __dir__ = lazy(
    __name__,
    {
        "collapse": ("CollapseCount", "Outcomes", "detect_collapse", "outcomes", "survival_by_point"),
        "comparison": ("comparison_table", "format_comparison"),
        "contrasts": ("Difference", "Selection", "difference", "holm", "probability_of_best", "select_best"),
        "correlations": (),
        "estimates": (
            "Estimate",
            "bootstrap_interval",
            "exact_interval",
            "iqm",
            "kendall_tau",
            "mean_over_settings",
            "paired_difference",
            "probability_of_improvement",
            "spearman_rho",
        ),
        "factorial": ("factorial_effects",),
        "finals": ("comparable_values", "final_values"),
        "kaplan_meier": ("SurvivalCurve", "survival"),
        "summary": ("format_csv", "format_markdown", "format_table", "summary_table"),
        "tables": (),
    },
)

__all__ = [
    "CollapseCount",
    "Difference",
    "Estimate",
    "Outcomes",
    "Selection",
    "SurvivalCurve",
    "bootstrap_interval",
    "collapse",
    "comparable_values",
    "comparison",
    "comparison_table",
    "contrasts",
    "correlations",
    "detect_collapse",
    "difference",
    "estimates",
    "exact_interval",
    "factorial",
    "factorial_effects",
    "final_values",
    "finals",
    "format_comparison",
    "format_csv",
    "format_markdown",
    "format_table",
    "holm",
    "iqm",
    "kaplan_meier",
    "kendall_tau",
    "mean_over_settings",
    "outcomes",
    "paired_difference",
    "probability_of_best",
    "probability_of_improvement",
    "select_best",
    "spearman_rho",
    "summary",
    "summary_table",
    "survival",
    "survival_by_point",
    "tables",
]
