"""Spectral measures against the reference implementation's, against float64 NumPy, and where matrices degenerate."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from purejaxppo.diagnostics import probe
from purejaxppo.diagnostics.spectral import (
    SpectralMeasures,
    measures_of_spectrum,
    singular_values,
    spectral_measures,
    spectral_norms,
)
from purejaxppo.errors import ConfigError

# As in a trainer: vmapped over runs, jitted.
measure_runs = jax.jit(jax.vmap(spectral_measures))
INTEGER_RANKS = ("approximate_rank", "srank", "feature_rank", "numerical_rank")


def public_matrices(oracles: Path, shape: str) -> tuple[np.lib.npyio.NpzFile, np.ndarray]:
    file = np.load(oracles / f"public_ranks_{shape}.npz")
    return file, np.stack([file[f"features/{name}"] for name in file["names"]])


@pytest.mark.parametrize("shape", ["512x64", "256x96"])
def test_measures_agree_with_the_reference_implementation(oracles: Path, shape: str) -> None:
    file, features = public_matrices(oracles, shape)
    measures = measure_runs(features)
    np.testing.assert_array_equal(measures.approximate_rank, file["expected/approximate_rank_pca"])
    np.testing.assert_array_equal(measures.srank, file["expected/srank_kumar"])
    np.testing.assert_array_equal(measures.feature_rank, file["expected/feature_rank_lyle"])
    np.testing.assert_allclose(measures.effective_rank, file["expected/effective_rank_vetterli"], rtol=1e-3)
    slack = [int(name == "ill_conditioned") for name in file["names"]]
    assert np.all(np.abs(measures.numerical_rank - file["expected_float32/pytorch_rank"]) <= slack)
    np.testing.assert_allclose(measures.sigma_1, file["expected/lambda_1"], rtol=1e-5)
    np.testing.assert_allclose(measures.participation_ratio, [slow.participation_ratio(x) for x in features], rtol=1e-3)
    for condition, matrix in zip(measures.condition_number, features, strict=True):
        assert_condition_agrees(condition, matrix)
    noise = 1e-6 * np.asarray(measures.sigma_1)  # what float32 can know about a small singular value
    assert np.all(np.abs(measures.sigma_2 - file["expected/lambda_2"]) < noise)
    assert np.all(np.abs(measures.sigma_min - file["expected/lambda_N"]) < noise)


def with_spectrum(seed: int, sigma: np.ndarray, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(rows, len(sigma))))[0]
    v = np.linalg.qr(rng.normal(size=(columns, len(sigma))))[0]
    return (u * sigma @ v.T).astype(np.float32)


def assert_condition_agrees(condition: jax.Array, features: np.ndarray) -> None:
    """Within 1e-3 up to 1e3, and above as well as float32 knows sigma_min: to some eps sigma_1."""
    expected = slow.condition_number(features)
    assert float(1 / condition) == pytest.approx(1 / expected, rel=1e-3 if expected < 1e3 else 0, abs=1e-6)


def assert_measures_agree(measures: SpectralMeasures, features: np.ndarray) -> None:
    for name in INTEGER_RANKS:
        assert float(getattr(measures, name)) == getattr(slow, name)(features), name
    assert float(measures.effective_rank) == pytest.approx(slow.effective_rank(features), rel=1e-3)
    assert float(measures.participation_ratio) == pytest.approx(slow.participation_ratio(features), rel=1e-3)
    assert_condition_agrees(measures.condition_number, features)
    sigma = slow.spectrum(features)
    np.testing.assert_allclose(measures.singular_values, sigma, rtol=1e-5, atol=2e-6 * sigma[0])
    root = np.sqrt(len(features))
    np.testing.assert_allclose(measures.sigma_1, sigma[0] / root, rtol=1e-5)
    np.testing.assert_allclose(measures.sigma_2, sigma[1] / root, rtol=1e-5, atol=2e-6 * sigma[0] / root)
    np.testing.assert_allclose(measures.sigma_min, sigma[-1] / root, rtol=1e-5, atol=2e-6 * sigma[0] / root)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(96, 12), (12, 12), (12, 40)]),
    decades=st.floats(0, 8),
    scale=st.floats(-4, 6),
    dead=st.integers(0, 6),
)
def test_measures_of_any_spectrum(seed: int, shape: tuple[int, int], decades: float, scale: float, dead: int) -> None:
    rng = np.random.default_rng(seed)
    features = with_spectrum(seed, 10.0 ** (scale - decades * np.sort(rng.uniform(size=12))), *shape)
    features[:, rng.permutation(shape[1])[:dead]] = 0
    assume(slow.distance_to_a_threshold(features) > 1e-4)
    assert_measures_agree(jax.tree.map(lambda x: x[0], measure_runs(features[None])), features)


def degenerate_matrices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(256, 32)).astype(np.float32)
    rank_one = np.outer(rng.normal(size=256), rng.normal(size=32))
    return {
        "rank one and noise": (rank_one + 1e-6 * rng.normal(size=(256, 32))).astype(np.float32),
        "columns over eight decades": normal * np.logspace(0, -8, 32, dtype=np.float32),
        "columns over eight decades, ascending": normal * np.logspace(-8, 0, 32, dtype=np.float32),
        "duplicates": np.tile(normal[:, :8], (1, 4)),
        "all zero but one column": normal * (np.arange(32) == 5),
        "all zero but one entry": np.where(np.arange(256 * 32) == 77, 3.0, 0.0).reshape(256, 32).astype(np.float32),
        "constant": np.full((256, 32), 7.0, np.float32),
        "huge": normal * np.float32(1e30),
        "tiny": normal * np.float32(1e-30),
    }


@pytest.mark.parametrize("name", degenerate_matrices())
def test_measures_of_degenerate_matrices(name: str) -> None:
    features = degenerate_matrices()[name]
    measures = jax.tree.map(lambda x: x[0], measure_runs(features[None]))
    assert_measures_agree(measures, features)


def test_orthonormal_columns_have_every_rank_in_full() -> None:
    # 90 equal singular values sqrt(N): least k with k / 90 >= 0.99 is 90, effective rank 90, each sigma / sqrt(N) = 1.
    features = np.sqrt(128) * np.linalg.qr(np.random.default_rng(0).normal(size=(128, 90)))[0]
    measures = jax.tree.map(lambda x: x[0], measure_runs(np.float32(features)[None]))
    assert [float(getattr(measures, name)) for name in INTEGER_RANKS] == [90, 90, 90, 90]
    assert float(measures.effective_rank) == pytest.approx(90, rel=1e-5)
    np.testing.assert_allclose([measures.sigma_1, measures.sigma_2, measures.sigma_min], 1, rtol=1e-5)
    assert float(measures.participation_ratio) == pytest.approx(90, rel=1e-5)
    assert float(measures.condition_number) == pytest.approx(1, rel=1e-5)


def test_one_unit_and_rank_one() -> None:
    one = measure_runs(jnp.arange(8.0).reshape(1, 8, 1))
    assert one.participation_ratio == one.condition_number == 1
    rank_one = measure_runs(jnp.outer(jnp.arange(8.0), jnp.array([1.0, 0, 2, 0]))[None])
    assert float(rank_one.participation_ratio[0]) == pytest.approx(1, rel=1e-6)
    assert np.isinf(rank_one.condition_number)


@jax.jit
def factor_of(features: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the probe regresses on: R of [1 | F - mean | target], and that mean."""
    with mock.patch.object(probe, "r2_of_factor", lambda factor: factor):
        return probe.probe_r2(features, target), features.mean(axis=0)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(40, 6), (6, 6), (6, 40)]),
    decades=st.floats(0, 6),
    scale=st.floats(-20, 20),
    shift=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_factorisations_give_the_singular_values_and_the_regression(
    seed: int, shape: tuple[int, int], decades: float, scale: float, shift: float
) -> None:
    """The spectrum is that of F; R^T R of the probe is the Gram matrix of [1 | F - mean | target]."""
    rng = np.random.default_rng(seed)
    features = with_spectrum(seed, 10.0 ** -np.linspace(0, decades, 6), *shape)
    features = np.float32(10**scale * (features + shift * np.abs(features).max() * rng.uniform(size=shape[1])))
    target = rng.normal(size=shape[0]).astype(np.float32)
    expected = slow.spectrum(features)
    np.testing.assert_allclose(jax.jit(singular_values)(features), expected, rtol=1e-5, atol=2e-6 * expected[0])
    factor, mean = factor_of(features, target)
    np.testing.assert_allclose(mean, np.float64(features).mean(axis=0), rtol=1e-5, atol=1e-6 * expected[0])
    columns = np.c_[np.ones(shape[0]), np.float64(features) - np.asarray(mean), np.float64(probe.centred(target))]
    norms = np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
    gram = (columns / norms).T @ (columns / norms)
    factor = np.float64(factor) / norms
    np.testing.assert_allclose(factor.T @ factor, gram, atol=1e-5)


