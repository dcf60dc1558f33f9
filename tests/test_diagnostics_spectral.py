"""Spectral measures against the reference implementation's, against float64 NumPy, and where matrices degenerate."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from purejaxppo.diagnostics.routes import regression_r2, singular_values_and_r2
from purejaxppo.diagnostics.spectral import (
    SpectralMeasures,
    measures_of_spectrum,
    singular_values,
    spectral_measures,
    spectral_norms,
)
from purejaxppo.errors import ConfigError

# As in a trainer: vmapped over runs, jitted. Without a method: qr, and gram for tall matrices.
METHODS = (None, "qr", "gram")
MEASURE_RUNS = {method: jax.jit(jax.vmap(partial(spectral_measures, method=method))) for method in METHODS}
measure_runs = MEASURE_RUNS[None]
# Of sigma_1, what a singular value may be off, beyond float32 rounding of itself. gram: sqrt(2e-16) is 1.5e-8, and sums
# of N products add a few; qr: some eps of float32.
ATOL = {None: 2e-6, "qr": 2e-6, "gram": 1e-7}
every_method = pytest.mark.parametrize("method", METHODS)
INTEGER_RANKS = ("approximate_rank", "srank", "feature_rank", "numerical_rank")


def public_matrices(oracles: Path, shape: str) -> tuple[np.lib.npyio.NpzFile, np.ndarray]:
    file = np.load(oracles / f"public_ranks_{shape}.npz")
    return file, np.stack([file[f"features/{name}"] for name in file["names"]])


@every_method
@pytest.mark.parametrize("shape", ["512x64", "256x96"])
def test_measures_agree_with_the_reference_implementation(oracles: Path, shape: str, method: str | None) -> None:
    file, features = public_matrices(oracles, shape)
    measures = MEASURE_RUNS[method](features)
    rtol = 1e-5 if method == "gram" else 1e-3
    np.testing.assert_array_equal(measures.approximate_rank, file["expected/approximate_rank_pca"])
    np.testing.assert_array_equal(measures.srank, file["expected/srank_kumar"])
    np.testing.assert_array_equal(measures.feature_rank, file["expected/feature_rank_lyle"])
    np.testing.assert_allclose(measures.effective_rank, file["expected/effective_rank_vetterli"], rtol=rtol)
    slack = [int(name == "ill_conditioned" and method != "gram") for name in file["names"]]
    assert np.all(np.abs(measures.numerical_rank - file["expected_float32/pytorch_rank"]) <= slack)
    np.testing.assert_allclose(measures.sigma_1, file["expected/lambda_1"], rtol=1e-5)
    np.testing.assert_allclose(measures.participation_ratio, [slow.participation_ratio(x) for x in features], rtol=1e-3)
    for condition, sigma, matrix in zip(measures.condition_number, measures.singular_values, features, strict=True):
        assert_condition_agrees(condition, matrix)
        assert_singular_values_agree(sigma, matrix, method)
    noise = 2e-6 * np.asarray(measures.sigma_1)  # what float32 can know about a small singular value
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


def assert_singular_values_agree(found: jax.Array, features: np.ndarray, method: str | None) -> None:
    expected = slow.spectrum(features)
    rtol = 1e-6 if method == "gram" else 1e-5
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=ATOL[method] * expected[0])


def assert_measures_agree(measures: SpectralMeasures, features: np.ndarray, method: str | None) -> None:
    for name in INTEGER_RANKS:
        assert float(getattr(measures, name)) == getattr(slow, name)(features), name
    assert float(measures.effective_rank) == pytest.approx(slow.effective_rank(features), rel=1e-3)
    assert float(measures.participation_ratio) == pytest.approx(slow.participation_ratio(features), rel=1e-3)
    assert_condition_agrees(measures.condition_number, features)
    assert_singular_values_agree(measures.singular_values, features, method)
    sigma = slow.spectrum(features)
    root = np.sqrt(len(features))
    np.testing.assert_allclose(measures.sigma_1, sigma[0] / root, rtol=1e-5)
    np.testing.assert_allclose(measures.sigma_2, sigma[1] / root, rtol=1e-5, atol=2e-6 * sigma[0] / root)
    np.testing.assert_allclose(measures.sigma_min, sigma[-1] / root, rtol=1e-5, atol=2e-6 * sigma[0] / root)


@every_method
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(400, 12), (96, 12), (12, 12), (12, 40)]),
    decades=st.floats(0, 8),
    scale=st.floats(-4, 6),
    dead=st.integers(0, 6),
)
def test_measures_of_any_spectrum(
    method: str | None, seed: int, shape: tuple[int, int], decades: float, scale: float, dead: int
) -> None:
    rng = np.random.default_rng(seed)
    features = with_spectrum(seed, 10.0 ** (scale - decades * np.sort(rng.uniform(size=12))), *shape)
    features[:, rng.permutation(shape[1])[:dead]] = 0
    assume(slow.distance_to_a_threshold(features) > 1e-4)
    if method != "gram":  # in float32, a singular value is known to some eps of the largest
        sigma = slow.spectrum(features)
        assume(np.abs(sigma - 0.01 * np.sqrt(len(features))).min() > 2e-6 * sigma[0])
        assume(np.abs(sigma - max(shape) * slow.EPS_FLOAT32 * sigma[0]).min() > 5e-7 * sigma[0])
    assert_measures_agree(jax.tree.map(lambda x: x[0], MEASURE_RUNS[method](features[None])), features, method)


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


@every_method
@pytest.mark.parametrize("name", degenerate_matrices())
def test_measures_of_degenerate_matrices(name: str, method: str | None) -> None:
    features = degenerate_matrices()[name]
    measures = jax.tree.map(lambda x: x[0], MEASURE_RUNS[method](features[None]))
    assert_measures_agree(measures, features, method)


@every_method
def test_orthonormal_columns_have_every_rank_in_full(method: str | None) -> None:
    # 90 equal singular values sqrt(N): least k with k / 90 >= 0.99 is 90, effective rank 90, each sigma / sqrt(N) = 1.
    features = np.sqrt(128) * np.linalg.qr(np.random.default_rng(0).normal(size=(128, 90)))[0]
    measures = jax.tree.map(lambda x: x[0], MEASURE_RUNS[method](np.float32(features)[None]))
    assert [float(getattr(measures, name)) for name in INTEGER_RANKS] == [90, 90, 90, 90]
    assert float(measures.effective_rank) == pytest.approx(90, rel=1e-5)
    np.testing.assert_allclose([measures.sigma_1, measures.sigma_2, measures.sigma_min], 1, rtol=1e-5)
    assert float(measures.participation_ratio) == pytest.approx(90, rel=1e-5)
    assert float(measures.condition_number) == pytest.approx(1, rel=1e-5)


@every_method
def test_one_unit_and_rank_one(method: str | None) -> None:
    one = MEASURE_RUNS[method](jnp.arange(8.0).reshape(1, 8, 1))
    assert one.participation_ratio == one.condition_number == 1
    rank_one = MEASURE_RUNS[method](jnp.outer(jnp.arange(8.0), jnp.array([1.0, 0, 2, 0]))[None])
    assert float(rank_one.participation_ratio[0]) == pytest.approx(1, rel=1e-6)
    assert np.isinf(rank_one.condition_number)


def collapsed(seed: int, rank: int, dead: int, copies: int, noise: float, scale: float) -> np.ndarray:
    """Features [400, 12] of a few directions, float32 noise, dead units and copies of the first one."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(400, rank)) @ rng.normal(size=(rank, 12)) + noise * rng.normal(size=(400, 12))
    features[:, 12 - copies :] = features[:, :1]
    features[:, rng.permutation(12)[:dead]] = 0
    return np.float32(scale) * np.float32(features)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 4),
    dead=st.integers(0, 8),
    copies=st.integers(0, 6),
    noise=st.sampled_from([0.0, 1e-7, 1e-4]),
    scale=st.sampled_from([2.0**-66, 1.0, 2.0**66]),
)
def test_routes_agree_on_collapsed_matrices(
    seed: int, rank: int, dead: int, copies: int, noise: float, scale: float
) -> None:
    features = collapsed(seed, rank, dead, copies, noise, scale)
    gram, qr = (jax.tree.map(lambda x: x[0], MEASURE_RUNS[method](features[None])) for method in ("gram", "qr"))
    largest = float(gram.singular_values[0])
    np.testing.assert_allclose(gram.singular_values, qr.singular_values, rtol=1e-5, atol=2e-6 * largest)
    np.testing.assert_allclose(gram.effective_rank, qr.effective_rank, rtol=1e-4)
    is_known = bool(
        0.01 * np.sqrt(len(features)) > 1e-5 * largest
    )  # otherwise the feature rank counts float32 rounding
    if slow.distance_to_a_threshold(features) > 1e-3:
        for name in (*INTEGER_RANKS[:2], "numerical_rank", *["feature_rank"] * is_known):
            assert getattr(gram, name) == getattr(qr, name) == getattr(slow, name)(features), name


