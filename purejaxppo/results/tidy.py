"""Results as a pandas table, without the spectra that make one of xarray's own too large for any memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import check_results, swept_fields
from purejaxppo.results.runs import steps_of_runs


def tidy(dataset: xr.Dataset, metrics: str | Sequence[str] | None = None) -> pd.DataFrame:
    """One row per run and log point that it has reached: `run_index`, `seed`, the swept fields, `status`, `env_steps`
    and a column per metric.

    metrics: names; None: all that are one number per run and log point. What has more (spectra, curves of plasticity)
    is in the dataset: as a column it would repeat every row D times.
    Raises ConfigError for metrics that the results lack, and for those with more than one number.
    """
    check_results(dataset)
    scalars = [str(name) for name, values in dataset.data_vars.items() if values.dims == ("run", "log")]
    names = scalars if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in dataset:
            raise ConfigError(f"metric is {name!r}, but must be one of these results; `purejaxppo metrics` lists all.")
        if name not in scalars:
            raise ConfigError(
                f"metric is {name!r}, which has dimensions {', '.join(map(str, dataset[name].dims))}, but must be one "
                f"number per run and log point; dataset[{name!r}] has its values."
            )
    steps = steps_of_runs(dataset)
    reached = np.isfinite(steps)
    run, _ = np.nonzero(reached)
    of_runs = ("run_index", "seed", *swept_fields(dataset), "status")
    columns = {name: dataset[name].values[run] for name in of_runs}
    columns["env_steps"] = steps[reached].astype(np.int64)
    return pd.DataFrame(columns | {name: dataset[name].values[reached] for name in names})