norms_of_all = jax.jit(spectral_norms)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gap=st.floats(-6, 0), scale=st.sampled_from([1e-25, 1.0, 1e25]))
def test_spectral_norms(seed: int, gap: float, scale: float) -> None:
    """Of layers of several shapes; the second singular value as close to the first as you like."""
    rng = np.random.default_rng(seed)
    sigma = np.r_[1, (1 - 10**gap) * rng.uniform(0.999, 1, 15)] * scale
    layers = [rng.normal(size=(3, 20)), with_spectrum(seed, sigma, 16, 16), rng.normal(size=(20, 1)), np.zeros((4, 4))]
    layers = [np.asarray(x, np.float32) for x in layers]
    np.testing.assert_allclose(norms_of_all(layers), [np.linalg.norm(np.float64(x), 2) for x in layers], rtol=1e-3)


def test_spectral_norms_where_nothing_separates_the_eigenvalues() -> None:
    # The worst spectrum: 511 values below the first by just as much as 2^11 powers weight most.
    below = np.sqrt(1 - np.linspace(5e-4, 5e-3, 8))
    worst = [np.diag(np.r_[1, np.full(511, x)]).astype(np.float32) for x in below]
    found = jax.jit(spectral_norms)(worst)
    assert 0.999 <= found.min() <= found.max() <= 1 + 1e-5
    assert found.min() < 0.9995  # it is a bad spectrum
    np.testing.assert_allclose(norms_of_all([np.eye(30, dtype=np.float32)]), 1, rtol=1e-5)
    bad = norms_of_all([np.full((2, 2), np.nan, np.float32), np.float32([[np.inf, 1]]), np.ones((2, 2), np.float32)])
    assert np.isnan(bad[:2]).all()
    assert bad[2] == pytest.approx(2, rel=1e-6)


