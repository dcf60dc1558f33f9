"""Further terms of the loss: KL, the spectra of weights and of features, distances from the start, orthogonality."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput, Params, is_head
from purejaxppo.ppo.interventions.kl_control import kl_coef
from purejaxppo.ppo.state import Array, Batch, Learner, RunState


def penalties(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    policy: NetworkOutput,
    critic: NetworkOutput,
) -> dict[str, tuple[Array | float, Array]]:
    """The penalties that are switched on, for one minibatch: name -> (coefficient, value). To be minimised."""
    config, found = learner.config, {}
    if True in learner.values("kl_penalty"):

        def outputs(is_on: bool) -> Array:  # the old ones where the penalty is off: 0 times an infinite KL would be NaN
            return policy.outputs if is_on else batch.policy_outputs

        kl = learner.distribution.kl(batch.policy_outputs, learner.choose(state.choices, "kl_penalty", outputs)).mean()
        found["kl_loss"] = (kl_coef(learner, hparams, state), kl)
    if config.weight_spectral:
        assert state.power_vectors is not None
        value = weight_spectral(state.params, state.power_vectors)
        found["weight_spectral_loss"] = (hparams.weight_spectral_coef, value)
    if config.feature_spectral:
        found["feature_spectral_loss"] = (hparams.feature_spectral_coef, spectral_concentration(policy.features))
        concentration = spectral_concentration(critic.features)
        found["critic_feature_spectral_loss"] = (hparams.critic_feature_spectral_coef, concentration)
    if config.l2_init:
        found["l2_init_loss"] = (hparams.l2_init_coef, squared_distance(state.params, state.memory["l2_init"]))
    if config.parseval:
        found["parseval_loss"] = (hparams.parseval_coef, parseval(state.params, hparams.parseval_scale))
    return found


def weight_matrices(params: Params) -> dict[str, Array]:
    """All weight matrices [fan_in, fan_out] of all networks and their heads, a convolution's being its patches' one.

    Of a torso of the user's own what is called kernel.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    name = partial(jax.tree_util.keystr, simple=True, separator="_")
    return {name(path): leaf.reshape(-1, leaf.shape[-1]) for path, leaf in leaves if path[-1].key == "kernel"}


def hidden_matrices(params: Params) -> dict[str, Array]:
    """`weight_matrices` without those of the linear heads."""
    heads = {f"{network}_{layer}_kernel" for network, layers in params.items() for layer in layers if is_head(layer)}
    return {name: matrix for name, matrix in weight_matrices(params).items() if name not in heads}


def init_power_iteration(learner: Learner, params: Params) -> dict[str, Array] | None:
    """A unit vector [fan_out] for every weight matrix, the same at every start; None without `weight_spectral`."""
    if not learner.config.weight_spectral:
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


def squared_distance(params: Params, initial: Params) -> Array:
    """L2 Init: sum over all weights, biases and gains of all networks of (theta - theta_0)^2, a scalar.

    Kumar et al. 2023 (arXiv 2308.11958, eq. 2). A sum, as in their code, which halves it and leaves the gains and
    biases of a normalisation out.
    """
    squares = jax.tree.map(lambda theta, start: jnp.square(theta - start).sum(), params, initial)
    return jnp.stack(jax.tree.leaves(squares)).sum()


def parseval(params: Params, scale: Array | float) -> Array:
    """Sum over all hidden layers of all networks of ||W W^T - s I||_F^2, a scalar; W is [units, fan_in].

    Chung et al. 2024 (arXiv 2412.07224, eq. 2), whose code has s = 2, the square of the gain sqrt 2 of the orthogonal
    start, and leaves the heads out (it also multiplies by (64 / width)^2; here that is the coefficient's affair). More
    units than inputs cannot all be orthogonal: there it is above 0 whatever W.
    """
    found = jnp.zeros(())
    for kernel in hidden_matrices(params).values():  # [fan_in, units]
        found += jnp.square(kernel.T @ kernel - scale * jnp.eye(kernel.shape[1])).sum()
    return found


def spectral_concentration(features: Array) -> Array:
    """sum sigma^4 / (sum sigma^2)^2 = |F^T F|^2 / |F|^4 of features F [B, D], Frobenius norms: no SVD.

    The inverse of the participation ratio: 1 / D where all singular values are equal, 1 at rank one; 0, without
    gradient, for features of zeros.
    """
    squares = jnp.square(features).sum()
    scaled = features * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))  # fourth powers of tiny numbers underflow
    gram = scaled.T @ scaled if scaled.shape[0] >= scaled.shape[1] else scaled @ scaled.T
    return jnp.square(gram).sum()
