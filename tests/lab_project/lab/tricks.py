"""Interventions of this project's own."""

import jax
import jax.numpy as jnp

import purejaxppo as pjp


@pjp.penalty
def my_penalty(networks, batch, *, my_penalty_margin):
    """Mean squared norm of the policy's features beyond a margin."""
    del batch
    norm = jnp.square(networks.policy.features).sum(-1)
    return jnp.maximum(norm - my_penalty_margin, 0.0).mean()


@pjp.after_step
def shrink(before, after, key, *, shrinkage):
    """All weights a little smaller after each step."""
    del before, key
    return jax.tree.map(lambda x: (1.0 - shrinkage) * x, after)
