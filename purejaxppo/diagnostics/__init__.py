"""Diagnostics of representations and trust regions, as the paper defines them; `METRICS` has the definitions.

Names are imported on first use: neither this file nor the table of metrics loads JAX. The diagnosis of one update,
everything together, is the function `purejaxppo.diagnostics.diagnose.diagnose`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from purejaxppo.diagnostics import diagnose, neurons, ntk, probe, routes, spectral, trust_region
    from purejaxppo.diagnostics.neurons import (
        always_active_neurons,
        collinearity,
        dead_neurons,
        dormant_neurons,
        feature_statistics,
        joint_norm,
        policy_variance,
    )
    from purejaxppo.diagnostics.probe import explained_variance, probe_r2
    from purejaxppo.diagnostics.spectral import (
        SpectralMeasures,
        measures_of_spectrum,
        singular_values,
        spectral_measures,
        spectral_norms,
    )
    from purejaxppo.diagnostics.trust_region import drift, joint_drift, kl_k1, kl_k3, ratio_statistics

    # The table of metrics is the reading wing's; its names are offered here too, and found by `_moved.py`.
    HEADLINE: tuple[str, ...]
    METRICS: dict[str, Any]
    Metric: type[Any]
    markdown_table: Any
    plasticity: ModuleType
    registry: ModuleType

_HOME = {
    "HEADLINE": "registry",
    "METRICS": "registry",
    "Metric": "registry",
    "SpectralMeasures": "spectral",
    "always_active_neurons": "neurons",
    "collinearity": "neurons",
    "dead_neurons": "neurons",
    "dormant_neurons": "neurons",
    "drift": "trust_region",
    "explained_variance": "probe",
    "feature_statistics": "neurons",
    "joint_drift": "trust_region",
    "joint_norm": "neurons",
    "kl_k1": "trust_region",
    "kl_k3": "trust_region",
    "markdown_table": "registry",
    "measures_of_spectrum": "spectral",
    "policy_variance": "neurons",
    "probe_r2": "probe",
    "ratio_statistics": "trust_region",
    "singular_values": "spectral",
    "spectral_measures": "spectral",
    "spectral_norms": "spectral",
}
_MODULES = ("diagnose", "neurons", "ntk", "probe", "registry", "routes", "spectral", "trust_region")

__all__ = [
    "HEADLINE",
    "METRICS",
    "Metric",
    "SpectralMeasures",
    "always_active_neurons",
    "collinearity",
    "dead_neurons",
    "diagnose",
    "dormant_neurons",
    "drift",
    "explained_variance",
    "feature_statistics",
    "joint_drift",
    "joint_norm",
    "kl_k1",
    "kl_k3",
    "markdown_table",
    "measures_of_spectrum",
    "neurons",
    "ntk",
    "policy_variance",
    "probe",
    "probe_r2",
    "ratio_statistics",
    "registry",
    "routes",
    "singular_values",
    "spectral",
    "spectral_measures",
    "spectral_norms",
    "trust_region",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
