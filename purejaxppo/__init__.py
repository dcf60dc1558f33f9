"""purejaxppo: PPO, PFO and representation diagnostics in JAX, hundreds of runs in one compiled program.

Names are imported when they are first used, so that the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from purejaxppo import _moved

__version__ = "0.2.0"

if TYPE_CHECKING:
    from purejaxppo import analysis, claims, diagnostics, envs, plot, plots, ppo, report, results, statistics
    from purejaxppo.config import TrainConfig
    from purejaxppo.errors import ConfigError
    from purejaxppo.hyperparams import HyperParams, OwnHyperParams
    from purejaxppo.own import after_step, diagnostic, penalty
    from purejaxppo.presets import preset
    from purejaxppo.rediagnosis import rediagnose
    from purejaxppo.results.concat import concat
    from purejaxppo.results.foreign import import_metrics
    from purejaxppo.results.tidy import tidy
    from purejaxppo.sweep.devices import use_cache, use_cpu_cores
    from purejaxppo.sweep.engine import run_sweep
    from purejaxppo.sweep.extend import extend_sweep
    from purejaxppo.sweep.merge import merge
    from purejaxppo.sweep.plan import Sweep
    from purejaxppo.sweep.policies import load_policy
    from purejaxppo.sweep.store import load_results
    from purejaxppo.training.train import make_trainer
    from purejaxppo.training.whole import TrainResult, make_train

_HOME = {
    "ConfigError": "errors",
    "HyperParams": "ppo.state",  # where it is registered as a pytree
    "OwnHyperParams": "ppo.state",
    "Sweep": "sweep.plan",
    "TrainConfig": "config",
    "TrainResult": "training.whole",
    "after_step": "own",
    "concat": "results.concat",
    "diagnostic": "own",
    "extend_sweep": "sweep.extend",
    "import_metrics": "results.foreign",
    "load_policy": "sweep.policies",
    "load_results": "sweep.store",
    "make_train": "training.whole",
    "make_trainer": "training.train",
    "merge": "sweep.merge",
    "penalty": "own",
    "preset": "presets",
    "rediagnose": "rediagnosis",
    "run_sweep": "sweep.engine",
    "tidy": "results.tidy",
    "use_cache": "sweep.devices",
    "use_cpu_cores": "sweep.devices",
}
_ROOMS = ("analysis", "claims", "diagnostics", "envs", "plot", "plots", "ppo", "report", "results", "statistics")

_moved.install()

__all__ = [
    "ConfigError",
    "HyperParams",
    "OwnHyperParams",
    "Sweep",
    "TrainConfig",
    "TrainResult",
    "__version__",
    "after_step",
    "analysis",
    "claims",
    "concat",
    "diagnostic",
    "diagnostics",
    "envs",
    "extend_sweep",
    "import_metrics",
    "load_policy",
    "load_results",
    "make_train",
    "make_trainer",
    "merge",
    "penalty",
    "plot",
    "plots",
    "ppo",
    "preset",
    "rediagnose",
    "report",
    "results",
    "run_sweep",
    "statistics",
    "tidy",
    "use_cache",
    "use_cpu_cores",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"purejaxppo.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"purejaxppo.{_HOME[name]}"), name)
    raise AttributeError(f"module 'purejaxppo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
