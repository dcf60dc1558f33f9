"""Dead neurons, norms and policy variance against the reference implementation's and against float64 NumPy."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_diagnostics_spectral import public_matrices

from purejaxppo.diagnostics.neurons import (
    collinearity,
    dead_neurons,
    dormant_neurons,
    feature_statistics,
    is_dead,
    joint_norm,
    policy_variance,
    variance,
)
from purejaxppo.errors import ConfigError

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "leaky_relu": jax.nn.leaky_relu}


@pytest.mark.parametrize("shape", ["512x64", "256x96"])
def test_agreement_with_the_reference_implementation(oracles: Path, shape: str) -> None:
    file, features = public_matrices(oracles, shape)
    for activation in ("relu", "tanh"):
        dead = jax.jit(jax.vmap(lambda x, activation=activation: dead_neurons(x, activation)))(features)
        np.testing.assert_array_equal(dead, file[f"expected/dead_{activation}"])
    statistics = jax.jit(jax.vmap(feature_statistics))(features)
    np.testing.assert_allclose(statistics.norm, file["expected/norm"], rtol=1e-5)
    np.testing.assert_array_equal(dormant_neurons(features), [slow.dormant_neurons(x) for x in features])
    np.testing.assert_allclose(collinearity(features), [slow.collinearity(x) for x in features], rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    spread=st.sampled_from([1e-5, 1e-2, 1.0, 30.0]),
)
def test_any_features(seed: int, activation: str, spread: float) -> None:
    rng = np.random.default_rng(seed)
    shift = rng.choice([-1e4, -3.0, 0.0, 3.0], size=16)
    features = np.asarray(ACTIVATIONS[activation](jnp.asarray(spread * rng.normal(size=(40, 16)) + shift, jnp.float32)))
    assert int(dead_neurons(features, activation)) == slow.dead_neurons(features, activation)
    assert int(dormant_neurons(features)) == slow.dormant_neurons(features)
    assert float(collinearity(features)) == pytest.approx(slow.collinearity(features), rel=1e-4, abs=1e-6)
    statistics = feature_statistics(features)
    assert float(statistics.norm) == pytest.approx(slow.mean_norm(features), rel=1e-5)
    assert float(statistics.mean) == pytest.approx(np.float64(features).mean(), rel=1e-4, abs=1e-6)
    assert float(statistics.std) == pytest.approx(slow.mean_deviation_over_dimensions(features), rel=1e-4)


def test_dead_means_on_every_sample() -> None:
    # Units: dead, alive on one sample only, always alive.
    relu = jnp.array([[0.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    assert dead_neurons(relu, "relu") == dead_neurons(relu, "gelu") == 1
    assert dead_neurons(-relu, "gelu") == 1  # -0.0 is 0; a negative gelu is alive
    assert dead_neurons(relu - 0.5, "leaky_relu") == 1
    assert dead_neurons(-relu - 0.5, "leaky_relu") == 3
    assert dead_neurons(0 * relu, "leaky_relu") == 0
    # Deviation over samples of (0, h) is h / sqrt(2), with n - 1: 0.0007 < 1e-3 < 0.00106.
    tanh = jnp.array([[0.9, 0.9, 0.9], [0.9, 0.901, 0.9015]])
    assert dead_neurons(tanh, "tanh") == 2
    assert dead_neurons(jnp.stack([relu, 0 * relu]), "relu").tolist() == [1, 3]


def test_of_nan_nobody_can_say_how_many_are_dead() -> None:
    for activation in ACTIVATIONS:
        one = jnp.zeros((8, 3)).at[4, 1].set(jnp.nan) - (activation == "leaky_relu")
        assert np.isnan(dead_neurons(jnp.full((8, 3), jnp.nan), activation))
        assert np.isnan(dead_neurons(one, activation))
        assert is_dead(one, activation).tolist() == [True, False, True]
        found = dead_neurons(jnp.stack([one, jnp.zeros((8, 3)) - (activation == "leaky_relu")]), activation)
        np.testing.assert_array_equal(found, [np.nan, 3])


def test_dormant_means_far_below_the_layer() -> None:
    rows = jnp.array([[8.0, -4.0, 0.0, 0.1], [0.0, 4.0, 0.1, 0.1]])
    assert dormant_neurons(rows) == 1  # activities 4, 4, 0.05, 0.1; limit 0.0509
    assert dormant_neurons(rows.at[1, 2].set(0.104)) == 0
    assert dormant_neurons(0 * rows) == 4
    assert dormant_neurons(jnp.ones((5, 1))) == 0
    assert dormant_neurons(jnp.stack([rows, 0 * rows])).tolist() == [1, 4]
    assert dormant_neurons(rows.at[0, 0].set(jnp.nan)) == 0


def test_collinearity_at_its_limits() -> None:
    ray = jnp.outer(jnp.arange(1.0, 9), jnp.array([1.0, -2, 0.5]))
    assert float(collinearity(ray)) == pytest.approx(1, rel=1e-5)
    assert float(collinearity(ray.at[:4].set(0))) == pytest.approx(1 / 4, rel=1e-5)  # 16 of 64 pairs
    assert float(collinearity(jnp.eye(5))) == pytest.approx(1 / 5, rel=1e-5)
    assert float(collinearity(jnp.concatenate([ray, -ray]))) == pytest.approx(0, abs=1e-12)
    assert float(collinearity(jnp.ones((7, 1)))) == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(collinearity(jnp.zeros((2, 6, 3))), 0)
    assert np.isnan(collinearity(ray.at[2, 1].set(jnp.nan)))


def test_unknown_activation_is_told() -> None:
    with pytest.raises(ConfigError, match="activation is 'elu', but must be one of"):
        dead_neurons(jnp.ones((2, 2)), "elu")


def test_variance_far_from_zero_and_of_one_value() -> None:
    x = 1e3 + 1e-3 * np.random.default_rng(0).normal(size=(1000, 3))
    x32 = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(variance(x32, axis=0), np.var(np.float64(x32), axis=0, ddof=1), rtol=1e-4)
    assert np.isnan(variance(jnp.ones((1, 3)), axis=0)).all()
    assert not variance(jnp.full((50, 3), 0.1), axis=0).any()


def test_joint_norm_is_the_norm_of_the_layers_side_by_side() -> None:
    rng = np.random.default_rng(0)
    layers = [jnp.asarray(rng.normal(size=(2, 30, width)), jnp.float32) for width in (3, 8, 5)]
    expected = [slow.mean_norm(np.concatenate([layer[run] for layer in layers], axis=1)) for run in range(2)]
    np.testing.assert_allclose(joint_norm(layers), expected, rtol=1e-6)


def test_policy_variance() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=64).astype(np.float32)
    assert float(policy_variance(probabilities)) == pytest.approx(slow.policy_variance(probabilities), rel=1e-5)
    loc, scale = rng.normal(size=(2, 64, 3)).astype(np.float32)
    both = np.concatenate([loc, scale], axis=1)
    assert float(policy_variance(loc, scale)) == pytest.approx(slow.policy_variance(both), rel=1e-5)
    assert float(policy_variance(jnp.full((64, 2), 0.3))) == 0