@pytest.mark.parametrize("shape", [(400, 6), (513, 6), (40, 6), (6, 6), (6, 40)])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_both_in_one_are_the_two_apart(shape: tuple[int, int], shift: float) -> None:
    """Tall, with whole blocks of 256 rows and rows that remain, neither, square and wide; far from the origin too."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(2, *shape)) * np.logspace(0, -2, shape[1]) + shift).astype(np.float32)
    target = features[..., 0] - shift + rng.normal(size=(2, shape[0])).astype(np.float32)
    sigma, r2 = jax.jit(jax.vmap(singular_values_and_r2))(features, target)
    np.testing.assert_allclose(r2, jax.jit(jax.vmap(regression_r2))(features, target), rtol=1e-6)
    np.testing.assert_allclose(r2, [slow.probe_r2(*x) for x in zip(features, target, strict=True)], rtol=1e-4)
    expected = np.stack([slow.spectrum(x) for x in features])
    method = "gram" if shape[0] >= 400 else "qr"
    np.testing.assert_allclose(sigma, expected, rtol=1e-6, atol=ATOL[method] * expected.max())
    apart = jax.jit(singular_values)(features)
    np.testing.assert_allclose(sigma, apart, rtol=1e-6, atol=1e-7 * expected.max())


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


@every_method
def test_zero_matrix(method: str | None) -> None:
    measures = jax.tree.map(lambda x: x[0], MEASURE_RUNS[method](jnp.zeros((1, 16, 4))))
    assert not np.any(measures.singular_values)
    assert measures.effective_rank == measures.approximate_rank == measures.srank == 1
    assert measures.feature_rank == measures.numerical_rank == 0
    assert measures.sigma_1 == measures.sigma_2 == measures.sigma_min == 0
    assert measures.participation_ratio == 1
    assert np.isinf(measures.condition_number)


@pytest.mark.timeout(120)
@every_method
@pytest.mark.parametrize("shape", [(64, 8), (8, 64)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_matrices_are_nan_and_spoil_nobody_else(
    bad: float, shape: tuple[int, int], method: str | None
) -> None:
    healthy = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    one, column, every = healthy.copy(), healthy.copy(), np.full_like(healthy, bad)
    one[3, 5] = bad
    column[:, 0] = bad
    measures = MEASURE_RUNS[method](np.stack([one, healthy, column, every]))
    alone = MEASURE_RUNS[method](healthy[None])
    for name, values in vars(measures).items():
        assert np.isnan(values[jnp.array([0, 2, 3])]).all(), name
        np.testing.assert_allclose(values[1], getattr(alone, name)[0], rtol=1e-5, err_msg=name)


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


def lowered(platform: str) -> str:
    """The text of spectra and regressions of [3, 8] matrices, tall and not, for a platform that need not be here."""

    def both(tall: jax.Array, other: jax.Array, target: jax.Array) -> tuple[jax.Array, ...]:
        in_one = jax.vmap(jax.vmap(singular_values_and_r2))
        return *in_one(tall, target), *in_one(other, target[..., :20]), singular_values(tall), singular_values(other)

    arguments = (jnp.ones((3, 8, 200, 4)), jnp.ones((3, 8, 20, 5)), jnp.ones((3, 8, 200)))
    return jax.jit(both).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def custom_calls(text: str) -> list[tuple[str, str]]:
    """Name of each library call in a program's text, and the shape and type of its first argument."""
    return re.findall(r"custom_call @(\w+)\(.* : \(tensor<(\w+)>", text)


