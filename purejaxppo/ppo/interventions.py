"""Interventions on PPO beyond its losses: what holds the representation or the policy back, each off by default.

An intervention that is a penalty is one formula here and one entry in `penalties`; a static switch in `config.py` keeps
it out of the program, and its strength is a float in `hyperparams.py`, so that strengths are swept in one program.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import ACTIVATIONS, NetworkOutput, Params
from purejaxppo.ppo import losses

if TYPE_CHECKING:
    from purejaxppo.ppo.state import Batch, Learner, RunState

Array = jax.Array

_KL_FACTOR_RANGE = (1e-10, 1e10)  # the coefficient neither reaches 0, which it could never leave, nor infinity


def penalties(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    params: Params,
    batch: Batch,
    policy: NetworkOutput,
    critic: NetworkOutput,
) -> dict[str, tuple[Array | float, Array]]:
    """The penalties that are switched on, for one minibatch: name -> (coefficient, value). To be minimised."""
    config, found = learner.config, {}
    if config.kl_penalty:
        kl = learner.distribution.kl(batch.policy_outputs, policy.outputs).mean()
        found["kl_loss"] = (kl_coef(hparams, state), kl)
    if config.weight_spectral:
        assert state.power_vectors is not None
        found["weight_spectral_loss"] = (hparams.weight_spectral_coef, weight_spectral(params, state.power_vectors))
    if config.feature_spectral:
        found["feature_spectral_loss"] = (hparams.feature_spectral_coef, spectral_concentration(policy.features))
        concentration = spectral_concentration(critic.features)
        found["critic_feature_spectral_loss"] = (hparams.critic_feature_spectral_coef, concentration)
    return found


# --- What the policy maximises, and what PFO compares


def policy_loss(config: TrainConfig, hparams: HyperParams, log_prob: Array, phi: Array, batch: Batch) -> Array:
    """Minus the mean over samples of the chosen objective, the advantage normalised over the minibatch.

    With `pfo_mode = "clip"` samples whose phi [B, D] has changed by more than `pfo_limit` count, but have no gradient.
    """
    advantage = losses.normalize_advantage(batch.advantage)
    ratio = losses.probability_ratio(log_prob, batch.log_prob)
    objective = losses.SURROGATES[config.policy_objective](ratio, advantage, hparams.clip_eps)
    if config.pfo_mode == "clip":
        is_within = losses.PFO_CHANGES[config.pfo_distance](phi, batch.policy_phi) <= hparams.pfo_limit
        objective = jnp.where(is_within, objective, jax.lax.stop_gradient(objective))
    return -objective.mean()


def pfo_representation(config: TrainConfig, output: NetworkOutput) -> Array:
    """phi [..., D], what PFO compares: pre- or post-activations of the penultimate or of all hidden layers."""
    if config.pfo_layers == "last":
        return output.preactivations[-1] if config.pfo_features == "preactivations" else output.features
    if config.pfo_features == "preactivations":
        return jnp.concatenate(output.preactivations, axis=-1)
    return ACTIVATIONS[config.activation](jnp.concatenate(output.preactivations, axis=-1))


# --- The KL from the policy that collected the rollout: penalty with adaptive coefficient, and early stop


@struct.dataclass(kw_only=True)
class KLControl:
    """Memory of the KL penalty and the early stop, scalars."""

    factor: Array
    """What kl_coef has been multiplied by since the start of training."""
    kl: Array
    """KL(old || new) of the latest minibatch, in nat, before its gradient step."""
    is_stopped: Array
    """Whether the gradient steps of this rollout have ended."""
    steps_done: Array
    """Number of gradient steps of this rollout so far."""


def init_kl_control(config: TrainConfig) -> KLControl | None:
    """At the start of training; None where neither intervention is on."""
    if not (config.kl_penalty or config.kl_stop):
        return None
    return KLControl(
        factor=jnp.ones(()), kl=jnp.zeros(()), is_stopped=jnp.zeros((), bool), steps_done=jnp.zeros((), jnp.int32)
    )


def kl_coef(hparams: HyperParams, state: RunState) -> Array:
    """The KL penalty's coefficient beta in the present rollout."""
    assert state.kl_control is not None
    return hparams.kl_coef * state.kl_control.factor


def start_rollout(control: KLControl) -> KLControl:
    """At the start of an update phase nothing is stopped, and nothing done."""
    is_stopped, steps_done = jnp.zeros_like(control.is_stopped), jnp.zeros_like(control.steps_done)
    return dataclasses.replace(control, is_stopped=is_stopped, steps_done=steps_done)


