"""Penalties and operations after a step that are the user's own, found by import path."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo import hyperparams, own
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.own import Intervention
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

_OWN_KEY = 0x6F776E  # folded into the key of a minibatch, for operations after its step


def own_penalties(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    outputs: tuple[NetworkOutput, NetworkOutput],
) -> dict[str, tuple[Array | float, Array]]:
    """Name_loss of each penalty -> (coefficient, value []), for one minibatch. To be minimised.

    Raises ConfigError for a function that fails or gives no number, and for a strength without a value.
    """
    found: dict[str, tuple[Array | float, Array]] = {}
    for penalty in (x for x in learner.interventions if x.is_penalty):
        strengths = strengths_of(penalty, hparams)
        coefficient = strengths.pop(penalty.coefficient)
        try:
            value = jnp.asarray(penalty.function(learner.networks_of(state, outputs), batch, **strengths))
        except Exception as error:
            raise own.failure(f"interventions has {penalty.path!r}, which fails", error) from error
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ConfigError(
                f"interventions has {penalty.path!r}, which gives {value.dtype}{list(value.shape)}, but must give one "
                "float, [], of a minibatch."
            )
        found[f"{penalty.name}_loss"] = (coefficient, value.astype(jnp.float32))
    return found


def operate_after_step(learner: Learner, hparams: HyperParams, before: Params, after: Params, key: Array) -> Params:
    """The parameters after a step and after all operations, in the order of the configuration.

    Raises ConfigError for a function that fails or gives other parameters, and for a strength without a value.
    """
    for number, operation in enumerate(x for x in learner.interventions if not x.is_penalty):
        key_own = jax.random.fold_in(jax.random.fold_in(key, _OWN_KEY), number)
        strengths = strengths_of(operation, hparams)
        try:
            changed = operation.function(before, after, key_own, **strengths)
        except Exception as error:
            raise own.failure(f"interventions has {operation.path!r}, which fails", error) from error
        told = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in (changed, after)]
        if told[0] != told[1]:
            raise ConfigError(
                f"interventions has {operation.path!r}, which gives other parameters than it gets: their names, shapes "
                "and types must stay."
            )
        after = changed
    return after


def has_operations(learner: Learner) -> bool:
    """Whether anything is done after a step."""
    return not all(x.is_penalty for x in learner.interventions)


def strengths_of(intervention: Intervention, hparams: HyperParams) -> dict[str, Array | float]:
    """The strengths that an intervention takes, by name; raises ConfigError for one without a value."""
    given = hyperparams.strengths_of(hparams)
    for name in intervention.strengths:
        if name not in given:
            raise ConfigError(
                f"{name} is missing in [hparams] (OwnHyperParams.strengths): interventions has {intervention.path!r}, "
                "which takes it."
            )
    return {name: given[name] for name in intervention.strengths}
