"""Results of a sweep: the table of metrics, the labelled dataset, how to read it, and files for other tools. No JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.results import concat, dataset, export, files, foreign, pieces, registry, runs, tidy
    from purejaxppo.results.dataset import GroupResult, by_environment, points, swept_fields, to_dataset
    from purejaxppo.results.export import long_table
    from purejaxppo.results.files import load, save
    from purejaxppo.results.registry import HEADLINE, METRICS, Metric, markdown_table

__getattr__, __dir__ = lazy(
    __name__,
    {
        "concat": (),
        "dataset": ("GroupResult", "by_environment", "points", "swept_fields", "to_dataset"),
        "export": ("long_table",),
        "files": ("load", "save"),
        "foreign": (),
        "pieces": (),
        "registry": ("HEADLINE", "METRICS", "Metric", "markdown_table"),
        "runs": (),
        "tidy": (),
    },
)

__all__ = [
    "HEADLINE",
    "METRICS",
    "GroupResult",
    "Metric",
    "by_environment",
    "concat",
    "dataset",
    "export",
    "files",
    "foreign",
    "load",
    "long_table",
    "markdown_table",
    "pieces",
    "points",
    "registry",
    "runs",
    "save",
    "swept_fields",
    "tidy",
    "to_dataset",
]
