"""Products of matrices: what is exact to float32 on every platform, and that nothing but the networks ever is less."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo import blas
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import make_learner
from purejaxppo.training import plasticity
from purejaxppo.training.train import trainer_of

HIGHEST = jax.lax.Precision.HIGHEST
SMALL: dict[str, Any] = {
    "num_envs": 2, "num_steps": 8, "minibatch_size": 8, "num_epochs": 1, "hidden_sizes": (8, 8), "total_steps": 16,
    "num_log_points": 1, "num_plasticity_rollouts": 1,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "discrete": {"env": "gymnax/CartPole-v1"},
    "images": {"env": "gymnax/Breakout-MinAtar", "torso": "minatar_conv"},
    "penalties": {"env": "gymnax/Pendulum-v1", "weight_spectral": True, "feature_spectral": True},
}


def products(jaxpr: Any) -> Iterator[Any]:
    """The products of matrices in a program, in whatever it calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def is_exact(product: Any) -> bool:
    operands = {var.aval.dtype for var in product.invars}
    return product.params["precision"] == (HIGHEST, HIGHEST) or operands == {jnp.dtype("float64")}


def programs(**fields: Any) -> dict[str, list[Any]]:
    """Products of each program of a run."""
    learner = make_learner(pjp.TrainConfig(**SMALL | fields))
    trainer, hparams, key = trainer_of(learner), pjp.HyperParams(pfo_coef=1.0), jax.random.key(0)
    state = jax.eval_shape(trainer.init, hparams, key)
    task = jax.eval_shape(lambda: plasticity.make_task(learner, hparams, key))
    traced = {
        "init": jax.make_jaxpr(trainer.init)(hparams, key),
        "segment": jax.make_jaxpr(trainer.segment)(hparams, state),
        "plasticity": jax.make_jaxpr(trainer.plasticity)(hparams, state, task),
        "task": jax.make_jaxpr(lambda key: plasticity.make_task(learner, hparams, key))(key),
    }
    return {name: list(products(program.jaxpr)) for name, program in traced.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_product_of_a_run_is_exact_unless_asked(case: str) -> None:
    found = programs(**CASES[case])
    assert len(found["segment"]) > 20
    for name, each in found.items():
        assert all(map(is_exact, each)), name


def test_quick_products_are_the_networks_alone() -> None:
    """With default precision only products with a network's weights, or for their gradients, are quick."""
    found = programs(**CASES["penalties"], matmul_precision="default")
    quick = {name: [x for x in each if not is_exact(x)] for name, each in found.items()}
    assert quick["segment"]
    assert quick["plasticity"]
    shapes = {x.outvars[0].aval.shape for x in quick["segment"]}
    layers = [(3, 8), (8, 8), (8, 2), (8, 1)]  # Pendulum: observations of 3, a loc and a scale
    of_layers = {size for fan_in, fan_out in layers for size in ((fan_in, fan_out), (fan_out, fan_in))}
    outputs = {(rows, width) for rows in (2, 8, 16) for width in (8, 2, 1)} | {
        (cuts, 2, width) for cuts in (1, 2) for width in (8, 1)
    }
    assert shapes <= of_layers | outputs, shapes - of_layers - outputs
    assert len(quick["segment"]) < len(found["segment"])


def emulate_coarse_products(patch: pytest.MonkeyPatch) -> None:
    """A CPU whose products are as a TPU's: operands rounded to bfloat16 unless the product is to be exact."""
    exactly = jax.lax.dot_general

    def rounded(a: Any, b: Any, dimensions: Any, precision: Any = None, **options: Any) -> Any:
        asked = jax.lax.Precision(precision) if isinstance(precision, str) else precision
        is_asked = asked in (HIGHEST, (HIGHEST, HIGHEST)) or (
            asked is None and jax.config.values["jax_default_matmul_precision"] == "highest"
        )
        if not is_asked and a.dtype == jnp.float32:
            a, b = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (a, b))
        return exactly(a, b, dimensions, precision=precision, **options)

    patch.setattr("jax._src.lax.lax.dot_general", rounded)
    patch.setattr("jax.lax.dot_general", rounded)