def watch_minibatch(config: TrainConfig, hparams: HyperParams, control: KLControl, kl: Array) -> KLControl:
    """After the KL [] of a minibatch is known: with `kl_stop`, the first one beyond the limit ends the steps."""
    is_stopped = control.is_stopped
    if config.kl_stop:
        is_stopped = is_stopped | (kl > hparams.kl_stop_limit)
    return dataclasses.replace(control, kl=kl, is_stopped=is_stopped, steps_done=control.steps_done + ~is_stopped)


def finish_rollout(
    config: TrainConfig, hparams: HyperParams, state: RunState, last_kl: Array, num_steps: Array | int
) -> tuple[KLControl, dict[str, Array]]:
    """The coefficient for the next rollout, and metrics of this one.

    last_kl: [minibatches], the KL of every minibatch of the last epoch; num_steps: gradient steps without a stop.
    beta <- beta x increment where the mean KL of the last epoch > 1.5 target, x decrement where it is < target / 1.5
    (Schulman et al. 2017, arXiv 1707.06347, section 4).
    """
    control, metrics = state.kl_control, {}
    assert control is not None
    if config.kl_penalty:
        metrics["kl_coef"] = kl_coef(hparams, state)
        kl = last_kl.mean()
        is_low = kl < hparams.kl_target / 1.5
        change = jnp.where(kl > 1.5 * hparams.kl_target, hparams.kl_increment, 1.0)
        change = jnp.where(is_low, hparams.kl_decrement, change)
        control = dataclasses.replace(control, factor=jnp.clip(control.factor * change, *_KL_FACTOR_RANGE))
    if config.kl_stop:
        metrics["minibatches_done_fraction"] = control.steps_done / num_steps
    return control, metrics


# --- Spectra of weights and of features


def weight_matrices(params: Params) -> dict[str, Array]:
    """All weight matrices [fan_in, fan_out] of all networks and their heads, a convolution's being its patches' one."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    name = partial(jax.tree_util.keystr, simple=True, separator="_")
    return {name(path): leaf for path, leaf in leaves if path[-1].key == "kernel"}


def init_power_iteration(config: TrainConfig, params: Params) -> dict[str, Array] | None:
    """A unit vector [fan_out] for every weight matrix, the same at every start; None without `weight_spectral`."""
    if not config.weight_spectral:
        return None
    starts = {name: np.random.default_rng(0).normal(size=w.shape[1]) for name, w in weight_matrices(params).items()}
    return {name: jnp.asarray(start / np.linalg.norm(start), jnp.float32) for name, start in starts.items()}


def iterate_power(params: Params, vectors: dict[str, Array]) -> dict[str, Array]:
    """One power iteration, v <- W^T W v / |W^T W v|, of every weight matrix; v stays where W v is 0."""

    def iterate(matrix: Array, v: Array) -> Array:
        image = matrix.T @ (matrix @ v)
        norm = jnp.linalg.norm(image)
        return jnp.where(norm > 0, image / jnp.where(norm > 0, norm, 1.0), v)

    return {name: iterate(matrix, vectors[name]) for name, matrix in weight_matrices(params).items()}


def weight_spectral(params: Params, vectors: dict[str, Array]) -> Array:
    """Sum over all weight matrices of (|W v| - 1)^2, |W v| being the spectral norm once v has converged.

    Lewandowski et al. 2024 (arXiv 2406.06811), without their term for biases; the gradient of |W v| is u v^T, of rank
    one. The vectors v live in the state and take one iteration per gradient step: weights move slowly, so they stay
    converged, where an iteration from a fixed start takes 40 rounds in every gradient step to come within 1 %.
    """
    norms = [jnp.sqrt(jnp.square(w @ vectors[name]).sum() + 1e-30) for name, w in weight_matrices(params).items()]
    return jnp.square(jnp.stack(norms) - 1.0).sum()  # 1e-30: differentiable at a matrix of zeros


def spectral_concentration(features: Array) -> Array:
    """sum sigma^4 / (sum sigma^2)^2 = |F^T F|^2 / |F|^4 of features F [B, D], Frobenius norms: no SVD.

    The inverse of the participation ratio: 1 / D where all singular values are equal, 1 at rank one; 0, without
    gradient, for features of zeros.
    """
    squares = jnp.square(features).sum()
    scaled = features * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))  # fourth powers of tiny numbers underflow
    gram = scaled.T @ scaled if scaled.shape[0] >= scaled.shape[1] else scaled @ scaled.T
    return jnp.square(gram).sum()
