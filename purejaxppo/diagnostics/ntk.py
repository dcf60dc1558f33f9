"""Ranks of the empirical neural tangent kernel: how many directions the gradients of different states have.

An option, `diagnostics = ["purejaxppo.diagnostics.ntk:ranks"]`: it differentiates both networks at 64 states one by
one, and takes 64 numbers of memory for every parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo import own
from purejaxppo.diagnostics.spectral import measures_of_spectrum, singular_values
from purejaxppo.networks import Networks, Params

Array = jax.Array

NUM_STATES = 64
_WHAT = {"policy": "log pi(a | s) of the rollout's action", "critic": "V(s)"}
_GRAM = (
    f"G = J J^T, J the gradients of {{}} with respect to all parameters at {NUM_STATES} states of the rollout, the "
    "same places in every rollout; after the update phase"
)
_JACOT = "Jacot et al. 2018 (arXiv 1806.07572)"
_ROWS = {
    "rank": ("NTK rank", "least k >= 1 with sum_{i<=k} lambda_i >= 0.99 sum_i lambda_i, lambda_i the eigenvalues of"),
    "effective_rank": ("NTK effective rank", "exp(H(p)), p_i = sqrt(lambda_i) / sum_j sqrt(lambda_j), of"),
}


def _rows() -> dict[str, tuple[str, str, str, str]]:
    return {
        f"{network}_ntk_{name}": (f"{network} {label}", "dimensions", f"{definition} {_GRAM.format(what)}", _JACOT)
        for network, what in _WHAT.items()
        for name, (label, definition) in _ROWS.items()
    }


@own.diagnostic(**_rows())
def ranks(before: Networks, after: Networks, batch: Any) -> dict[str, Array]:
    """Ranks of policy and critic after the update phase, scalars []; a rollout of fewer states is taken whole."""
    del before
    num_samples = batch.obs.shape[0]
    places = np.random.default_rng(0).permutation(num_samples)[:NUM_STATES]
    obs, action = batch.obs[places], batch.action[places]

    def log_prob(params: Params, obs: Array, action: Array) -> Array:
        return after.log_prob(after.apply(params, obs)[0].outputs, action)

    def value(params: Params, obs: Array, action: Array) -> Array:
        del action
        return after.apply(params, obs)[1].outputs[..., 0]

    found = {}
    for network, function in (("policy", log_prob), ("critic", value)):
        jacobian = gradients(function, after.params, obs, action)
        measures = measures_of_spectrum(
            singular_values(jacobian), num_samples=jacobian.shape[0], num_dimensions=jacobian.shape[1]
        )
        found[f"{network}_ntk_rank"] = measures.approximate_rank
        found[f"{network}_ntk_effective_rank"] = measures.effective_rank
    return found


def gradients(function: Callable[..., Array], params: Params, *samples: Array) -> Array:
    """Gradients [n, P] of a scalar function of (params, *sample) at n samples [n, ...], flat, one after another."""

    def gradient(*sample: Array) -> Array:
        slope = jax.grad(function)(params, *sample)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(slope)])

    return jax.vmap(gradient)(*samples)
