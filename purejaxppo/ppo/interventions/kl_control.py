"""What keeps the policy near the one that collected the rollout: the KL penalty and early stop (PFO: `pfo.py`)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo.state import Array, KLControl, Learner, RunState

_KL_FACTOR_RANGE = (1e-10, 1e10)  # the coefficient neither reaches 0, which it could never leave, nor infinity


def init_kl_control(learner: Learner) -> KLControl | None:
    """At the start of training; None where neither KL intervention is on in any run."""
    if True not in (*learner.values("kl_penalty"), *learner.values("kl_stop")):
        return None
    return KLControl(
        factor=jnp.ones(()), kl=jnp.zeros(()), is_stopped=jnp.zeros((), bool), steps_done=jnp.zeros((), jnp.int32)
    )


def kl_coef(learner: Learner, hparams: HyperParams, state: RunState) -> Array:
    """The KL penalty's coefficient beta in the present rollout; 0 without the penalty."""
    control = state.kl_control
    assert control is not None
    beta = jnp.asarray(hparams.kl_coef * control.factor)
    return learner.choose(state.choices, "kl_penalty", lambda is_on: beta if is_on else jnp.zeros_like(beta))


def where_on(learner: Learner, state: RunState, switch: str, value: Array) -> Array:
    """A metric of an intervention; NaN for a run that has it off, in a program whose runs differ in that."""
    return learner.choose(state.choices, switch, lambda is_on: value if is_on else jnp.full_like(value, jnp.nan))


def start_rollout(control: KLControl) -> KLControl:
    """At the start of an update phase nothing is stopped, and nothing done."""
    is_stopped, steps_done = jnp.zeros_like(control.is_stopped), jnp.zeros_like(control.steps_done)
    return dataclasses.replace(control, is_stopped=is_stopped, steps_done=steps_done)


def watch_minibatch(learner: Learner, hparams: HyperParams, state: RunState, kl: Array) -> KLControl:
    """After the KL [] of a minibatch is known: with `kl_stop`, one beyond the limit makes its step the last.

    The step of the minibatch itself is made unless `state.kl_control` was stopped before.
    """
    control = state.kl_control
    assert control is not None

    def is_beyond(is_on: bool) -> Array:
        return kl > hparams.kl_stop_limit if is_on else jnp.zeros((), bool)

    return dataclasses.replace(
        control,
        kl=kl,
        is_stopped=control.is_stopped | learner.choose(state.choices, "kl_stop", is_beyond),
        steps_done=control.steps_done + ~control.is_stopped,
    )


def finish_rollout(
    learner: Learner, hparams: HyperParams, state: RunState, last_kl: Array, num_steps: Array | int
) -> tuple[KLControl, dict[str, Array]]:
    """The coefficient for the next rollout, and metrics of this one; NaN for runs without the intervention.

    last_kl: [minibatches], the KL of every minibatch of the last epoch; num_steps: gradient steps without a stop.
    beta <- beta x increment where the mean KL of the last epoch > 1.5 target, x decrement where it is < target / 1.5
    (Schulman et al. 2017, arXiv 1707.06347, section 4).
    """
    control, metrics = state.kl_control, {}
    assert control is not None
    has_steps = jnp.asarray(num_steps) > 0  # not at log point 0
    if True in learner.values("kl_stop"):
        done = jnp.where(has_steps, control.steps_done / jnp.maximum(num_steps, 1), jnp.nan)
        metrics["minibatches_done_fraction"] = where_on(learner, state, "kl_stop", done)
    if True in learner.values("kl_penalty"):
        beta = jnp.where(has_steps, kl_coef(learner, hparams, state), jnp.nan)
        metrics["kl_coef"] = where_on(learner, state, "kl_penalty", beta)
        kl = last_kl.mean()
        is_low = kl < hparams.kl_target / 1.5
        change = jnp.where(kl > 1.5 * hparams.kl_target, hparams.kl_increment, 1.0)
        change = jnp.where(is_low, hparams.kl_decrement, change)
        control = dataclasses.replace(control, factor=jnp.clip(control.factor * change, *_KL_FACTOR_RANGE))
    return control, metrics
