"""How diagnostics go together: ratios against the representation, and the rank measures among each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from purejaxppo.results.runs import is_after_start

NUM_CHECKPOINTS = 40
RANKS = {
    "rank": "PCA rank",
    "effective_rank": "effective rank",
    "srank": "srank",
    "feature_rank": "feature rank",
    "numerical_rank": "numerical rank",
}


def lowest_ratios(
    dataset: xr.Dataset, name: str, num_stretches: int = NUM_CHECKPOINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest `ratio_below_mean` and mean of another metric in each run and stretch of training: two arrays [S, K].

    K: the log points after the start, cut into `num_stretches` equal parts, or one part each where there are fewer. NaN
    is no value: a stretch in which no sample was below the clip range at any log point, or without the other metric, is
    NaN in both. Infinities are left out as well. Both have no columns where the dataset lacks a metric.
    """
    num_runs, learned = dataset.sizes["run"], is_after_start(dataset)
    places = np.flatnonzero(np.any(learned, axis=0))
    if name not in dataset or "ratio_below_mean" not in dataset or places.size == 0:
        return np.zeros((num_runs, 0)), np.zeros((num_runs, 0))
    parts = np.array_split(places, min(num_stretches, places.size))
    ratios, values = (dataset[key].values.astype(np.float64) for key in ("ratio_below_mean", name))
    ratios = np.where(np.isfinite(ratios), ratios, np.inf)
    has_value = np.isfinite(values) & learned
    values = np.where(has_value, values, 0.0)
    lowest = np.stack([ratios[:, part].min(axis=1) for part in parts], axis=1)
    counts = np.stack([has_value[:, part].sum(axis=1) for part in parts], axis=1)
    means = np.stack([values[:, part].sum(axis=1) for part in parts], axis=1) / np.maximum(counts, 1)
    present = np.isfinite(lowest) & (counts > 0)
    return np.where(present, lowest, np.nan), np.where(present, means, np.nan)


def rank_correlations(dataset: xr.Dataset, network: str = "policy", names: Sequence[str] = tuple(RANKS)) -> np.ndarray:
    """Spearman correlation over log points between every two rank measures in each run: [S, M, M] for M measures.

    Log point 0, and those at which any measure has no value, are left out. NaN where a measure is constant or missing,
    on the diagonal as well.
    """
    learned = is_after_start(dataset)
    missing = np.full(learned.shape, np.nan)
    keys = [f"{network}_{name}" for name in names]
    values = np.stack([dataset[key].values.astype(np.float64) if key in dataset else missing for key in keys], axis=1)
    has_any = np.any(np.isfinite(values), axis=2, keepdims=True)
    present = np.all(np.isfinite(values) | ~has_any, axis=1) & learned
    matrices = np.full((len(learned), len(keys), len(keys)), np.nan)
    for run in range(len(learned)):
        ranks = rankdata(values[run][:, present[run]], axis=1) if present[run].any() else np.zeros((len(keys), 0))
        ranks = ranks - ranks.mean(axis=1, keepdims=True) if ranks.size else ranks
        covariance = ranks @ ranks.T
        scale = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            matrices[run] = covariance / np.outer(scale, scale)
    return matrices


def average_and_worst(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lowest value over runs of matrices [S, M, M], without NaN: two [M, M]; NaN where no run has a value."""
    with np.errstate(invalid="ignore"):
        average = np.nansum(matrices, axis=0) / np.sum(~np.isnan(matrices), axis=0)
    lowest = np.where(np.isnan(matrices), np.inf, matrices).min(axis=0, initial=np.inf)
    return average, np.where(np.isinf(lowest), np.nan, lowest)
