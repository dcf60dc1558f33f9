"""Ratios, KL estimators and drift against float64 NumPy, and at the limit of no change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from purejaxppo.diagnostics.trust_region import drift, joint_drift, kl_k1, kl_k3, ratio_statistics

statistics_of_runs = jax.jit(jax.vmap(ratio_statistics))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1e-3, 0.1, 0.3, 3.0]),
    shift=st.sampled_from([0.0, 0.5, -0.5]),
    clip_eps=st.sampled_from([0.1, 0.2]),
)
def test_ratio_statistics_of_any_ratios(seed: int, spread: float, shift: float, clip_eps: float) -> None:
    log_ratio = (shift + spread * np.random.default_rng(seed).normal(size=50)).astype(np.float32)
    expected = slow.ratio_statistics(log_ratio, clip_eps)
    metrics = statistics_of_runs(log_ratio[None], jnp.array([clip_eps]))
    assert metrics.keys() == expected.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value[0], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_ratio_statistics_by_hand() -> None:
    # Ratios 0.5, 1, 1.5, 2.5 at eps = 0.2: above 1.2 are 1.5 and 2.5, below 0.8 is 0.5. One value has no deviation.
    metrics = ratio_statistics(jnp.log(jnp.array([0.5, 1.0, 1.5, 2.5])), 0.2)
    expected = {"ratio_mean": 1.375, "ratio_above_mean": 2.0, "ratio_above_std": np.sqrt(0.5), "ratio_above_max": 2.5}
    expected |= {"ratio_below_mean": 0.5, "ratio_below_min": 0.5, "ratio_below_max": 0.5, "ratio_below_std": np.nan}
    expected |= {"ratio_above_fraction": 0.5, "ratio_below_fraction": 0.25, "excess_ratio": 4.0, "ratio_min": 0.5}
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_nothing_outside_is_nan() -> None:
    metrics = ratio_statistics(jnp.zeros(8), 0.2)
    for name, value in metrics.items():
        if name.endswith("fraction") or name == "ratio_std":
            assert value == 0, name
        elif name in ("ratio_mean", "ratio_min", "ratio_max"):
            assert value == 1, name
        else:
            assert np.isnan(value), name


def test_kl_estimators() -> None:
    log_ratio = (0.3 * np.random.default_rng(0).normal(size=1000)).astype(np.float32)
    wide = np.float64(log_ratio)
    assert float(kl_k1(log_ratio)) == pytest.approx(-wide.mean(), rel=1e-4)
    assert float(kl_k3(log_ratio)) == pytest.approx((np.exp(wide) - 1 - wide).mean(), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(-20, 20, width=32))
@example(0.009)
@example(-0.009)
def test_k3_is_accurate_and_never_negative(log_ratio: float) -> None:
    value = float(kl_k3(jnp.array([log_ratio], jnp.float32)))
    exact = np.expm1(np.longdouble(log_ratio)) - np.longdouble(log_ratio)
    assert value >= 0
    assert value == pytest.approx(float(exact), rel=3e-4, abs=1e-30)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_kl_estimators_expect_the_exact_kl_of_the_reference_implementation(oracles: Path, estimator: Callable) -> None:
    file = np.load(oracles / "public_loss_discrete.npz")
    old, new = (jax.nn.log_softmax(np.float32(file[f"{time}/logits"])) for time in ("old", "new"))
    per_action = estimator((new - old)[..., None])  # the estimate from one sample of each action in each state
    expectation = (jnp.exp(old) * per_action).sum(axis=1).mean()
    np.testing.assert_allclose(expectation, np.mean(file["expected/kl"]), rtol=1e-4)


def test_drift() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 3, 40, 7)).astype(np.float32)
    after[0, 5] = 0
    difference, cosine = drift(before, after)
    expected = np.array([slow.drift(b, a) for b, a in zip(before, after, strict=True)])
    np.testing.assert_allclose(difference, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(cosine, expected[:, 1], rtol=1e-4, atol=1e-6)


def test_joint_drift_is_the_drift_of_the_layers_side_by_side() -> None:
    rng = np.random.default_rng(0)
    before, after = ([rng.normal(size=(40, w)).astype(np.float32) for w in (3, 9)] for _ in range(2))
    joint = joint_drift(before, after)
    np.testing.assert_allclose(joint, drift(np.concatenate(before, 1), np.concatenate(after, 1)), rtol=1e-5)


def test_limits_of_drift() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 7)), jnp.float32)
    np.testing.assert_allclose(drift(x, x), (0, 1), atol=1e-6)
    np.testing.assert_allclose(drift(x, -x)[1], -1, rtol=1e-6)
    np.testing.assert_allclose(drift(x, 3 * x)[1], 1, rtol=1e-6)
    np.testing.assert_allclose(drift(jnp.zeros((40, 7)), x)[1], 0)
    np.testing.assert_allclose(drift(1e-25 * x, 1e-25 * x)[0], 0)
