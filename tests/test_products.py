"""Products with Boolean observations in three pieces, as on a GPU: exact to float32, also their gradients."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import purejaxppo as pjp
from purejaxppo import products
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Learner, make_learner
from purejaxppo.training.train import trainer_of

Array = jax.Array
BREAKOUT: dict[str, Any] = {
    "env": "gymnax/Breakout-MinAtar", "num_envs": 4, "num_steps": 128, "minibatch_size": 256, "num_epochs": 2,
    "hidden_sizes": (16,), "total_steps": 512, "num_log_points": 1, "num_plasticity_points": 0,
}  # fmt: skip


def use(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(products, "has_quick_units", lambda: backend == "gpu")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "gpu")


@pytest.mark.parametrize(
    ("backend", "capability", "is_quick"),
    [
        ("gpu", "9.0", True),
        ("gpu", "8.0", True),
        ("gpu", "8.9", False),
        ("gpu", "gfx942", False),
        ("cpu", "9.0", False),
    ],
)
def test_gpus_for_data_centres_have_quick_units(
    backend: str, capability: str, is_quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert products.has_quick_units() == is_quick
    assert products.is_left_boolean(jnp.dtype("bool")) == is_quick
    assert not products.is_left_boolean(jnp.dtype("uint8"))


def test_a_cpu_has_none() -> None:
    assert not products.has_quick_units()


def as_floats(x: Array, y: Array) -> Array:
    return jnp.matmul(x.astype("float32"), y, precision="highest")


class Torso(nn.Module):
    """Of one's own; it refuses Booleans."""

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Array, list[Array]]:
        assert obs.dtype == jnp.float32
        z = nn.Dense(16)(obs.reshape(obs.shape[0], -1))
        return nn.relu(z), [z]


def drawn(num_rows: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Booleans x [N, 40], weights [40, 5] and a gradient [N, 5]."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.bernoulli(keys[0], 0.3, (num_rows, 40))
    return x, jax.random.normal(keys[1], (40, 5)), jax.random.normal(keys[2], (num_rows, 5))


# A row or a column with a single 1 picks a number: three pieces of 8 bits give it back to its last bit.
of_any_size = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-100)


@given(arrays(np.float32, (4, 3), elements=of_any_size))
def test_a_number_that_is_picked_is_kept_to_the_bit(numbers: np.ndarray) -> None:
    one_hot = np.eye(4, dtype=bool)[[2, 0, 3, 1, 1]]
    np.testing.assert_array_equal(products.product_in_pieces(one_hot, numbers), numbers[[2, 0, 3, 1, 1]])
    np.testing.assert_array_equal(products.product_in_pieces(one_hot.T, numbers, True), numbers[[2, 0, 3, 1, 1]])


@pytest.mark.parametrize("num_rows", [1, 7, 300])
def test_it_is_as_near_to_the_product_in_float64_as_the_one_in_float32(num_rows: int) -> None:
    x, weights, gradient = drawn(num_rows)
    for found, plain, exact in (
        (products.product_in_pieces(x, weights), as_floats(x, weights), np.float64(x) @ np.float64(weights)),
        (
            products.product_in_pieces(x, gradient, True),
            as_floats(x.T, gradient),
            np.float64(x).T @ np.float64(gradient),
        ),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
        assert np.abs(found - exact).max() <= 2 * np.abs(plain - exact).max() + 1e-7


def test_gradients_and_their_gradients_are_those_of_the_plain_product() -> None:
    x, weights, gradient = drawn(300)

    def slopes(product: Any) -> tuple[Array, Array]:
        def loss(weights: Array) -> Array:
            return (jnp.tanh(product(x, weights)) * gradient).sum()

        def steepness(weights: Array) -> Array:
            return jnp.square(jax.grad(loss)(weights)).sum()

        return jax.grad(loss)(weights), jax.grad(steepness)(weights)

    found, plain = slopes(products.product_in_pieces), slopes(as_floats)
    for of_pieces, of_floats in zip(found, plain, strict=True):
        np.testing.assert_allclose(of_pieces, of_floats, rtol=0, atol=2e-6 * np.abs(of_floats).max())


def test_runs_side_by_side_are_runs_alone() -> None:
    each = [drawn(300, seed) for seed in range(3)]
    x, weights, gradient = (jnp.stack(of_all) for of_all in zip(*each, strict=True))

    def both(x: Array, weights: Array, gradient: Array) -> tuple[Array, Array]:
        value, back = jax.vjp(lambda weights: products.product_in_pieces(x, weights), weights)
        return value, back(gradient)[0]

    together = jax.vmap(both)(x, weights, gradient)
    for i, alone in enumerate(each):  # and with only some of their arguments mapped
        mapped_weights = jax.vmap(both, (None, 0, 0))(alone[0], weights, gradient)
        mapped_rows = jax.vmap(both, (0, None, 0))(x, alone[1], gradient)
        for mapped in (mapped_weights, mapped_rows):
            of_one = jax.tree.map(lambda x, i=i: x[i], mapped)
            chex.assert_trees_all_close(of_one, both(*alone), rtol=1e-6, atol=1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), both(*alone), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("rows", "columns", "dtype", "precision", "is_in_pieces"),
    [
        (256, 128, bool, "highest", True),
        (255, 128, bool, "highest", False),
        (256, 127, bool, "highest", False),
        (256, 128, bool, "default", False),
        (256, 128, "float32", "highest", False),
    ],
)
def test_large_products_that_are_to_be_exact_are_in_pieces(
    rows: int, columns: int, dtype: Any, precision: str, is_in_pieces: bool
) -> None:
    x = jax.random.bernoulli(jax.random.key(0), shape=(rows, columns)).reshape(-1, 1, columns).astype(dtype)
    weights = jax.random.normal(jax.random.key(1), (columns, 4))
    program = str(jax.make_jaxpr(lambda x, weights: products.product(x, weights, precision))(x, weights))
    assert ("bf16" in program) == is_in_pieces
    found = products.product(x, weights, precision)
    assert found.shape == (rows, 1, 4)
    np.testing.assert_allclose(found[:, 0], as_floats(x[:, 0], weights), atol=1e-5)


