"""The paper's claims, held against results: which runs are plain PPO, the effects, the verdicts, and their table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.claims import effects, environment, interventions, table, verdicts
    from purejaxppo.claims.table import format_claims
    from purejaxppo.claims.verdicts import evaluate_claims

__getattr__, __dir__ = lazy(
    __name__,
    {
        "effects": (),
        "environment": (),
        "interventions": (),
        "table": ("format_claims",),
        "verdicts": ("evaluate_claims",),
    },
)

__all__ = ["effects", "environment", "evaluate_claims", "format_claims", "interventions", "table", "verdicts"]