def test_no_library_call_on_a_cpu_is_batched() -> None:
    """Several independent LAPACK calls on batches in one program can deadlock XLA's CPU runtime."""
    calls = [(name, shape) for name, shape in custom_calls(lowered("cpu")) if name.startswith("lapack")]
    assert {name for name, _ in calls} >= {"lapack_dsyevd_ffi", "lapack_sgeqrf_ffi", "lapack_sgesdd_ffi"}
    assert all(shape.count("x") == 2 for _, shape in calls), calls


def test_no_library_call_on_a_gpu_is_looped() -> None:
    """Neither QR nor SVD, which jaxlib runs matrix after matrix; eigenvalues of all matrices in one call."""
    calls = [(name, shape) for name, shape in custom_calls(lowered("cuda")) if name.startswith(("cu", "lapack"))]
    assert {name for name, _ in calls} == {"cusolver_syevd_ffi", "cusolver_potrf_ffi"}
    for _, shape in calls:
        *sizes, dtype = shape.split("x")
        assert dtype == "f64", calls
        assert np.prod([int(size) for size in sizes[:-2]]) == 3 * 8, calls


def test_no_float64_on_a_tpu() -> None:
    text = lowered("tpu")
    assert "f64" not in text
    assert "Qr" in {name for name, _ in custom_calls(text)}


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match=r"method is 'svd', but must be 'gram', 'qr' or None\."):
        singular_values(jnp.ones((4, 2)), method="svd")
    for shape in ((4,), (0, 4), (4, 0)):
        with pytest.raises(ConfigError, match="features has shape"):
            spectral_measures(jnp.ones(shape))