# Flat; images of four steps, whose patches have 144 numbers; through a torso of one's own, which gets floats.
FIELDS: list[dict[str, Any]] = [
    {}, {"torso": "minatar_conv", "frame_stack": 4, "share_trunk": True}, {"network": "test_products:Torso"},
]  # fmt: skip


def gpu_and_cpu(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> dict[str, tuple[Learner, Any]]:
    """A run on either, and its first update."""
    found = {}
    for backend in ("gpu", "cpu"):
        use(monkeypatch, backend)
        learner = make_learner(pjp.TrainConfig(**BREAKOUT | fields, diagnostics=not fields))
        state = init_run(learner, jax.random.key(0))
        segment = jax.jit(trainer_of(learner).segment)
        hparams = pjp.HyperParams(pfo_coef=1.0)
        program = str(jax.make_jaxpr(segment)(hparams, state))
        assert ("bf16[" in program) == (backend == "gpu" and "network" not in fields)
        found[backend] = learner, segment(hparams, state)
    return found


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_an_update_on_a_gpu_is_that_of_a_cpu(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_and_cpu(monkeypatch, **fields)
    (_, (on_gpu, of_gpu)), (_, (on_cpu, of_cpu)) = found["gpu"], found["cpu"]
    chex.assert_trees_all_close(on_gpu.params, on_cpu.params, rtol=1e-3, atol=1e-5)
    names = ["pfo_loss", "value_loss", *([] if fields else ["policy_rank", "kl", "clip_fraction"])]
    for name in names:
        assert float(of_gpu[name]) == pytest.approx(float(of_cpu[name]), rel=1e-3, abs=1e-6), name


@pytest.mark.usefixtures("on_gpu")
def test_networks_of_the_users_own_functions_can_be_differentiated_forward() -> None:
    learner = make_learner(pjp.TrainConfig(**BREAKOUT))
    state = init_run(learner, jax.random.key(0))
    obs = jax.random.bernoulli(jax.random.key(1), 0.3, (256, 10, 10, 4))
    networks = learner.networks_of(state, learner.both(state, obs))
    _, moved = jax.jvp(lambda params: networks.apply(params, obs)[0].outputs, (state.params,), (state.params,))
    assert jnp.isfinite(moved).all()
    np.testing.assert_allclose(networks.both(obs)[0].outputs, networks.policy.outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("on_gpu")
def test_booleans_that_are_to_be_scaled_are_scaled() -> None:
    learner = make_learner(pjp.TrainConfig(**BREAKOUT))
    obs = jnp.ones((1, 10, 10, 4), bool)
    assert learner.network_input(None, obs).dtype == jnp.bool_
    scaled = dataclasses.replace(learner, env=SimpleNamespace(observation_scale=2))
    np.testing.assert_array_equal(scaled.network_input(None, obs), jnp.full(obs.shape, 0.5))