def test_a_partial_sum_that_meets_the_threshold_has_reached_it() -> None:
    # 99 of 100 equal singular values are exactly 0.99 of the sum. A geometric spectrum with ratio 10^(-1/9) leaves out
    # 10^-2 after 18 values, its squares after 9.
    # 98.99 of 100 is not quite enough.
    equal = np.ones(100)
    geometric = 10 ** (-np.arange(100) / 9)
    short = np.r_[98.99, 1.01, np.zeros(98)]
    sigma = np.stack([equal, geometric, short]).astype(np.float32)
    measures = jax.jit(lambda x: measures_of_spectrum(x, num_samples=1000, num_dimensions=100))(sigma)
    np.testing.assert_array_equal(measures.approximate_rank, [99, 9, 1])
    np.testing.assert_array_equal(measures.srank, [99, 18, 2])


def test_zero_matrix() -> None:
    measures = jax.tree.map(lambda x: x[0], measure_runs(jnp.zeros((1, 16, 4))))
    assert not np.any(measures.singular_values)
    assert measures.effective_rank == measures.approximate_rank == measures.srank == 1
    assert measures.feature_rank == measures.numerical_rank == 0
    assert measures.sigma_1 == measures.sigma_2 == measures.sigma_min == 0
    assert measures.participation_ratio == 1
    assert np.isinf(measures.condition_number)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", [(64, 8), (8, 64)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_matrices_are_nan_and_spoil_nobody_else(bad: float, shape: tuple[int, int]) -> None:
    healthy = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    one, column, every = healthy.copy(), healthy.copy(), np.full_like(healthy, bad)
    one[3, 5] = bad
    column[:, 0] = bad
    measures = measure_runs(np.stack([one, healthy, column, every]))
    alone = measure_runs(healthy[None])
    for name, values in vars(measures).items():
        assert np.isnan(values[jnp.array([0, 2, 3])]).all(), name
        np.testing.assert_array_equal(values[1], getattr(alone, name)[0], err_msg=name)


def test_leading_axes_transposition_and_dtype() -> None:
    features = np.random.default_rng(0).normal(size=(2, 3, 40, 6)).astype(np.float32)
    sigma = jax.jit(singular_values)(features)
    assert sigma.shape == (2, 3, 6)
    assert sigma.dtype == jnp.float32
    expected = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(sigma, expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(singular_values)(features.swapaxes(-1, -2)), expected, rtol=1e-5)
    assert jax.eval_shape(singular_values, jnp.ones((4, 2), jnp.int32)).dtype == jnp.float32
    assert not measure_runs(jnp.ones((1, 4, 1))).sigma_2


def test_one_qr_and_one_svd_in_a_program() -> None:
    """Several independent LAPACK calls in one program can deadlock XLA's CPU runtime."""
    text = jax.jit(jax.vmap(spectral_measures)).lower(jnp.ones((3, 8, 20, 4))).as_text()
    assert text.count("@lapack_sgeqrf") == 1
    assert text.count("@lapack_sgesdd") == 1


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="method is 'gram'"):
        singular_values(jnp.ones((4, 2)), method="gram")
    for shape in ((4,), (0, 4), (4, 0)):
        with pytest.raises(ConfigError, match="features has shape"):
            spectral_measures(jnp.ones(shape))
