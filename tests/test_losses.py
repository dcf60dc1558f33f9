"""Losses: values and gradients against the reference implementation, and gradients against their formulas.

The reference's numbers come from PyTorch in float64; see the README beside them. The formulas are NumPy in float64.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

from purejaxppo.config import TrainConfig
from purejaxppo.distributions import Categorical, Normal
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions.optimizers import flattened
from purejaxppo.ppo.measures import minibatch_metrics
from purejaxppo.ppo.state import Batch, Learner, RunState
from purejaxppo.ppo.terms import loss_terms, sum_of_terms

LAYER = 24
"""Width of each of the three layers in the reference's `all_preactivations_policy`."""
EPS = 0.2

examples = settings(deadline=None, max_examples=25, derandomize=True)


def samples(*shape: int, low: float = -3.0, high: float = 3.0) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


# --- The whole loss of a minibatch against the reference implementation


class Given:
    """In place of the networks: the parameters *are* the network outputs, so gradients are with respect to these."""

    def both(
        self, params: dict[str, NetworkOutput], obs: jax.Array, activation: Any = None
    ) -> tuple[NetworkOutput, NetworkOutput]:
        return params["policy"], params["critic"]


@dataclass
class Reference:
    """One minibatch of the reference implementation, as arguments of `loss_terms`."""

    file: dict[str, np.ndarray]

    @property
    def is_discrete(self) -> bool:
        return bool(self.file["config/discrete"])

    def outputs(self, age: str, dtype: type) -> jax.Array:
        """Outputs of our policy head that mean the reference's distribution: logits, or loc and log scale."""
        if self.is_discrete:
            return jnp.asarray(self.file[f"{age}/logits"], dtype)
        loc, scale = self.file[f"{age}/loc"], self.file[f"{age}/scale"]
        return jnp.asarray(np.concatenate([loc, np.log(scale)], axis=-1), dtype)

    def preactivations(self, age: str, dtype: type) -> tuple[jax.Array, ...]:
        """One entry per layer, the penultimate one last."""
        if not self.file["config/all_layers"]:
            return (jnp.asarray(self.file[f"{age}/features_preactivation_policy"], dtype),)
        stacked = jnp.asarray(self.file[f"{age}/all_preactivations_policy"], dtype)
        return tuple(stacked[:, i : i + LAYER] for i in range(0, stacked.shape[1], LAYER))

    def loss_and_gradient(self, dtype: type) -> tuple[dict[str, jax.Array], NetworkOutput]:
        """The loss terms, and the gradient of their weighted sum with respect to the policy's output."""
        is_all = bool(self.file["config/all_layers"])
        config = TrainConfig(pfo_layers="all" if is_all else "last", pfo_distance=str(self.file["config/pfo_type"]))
        size = len(self.file["advantage"])
        zeros = jnp.zeros((size, 1), dtype)
        new, old = self.preactivations("new", dtype), self.preactivations("old", dtype)
        distribution = Categorical(6) if self.is_discrete else Normal((-1.0,) * 3, (1.0,) * 3)
        action = self.file["action"]
        batch = Batch(
            obs=zeros,
            action=jnp.asarray(action, jnp.int32 if self.is_discrete else dtype),
            log_prob=jnp.asarray(self.file["log_prob"], dtype),
            policy_outputs=self.outputs("old", dtype),
            policy_phi=jnp.concatenate(old, axis=-1),
            critic_phi=jnp.concatenate([zeros for _ in new], axis=-1),
            advantage=jnp.asarray(self.file["advantage"], dtype),
            value_target=zeros[:, 0],
        )
        hparams = HyperParams(
            clip_eps=float(self.file["config/clip"]),
            entropy_coef=float(self.file["config/entropy_coef"]),
            pfo_coef=float(self.file["config/pfo_coef"]),
        )
        params = {
            "policy": NetworkOutput(outputs=self.outputs("new", dtype), features=zeros, preactivations=new),
            "critic": NetworkOutput(outputs=zeros, features=zeros, preactivations=tuple(zeros for _ in new)),
        }
        learner = Learner(config, None, Given(), distribution)
        nothing = dict.fromkeys(("optimizer", "env_state", "obs", "episodes", "key", "update", "status"))
        state, key = RunState(params=params, observation_statistics=None, **nothing), jax.random.key(0)

        def loss(params: dict[str, NetworkOutput], batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            nested = state.replace(params=params)
            outputs = learner.both(nested, batch.obs)
            terms = loss_terms(learner, hparams, nested, outputs, batch, key)
            weights, unravel = flattened(jax.lax.stop_gradient(params))
            flat, norms = state.replace(params=weights), dict.fromkeys(params, jnp.zeros(()))
            metrics = minibatch_metrics(
                learner, hparams, {"policy": jnp.zeros(())}, unravel, flat, flat, norms, outputs, batch, key
            )
            return sum_of_terms(learner, terms), dict(metrics) | {name: value for name, (_, value) in terms.items()}

        gradient, terms = jax.jit(jax.grad(loss, has_aux=True))(params, batch)
        return terms, gradient["policy"]


@pytest.fixture(scope="module", params=["discrete", "gaussian"])
def reference(request: pytest.FixtureRequest, oracles: Path) -> Reference:
    with np.load(oracles / f"public_loss_{request.param}.npz") as file:
        return Reference(dict(file))


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def ours(request: pytest.FixtureRequest, reference: Reference) -> tuple[dict[str, jax.Array], NetworkOutput]:
    """Our loss terms and gradient."""
    with jax.enable_x64(request.param is np.float64):
        return reference.loss_and_gradient(request.param)


def test_terms_equal_the_reference(reference: Reference, ours: tuple[dict[str, jax.Array], NetworkOutput]) -> None:
    names = {
        "policy_loss": "loss_policy",
        "minibatch_entropy": "entropy",
        "pfo_loss": "features_policy_loss_no_coef",
        "clip_fraction": "clipped_fraction",
        "minibatch_kl": "kl",
    }
    for name, theirs in names.items():
        np.testing.assert_allclose(ours[0][name], reference.file[f"expected/{theirs}"], rtol=1e-5, err_msg=name)


def test_gradient_of_the_sum_of_all_terms_equals_the_reference(
    reference: Reference, ours: tuple[dict[str, jax.Array], NetworkOutput]
) -> None:
    file, outputs = reference.file, np.asarray(ours[1].outputs, np.float64)
    rtol = 1e-5 if ours[1].outputs.dtype == np.float32 else 1e-9
    phi = "all_preactivations_policy" if file["config/all_layers"] else "features_preactivation_policy"
    gradients = {phi: np.concatenate(ours[1].preactivations, axis=-1)}
    if reference.is_discrete:
        gradients["logits"] = outputs
    else:  # d/d scale = (d/d log scale) / scale
        loc, log_scale = np.split(outputs, 2, axis=-1)
        gradients |= {"loc": loc, "scale": log_scale / file["new/scale"]}
    for name, value in gradients.items():
        expected = file[f"grad/{name}"]
        # Relative to the largest entry: entries near 0 are differences of large ones.
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)


