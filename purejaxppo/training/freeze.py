"""A run that diverges is frozen at its last good log point; the others do not notice."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import Array, Learner, RunState


def freeze_if_diverged(
    learner: Learner, start: RunState, state: RunState, metrics: Metrics, num_epochs: Array | int
) -> tuple[RunState, Metrics]:
    """Keep a run whose parameters or losses are no longer finite at its last good log point, and mark it.

    Its status becomes the log point at which it broke; from there on its metrics are NaN.
    """
    weights, _ = ravel_pytree(state.params)
    is_learning = jnp.asarray(num_epochs) > 0  # else there are no losses
    losses = jnp.where(is_learning, metrics["policy_loss"] + metrics["value_loss"], 0.0)
    is_finite = jnp.isfinite(weights).all() & jnp.isfinite(losses)
    is_healthy = is_finite & (start.status == 0)
    log_point = state.update // learner.config.updates_per_log
    status = jnp.where(start.status == 0, jnp.where(is_finite, 0, log_point), start.status)
    kept = jax.tree.map(lambda new, old: jnp.where(is_healthy, new, old), state, start)
    return replace(kept, status=status), jax.tree.map(lambda x: jnp.where(is_healthy, x, jnp.nan), metrics)
