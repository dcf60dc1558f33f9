"""Modules under the names that they had before they moved: notebooks and scripts written then go on working.

A row is used when no file has the old name, and imports the new module only when somebody asks for the old one; both
names are then one module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old name -> new name. `purejaxppo.analysis` itself is still there: the file analysis.py, which has the names only.
MOVED = {
    "purejaxppo.analysis.boxes": "purejaxppo.plots.boxes",
    "purejaxppo.analysis.claims": "purejaxppo.claims.verdicts",
    "purejaxppo.analysis.collapse": "purejaxppo.statistics.collapse",
    "purejaxppo.analysis.comparison": "purejaxppo.statistics.comparison",
    "purejaxppo.analysis.correlations": "purejaxppo.plots.scatter",
    "purejaxppo.analysis.effects": "purejaxppo.claims.effects",
    "purejaxppo.analysis.encoding": "purejaxppo.plots.channels",
    "purejaxppo.analysis.export": "purejaxppo.results.export",
    "purejaxppo.analysis.figures": "purejaxppo.plots.figures",
    "purejaxppo.analysis.interventions": "purejaxppo.claims.interventions",
    "purejaxppo.analysis.page": "purejaxppo.plots.style",
    "purejaxppo.analysis.plotting": "purejaxppo.plots.curves",
    "purejaxppo.analysis.report": "purejaxppo.report",
    "purejaxppo.analysis.results": "purejaxppo.results.dataset",
    "purejaxppo.analysis.spectrum": "purejaxppo.plots.spectrum",
    "purejaxppo.analysis.statistics": "purejaxppo.statistics.estimates",
    "purejaxppo.analysis.summary": "purejaxppo.statistics.summary",
    "purejaxppo.analysis.survival_curves": "purejaxppo.plots.survival",
    "purejaxppo.analysis.toy": "purejaxppo.plots.toy",
    "purejaxppo.diagnostics.plasticity": "purejaxppo.training.plasticity",
    "purejaxppo.diagnostics.registry": "purejaxppo.results.registry",
    "purejaxppo.ppo.train": "purejaxppo.training.train",
}


class Forwarder(MetaPathFinder, Loader):
    """Finds the old names of `MOVED`, and loads the module of the new name in their place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification of an old name; None for every other name."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of the empty one made for the old name."""
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def install() -> None:
    """Let imports find the old names, after everything that has a file; once per process."""
    if not any(isinstance(finder, Forwarder) for finder in sys.meta_path):
        sys.meta_path.append(Forwarder())