# --- Each loss against its formula


@examples
@given(log_ratio=samples(16, low=-1.0, high=1.0), advantage=samples(16))
def test_ppo_clip_value_and_gradient(log_ratio: np.ndarray, advantage: np.ndarray) -> None:
    """Gradient -r A / B, and 0 where the ratio has left the trust region on the side that A pushes to."""
    ratio = np.exp(log_ratio)
    assume(np.abs(np.abs(ratio - 1.0) - EPS).min() > 1e-6)  # at the corner itself there is no gradient
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 1 - EPS, 1 + EPS) * advantage)
    is_free = np.where(advantage > 0, ratio < 1 + EPS, ratio > 1 - EPS)
    with jax.enable_x64(True):
        old = jnp.linspace(-3.0, 0.0, 16)
        value, gradient = jax.value_and_grad(losses.ppo_clip)(old + log_ratio, old, jnp.asarray(advantage), EPS)
    np.testing.assert_allclose(value, -surrogate.mean(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, np.where(is_free, -ratio * advantage / 16, 0), rtol=1e-9, atol=1e-12)


def test_ppo_clip_gradient_is_zero_where_a_clipped_ratio_overflows() -> None:
    """log r = 100 overflows float32; with A > 0 the sample is clipped, and says nothing about the policy."""
    log_prob, old, advantage = jnp.array([100.0, 0.1]), jnp.zeros(2), jnp.array([1.0, 1.0])
    gradient = jax.grad(losses.ppo_clip)(log_prob, old, advantage, EPS)
    np.testing.assert_allclose(gradient, [0.0, -np.exp(0.1) / 2], rtol=1e-6)


@examples
@given(log_ratio=samples(16, low=-1.0, high=1.0), size=samples(16, low=1e-3), sign=npst.arrays(bool, 16))
def test_clip_fraction_counts_the_samples_without_gradient(
    log_ratio: np.ndarray, size: np.ndarray, sign: np.ndarray
) -> None:
    advantage = np.where(sign, size, -size)
    assume(np.abs(np.abs(np.exp(log_ratio) - 1.0) - EPS).min() > 1e-6)
    with jax.enable_x64(True):
        log_ratio, advantage = jnp.asarray(log_ratio), jnp.asarray(advantage)
        gradient = jax.grad(losses.ppo_clip)(log_ratio, jnp.zeros(16), advantage, EPS)
        ratio = losses.probability_ratio(log_ratio, jnp.zeros(16))
        fraction = losses.clip_fraction(ratio, advantage, EPS)
    assert float(fraction) == (np.asarray(gradient) == 0).mean()


@examples
@given(value=samples(16), target=samples(16))
def test_value_loss_value_and_gradient(value: np.ndarray, target: np.ndarray) -> None:
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(losses.value_loss)(jnp.asarray(value), jnp.asarray(target))
    np.testing.assert_allclose(loss, ((value - target) ** 2).mean(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, 2 * (value - target) / 16, rtol=1e-9, atol=1e-12)


@examples
@given(new=samples(6, 4), old=samples(6, 4))
def test_pfo_value_and_gradient(new: np.ndarray, old: np.ndarray) -> None:
    """Mean over samples and dimensions: ||phi - phi_old||^2 / D, averaged over B."""
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(losses.pfo)(jnp.asarray(new), jnp.asarray(old))
    squared_distance = np.linalg.norm(new - old, axis=-1) ** 2
    np.testing.assert_allclose(loss, squared_distance.mean() / 4, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, 2 * (new - old) / (6 * 4), rtol=1e-9, atol=1e-12)


@examples
@given(new=samples(6, 4), old=samples(6, 4))
def test_pfo_cosine_value_and_gradient(new: np.ndarray, old: np.ndarray) -> None:
    """Gradient -(b - a (a.b) / |a|^2) / (|a| |b| B), for a = phi and b = phi_old."""
    norm, old_norm = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (new, old))
    assume(min(norm.min(), old_norm.min()) > 1e-3)
    product = (new * old).sum(axis=-1, keepdims=True)
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(losses.pfo_cosine)(jnp.asarray(new), jnp.asarray(old))
    np.testing.assert_allclose(loss, 1 - (product / (norm * old_norm)).mean(), rtol=1e-9, atol=1e-9)
    expected = -(old - new * product / norm**2) / (norm * old_norm * 6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-9 / norm.min())


@pytest.mark.parametrize("zero", ["new", "old", "both"])
def test_pfo_cosine_of_a_zero_sample_is_one_without_gradient(zero: str) -> None:
    """A dead layer's pre-activations have no direction; the other sample's loss and gradient are as if alone."""
    sample = jnp.array([[3.0, 4.0]])
    other, old_other = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])
    new = jnp.concatenate([sample * (zero == "old"), other])
    old = jnp.concatenate([sample * (zero == "new"), old_other])
    loss, gradient = jax.value_and_grad(losses.pfo_cosine)(new, old)
    loss_alone, gradient_alone = jax.value_and_grad(losses.pfo_cosine)(other, old_other)
    np.testing.assert_allclose(loss, (1.0 + loss_alone) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.concatenate([np.zeros((1, 2)), gradient_alone / 2]), rtol=1e-6)


@examples
@given(advantage=samples(16, low=-1e3, high=1e3))
def test_normalized_advantage_has_mean_0_and_biased_deviation_1(advantage: np.ndarray) -> None:
    assume(advantage.std() > 1e-3)
    with jax.enable_x64(True):
        normalized = losses.normalize_advantage(jnp.asarray(advantage))
    np.testing.assert_allclose(normalized, (advantage - advantage.mean()) / advantage.std(ddof=0), rtol=1e-9, atol=1e-9)


def test_normalized_advantage_of_equal_samples_is_not_blown_up() -> None:
    """The deviation has a floor of 1e-6: a spread of 1e-8 stays 1e-2, and none at all stays 0."""
    np.testing.assert_allclose(losses.normalize_advantage(jnp.array([1e-8, -1e-8])), [1e-2, -1e-2], rtol=1e-6)
    np.testing.assert_array_equal(losses.normalize_advantage(jnp.full(8, 0.5)), 0.0)
