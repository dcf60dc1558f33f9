"""Slow NumPy float64 versions of the diagnostics, written from the paper's definitions (deviations: n - 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
EPS_FLOAT32 = float(np.finfo(np.float32).eps)


def spectrum(features: Array) -> Array:
    return np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)


def effective_rank(features: Array) -> float:
    sigma = spectrum(features)
    p = sigma / sigma.sum()
    return float(np.exp(-sum(q * np.log(q) for q in p if q > 0)))


def _least_k(weights: Array) -> int:
    for k in range(1, len(weights) + 1):
        if weights[:k].sum() >= 0.99 * weights.sum():
            return k
    return len(weights)


def approximate_rank(features: Array) -> int:
    return _least_k(spectrum(features) ** 2)


def srank(features: Array) -> int:
    return _least_k(spectrum(features))


def feature_rank(features: Array) -> int:
    return sum(s / np.sqrt(len(features)) > 0.01 for s in spectrum(features))


def numerical_rank(features: Array) -> int:
    sigma = spectrum(features)
    return sum(s > sigma[0] * max(features.shape) * EPS_FLOAT32 for s in sigma)


def distance_to_a_threshold(features: Array) -> float:
    """How far, relatively, the spectrum is from a place where one of the integer ranks jumps."""
    sigma = spectrum(features)
    distances = [np.abs(np.cumsum(w) / w.sum() - 0.99).min() for w in (sigma, sigma**2)]
    distances.append(np.abs(sigma / np.sqrt(len(features)) / 0.01 - 1).min())
    # A float32 spectrum is uncertain by some eps sigma_1, a fixed share of this threshold.
    distances.append(0.01 * np.abs(sigma / (sigma[0] * max(features.shape) * EPS_FLOAT32) - 1).min())
    return float(min(distances))


def mean_norm(features: Array) -> float:
    return float(np.mean([np.sqrt(np.sum(np.float64(row) ** 2)) for row in features]))


def mean_deviation_over_dimensions(features: Array) -> float:
    return float(np.mean([np.std(np.float64(row), ddof=1) for row in features]))


def dead_neurons(features: Array, activation: str) -> int:
    units = np.asarray(features, np.float64).T
    if activation in ("relu", "gelu"):
        return sum(bool(np.all(unit == 0)) for unit in units)
    if activation == "leaky_relu":
        return sum(bool(np.all(unit < 0)) for unit in units)
    return sum(bool(np.std(unit, ddof=1) < 1e-3) for unit in units)


def policy_variance(moments: Array) -> float:
    return float(np.mean([np.var(np.float64(column), ddof=1) for column in np.asarray(moments).T]))


def ratio_statistics(log_ratio: Array, clip_eps: float) -> dict[str, float]:
    ratio = np.exp(np.float64(log_ratio))
    subsets = {"": ratio, "_above": ratio[ratio > 1 + clip_eps], "_below": ratio[ratio < 1 - clip_eps]}
    metrics = {f"ratio_{name}_fraction": len(subsets[f"_{name}"]) / len(ratio) for name in ("above", "below")}
    for subset, values in subsets.items():
        metrics[f"ratio{subset}_mean"] = values.mean() if len(values) else np.nan
        metrics[f"ratio{subset}_std"] = values.std(ddof=1) if len(values) > 1 else np.nan
        metrics[f"ratio{subset}_min"] = values.min() if len(values) else np.nan
        metrics[f"ratio{subset}_max"] = values.max() if len(values) else np.nan
    metrics["excess_ratio"] = metrics["ratio_above_mean"] / metrics["ratio_below_mean"]
    return metrics


def drift(before: Array, after: Array) -> tuple[float, float]:
    before, after = np.float64(before), np.float64(after)
    cosines = []
    for b, a in zip(before, after, strict=True):
        norms = np.linalg.norm(b) * np.linalg.norm(a)
        cosines.append(b @ a / norms if norms > 0 else 0.0)
    return float(np.mean((after - before) ** 2)), float(np.mean(cosines))


def participation_ratio(features: Array) -> float:
    squares = spectrum(features) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def condition_number(features: Array) -> float:
    sigma = spectrum(features)
    return float(sigma[0] / sigma[-1]) if sigma[-1] > EPS_FLOAT32 * sigma[0] else np.inf


def collinearity(features: Array) -> float:
    """By all N x N cosines."""
    rows = np.float64(features)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return float((rows @ rows.T).mean())


def dormant_neurons(features: Array) -> int:
    activity = [np.mean(np.abs(np.float64(unit))) for unit in np.asarray(features).T]
    return sum(bool(a <= 0.025 * np.mean(activity)) for a in activity)


def always_active_neurons(preactivations: Array) -> int:
    return sum(min(unit) > 0 for unit in np.float64(preactivations).T)


def explained_variance(target: Array, value: Array) -> float:
    target, value = np.float64(target), np.float64(value)
    return float(1 - np.var(target - value) / np.var(target))


def probe_r2(features: Array, target: Array, cutoff: float = 1e-5) -> float:
    """By an SVD of the centred features, each unit scaled to norm 1, without singular values below the cutoff."""
    x, y = np.float64(features), np.float64(target)
    x, y = x - x.mean(axis=0), y - y.mean()
    norms = np.linalg.norm(x, axis=0)
    u, sigma, _ = np.linalg.svd(x[:, norms > 0] / norms[norms > 0], full_matrices=False)
    return float(np.sum((u[:, sigma > cutoff].T @ y) ** 2) / np.sum(y**2))


RANKS = {
    "rank": approximate_rank,
    "effective_rank": effective_rank,
    "srank": srank,
    "feature_rank": feature_rank,
    "numerical_rank": numerical_rank,
}


def representation(before: Any, after: Any, activation: str) -> dict[str, Any]:
    """One network's measures before and after an update, by the metric's name without the network's.

    before, after: objects with `features` [N, D] and `preactivations`, one [N, D_l] for each hidden layer.
    """
    found: dict[str, Any] = {}
    for suffix, output in (("_before", before), ("", after)):
        for infix, kind in (("", "feature"), ("preactivation_", "preactivation")):
            matrix = output.features if kind == "feature" else output.preactivations[-1]
            sigma, root = spectrum(matrix), np.sqrt(len(matrix))
            found |= {f"{infix}{name}{suffix}": function(matrix) for name, function in RANKS.items()}
            found |= {f"{infix}sigma_{n}{suffix}": sigma[i] / root for n, i in ((1, 0), (2, 1), ("min", -1))}
            found[f"{infix}participation_ratio{suffix}"] = participation_ratio(matrix)
            found[f"{infix}condition_number{suffix}"] = condition_number(matrix)
            found[f"{kind}_norm{suffix}"] = mean_norm(matrix)
            found[f"{kind}_mean{suffix}"] = matrix.mean()
            found[f"{kind}_std{suffix}"] = mean_deviation_over_dimensions(matrix)
            if not suffix:
                found[f"{infix}singular_values"] = sigma
                found |= {f"{infix}{n}_change": found[f"{infix}{n}"] - found[f"{infix}{n}_before"] for n in RANKS}
        found[f"all_preactivations_norm{suffix}"] = mean_norm(np.concatenate(output.preactivations, axis=1))
        found[f"dead_neurons{suffix}"] = dead_neurons(output.features, activation)
        found[f"dormant_neurons{suffix}"] = dormant_neurons(output.features)
        found[f"always_active_neurons{suffix}"] = always_active_neurons(output.preactivations[-1])
        found[f"collinearity{suffix}"] = collinearity(output.features)
    pairs = {
        "feature": (before.features, after.features),
        "preactivation": (before.preactivations[-1], after.preactivations[-1]),
        "all_preactivations": tuple(np.concatenate(x.preactivations, axis=1) for x in (before, after)),
    }
    for kind, pair in pairs.items():
        found[f"{kind}_drift"], found[f"{kind}_cosine"] = drift(*pair)
    return found