def check_that_no_diagnostic_is_made_of_rounding() -> None:
    """With coarse networks that did not move, nothing says that they did."""
    config = pjp.TrainConfig(**SMALL | CASES["discrete"] | {"num_epochs": 3, "matmul_precision": "default"})
    learner, still = make_learner(config), pjp.HyperParams(learning_rate=0.0, pfo_coef=1.0, critic_pfo_coef=1.0)
    state = init_run(learner, jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (64, 4))
    exact = dataclasses.replace(config, matmul_precision="highest")
    outputs = [make_learner(each).policy(state, obs).outputs for each in (config, exact)]
    assert 1e-4 < float(jnp.abs(outputs[0] - outputs[1]).max()) < 1e-1  # what is emulated is there
    metrics = jax.jit(trainer_of(learner).segment)(still, state)[1]
    for name in ("kl", "kl_k1", "kl_k3", "pfo_loss", "critic_pfo_loss", "policy_rank_change"):
        assert float(metrics[name]) == pytest.approx(0, abs=1e-6), name
    for name in ("policy_feature_drift", "critic_preactivation_drift", "clip_fraction"):
        assert float(metrics[name]) == pytest.approx(0, abs=1e-6), name
    assert float(metrics["ratio_max"]) == pytest.approx(1, abs=1e-6)


def test_no_diagnostic_is_made_of_rounding() -> None:
    """In a process of its own: what was traced in this one is exact, and what would be traced stays coarse."""
    subprocess.run([sys.executable, __file__], check=True, timeout=600)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_blocks_are_the_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements in blocks, as on an accelerator, are those of vmap, whatever is mapped and however many blocks."""
    monkeypatch.setattr(blas, "is_cpu", lambda: False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(4, 3))
    seen = []

    def function(pair: dict[str, Any], other: Any) -> dict[str, Any]:
        seen.append(jnp.shape(pair["x"]))
        return {"sum": pair["x"] + other.sum(axis=0), "product": other @ pair["x"]}

    found = jax.jit(jax.vmap(blas.in_blocks(function, size), ({"x": 0}, None)))({"x": x}, y)
    chex.assert_trees_all_close(found, jax.vmap(function, ({"x": 0}, None))({"x": x}, y), rtol=1e-5, atol=1e-6)
    text = str(jax.make_jaxpr(jax.vmap(blas.in_blocks(function, size), ({"x": 0}, None)))({"x": x}, y))
    assert ("scan" in text) == (size < 7)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        emulate_coarse_products(patch)
        check_that_no_diagnostic_is_made_of_rounding()


def test_a_route_that_was_traced_is_not_traced_again_but_for_another_kind_of_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For equal shapes; what it looked up of one machine is not another's."""
    seen = []

    def route(x: jax.Array) -> jax.Array:
        seen.append(blas.is_cpu())
        return x + 1

    for is_cpu in (True, False):
        monkeypatch.setattr(blas, "is_cpu", lambda is_cpu=is_cpu: is_cpu)
        for x in (jnp.zeros(3), jnp.ones(3)):
            before = len(seen)
            np.testing.assert_array_equal(jax.jit(jax.vmap(lambda one: blas.one_at_a_time(route)(one)))(x), x + 1)
            assert set(seen[before:]) == ({is_cpu} if x[0] == 0 else set())


def test_a_diagnosis_on_a_cpu_is_traced_once_and_made_one_run_after_the_other() -> None:
    """Not for each platform, nor again for vmap: it is half of what tracing a run takes."""
    seen = []

    def diagnosis(x: jax.Array) -> jax.Array:
        seen.append(x.shape)
        return x.sum()

    text = str(jax.make_jaxpr(jax.vmap(blas.in_blocks(diagnosis, 2)))(jnp.ones((4, 3))))
    assert seen == [(3,)]
    assert "scan" in text
    assert "platform_index" not in text
