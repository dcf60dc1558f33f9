"""The paper's claims, held against results: which runs are plain PPO, the effects, and the verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.claims import effects, interventions, verdicts
    from purejaxppo.claims.verdicts import evaluate_claims, format_claims

__getattr__, __dir__ = lazy(
    __name__, {"effects": (), "interventions": (), "verdicts": ("evaluate_claims", "format_claims")}
)

__all__ = ["effects", "evaluate_claims", "format_claims", "interventions", "verdicts"]
