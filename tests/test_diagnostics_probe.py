"""The linear probe and the explained variance against float64 NumPy, and where regressions degenerate."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_diagnostics_spectral import public_matrices, with_spectrum

from purejaxppo.diagnostics.probe import centred, explained_variance, probe_r2
from purejaxppo.diagnostics.routes import regression_r2

# gram32, a TPU's, tells units apart that differ by more than 1e-3 of their norm: tests of smaller differences leave it
# out or compare it to its own formula.
PROBES = {
    route: jax.jit(lambda features, target, route=route: regression_r2(features, centred(target), route))
    for route in ("gram", "gram32")
} | {None: jax.jit(probe_r2)}
every_route = pytest.mark.parametrize("route", PROBES)
probe = PROBES[None]


def targets_of(features: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Noise, a linear function of the features, and half of each."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=len(features))
    linear = np.float64(features) @ rng.normal(size=features.shape[1])
    linear = (linear - linear.mean()) / max(linear.std(), 1e-300)
    return {name: np.float32(x) for name, x in {"noise": noise, "linear": linear, "both": noise + linear}.items()}


@pytest.mark.parametrize("shape", ["512x64", "256x96"])
def test_features_of_the_reference_implementation(oracles: Path, shape: str) -> None:
    file, features = public_matrices(oracles, shape)
    for name, matrix in zip(file["names"], features, strict=True):
        for kind, target in targets_of(matrix, 0).items():
            found = float(probe(matrix, 3 + target))
            if name == "ill_conditioned":  # from 1 to 1e-7 without a gap: what counts depends on the cutoff
                low, high = (slow.probe_r2(matrix, target, cutoff) for cutoff in (1e-4, 1e-6))
                assert low - 1e-3 < found < high + 1e-3, (kind, found, low, high)
            else:
                assert found == pytest.approx(slow.probe_r2(matrix, target), rel=1e-3), (name, kind)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(200, 16), (24, 16), (17, 16)]),
    rank=st.integers(1, 16),
    decades=st.floats(0, 2),
    scale=st.sampled_from([2.0**-66, 2.0**-10, 1.0, 2.0**66]),
    shift=st.sampled_from([0.0, 1.0, 100.0]),
    dead=st.integers(0, 8),
    constant=st.integers(0, 8),
    kind=st.sampled_from(["noise", "linear", "both"]),
)
def test_any_features(
    seed: int,
    shape: tuple[int, int],
    rank: int,
    decades: float,
    scale: float,
    shift: float,
    dead: int,
    constant: int,
    kind: str,
) -> None:
    """Exactly collinear, dead and constant units, far from the origin, of any size."""
    rng = np.random.default_rng(seed)
    basis = with_spectrum(seed, 10.0 ** -np.linspace(0, decades, rank), shape[0], rank) * np.sqrt(shape[0])
    # Whole multiples of 2^-10, small ones of 1, powers of 2 as scales: collinear without any rounding (which, far from
    # the origin, would be as large as the cutoff).
    basis = np.round(basis * 1024) / 1024
    features = np.float32(scale) * np.float32(basis @ rng.integers(-3, 4, size=(rank, shape[1])) + shift)
    features[:, :dead] = 0
    features[:, dead : dead + constant] = np.float32(0.7 * scale)
    target = targets_of(features, seed)[kind]
    if not np.ptp(features, axis=0).any():
        found = float(probe(features, target + 1))
        assert np.isnan(found) if np.ptp(target) == 0 else found == 0
        return
    assert float(probe(features, target)) == pytest.approx(slow.probe_r2(features, target), rel=1e-3, abs=2e-5)


@every_route
def test_limits(route: str | None) -> None:
    probe = PROBES[route]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 7)).astype(np.float32)
    target = rng.normal(size=100).astype(np.float32)
    assert float(probe(features, 5 - features[:, 2])) == pytest.approx(1, abs=1e-5)
    assert probe(0 * features, target) == probe(0 * features + 0.9, target) == 0
    assert np.isnan(probe(features, 0 * target + 0.1))
    # One unit: the squared correlation. Features and target orthogonal, all means 0: nothing.
    assert float(probe(features[:, :1], target)) == pytest.approx(np.corrcoef(features[:, 0], target)[0, 1] ** 2, 1e-4)
    hadamard = np.float32([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert float(probe(hadamard[:, :2], hadamard[:, 2])) == pytest.approx(0, abs=1e-6)
    assert float(probe(features[:5], target[:5])) == pytest.approx(1, abs=1e-5)  # more units than samples
    assert np.isnan(probe(features, np.where(np.arange(100) == 3, np.nan, target)))
    assert np.isnan(probe(np.where(np.eye(100, 7) == 1, np.inf, features), target))


def test_nothing_depends_on_scale_order_or_copies_of_units() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 12)).astype(np.float32)
    target = features @ rng.normal(size=12).astype(np.float32) + 3 * rng.normal(size=300).astype(np.float32)
    expected = slow.probe_r2(features, target)
    assert 0.2 < expected < 0.9
    scales = np.logspace(-12, 12, 12, dtype=np.float32)
    for other in (features * scales, features[:, ::-1], np.tile(features, 3), features @ np.tri(12, dtype=np.float32)):
        assert float(probe(other, target)) == pytest.approx(expected, rel=1e-4)
    # Two units that differ by 1e-3 of their norm, and a third one that is made of them.
    near = np.c_[features[:, :1], features[:, :1] + 1e-3 * features[:, 1:2], features[:, 1:2], features[:, 2:]]
    assert float(probe(near, target)) == pytest.approx(expected, rel=1e-3)


def r2_with_floor(features: np.ndarray, target: np.ndarray, floor: float) -> float:
    """Of a ridge regression in float64 on units of norm 1: what R^2 with a floor under the eigenvalues is."""
    x, y = np.float64(features), np.float64(target)
    x, y = x - x.mean(axis=0), y - y.mean()
    norms = np.linalg.norm(x, axis=0)
    u, sigma, _ = np.linalg.svd(x[:, norms > 0] / norms[norms > 0], full_matrices=False)
    return float(np.sum((u.T @ y) ** 2 * sigma**2 / (sigma**2 + floor)) / np.sum(y**2))


@pytest.mark.parametrize(("route", "floor", "atol"), [("gram", 1e-12, 2e-5), ("gram32", 1e-6, 2e-3)])
@pytest.mark.parametrize("rank", [1, 3, 16, 64])
@pytest.mark.parametrize("kind", ["linear", "relu", "copies"])
def test_collapsed_features_and_a_floor(route: str, floor: float, atol: float, rank: int, kind: str) -> None:
    """64 units of float32: rounding leaves some eigenvalues of their correlations below 0."""
    rng = np.random.default_rng(rank)
    basis = rng.normal(size=(1024, rank))
    features = basis @ rng.normal(size=(rank, 64))
    if kind == "relu":
        features = np.maximum(features, 0)
    if kind == "copies":
        features = np.repeat(features[:, :16], 4, axis=1)
    features, target = np.float32(features), np.float32(basis[:, 0] + 2 * rng.normal(size=1024))
    expected = r2_with_floor(features, target, floor)
    assert float(PROBES[route](features, target)) == pytest.approx(expected, abs=atol)


def test_explained_variance() -> None:
    rng = np.random.default_rng(0)
    target, value = (100 + rng.normal(size=(2, 3, 80))).astype(np.float32)
    expected = [slow.explained_variance(t, v) for t, v in zip(target, value, strict=True)]
    np.testing.assert_allclose(explained_variance(target, value), expected, rtol=1e-3)
    np.testing.assert_allclose(explained_variance(target, target - 7), 1, rtol=1e-6)
    np.testing.assert_allclose(explained_variance(target, jnp.full(target.shape, 2.0)), 0, atol=1e-4)
    assert np.isnan(explained_variance(jnp.full((80,), 0.1), value[0]))
