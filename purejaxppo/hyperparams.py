"""What may differ between the runs of one compiled program: floats, traced by JAX.

This file imports no JAX, so that the command line can list the fields at once; `purejaxppo.ppo` registers the class as
a pytree.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from purejaxppo.errors import ConfigError
from purejaxppo.fields import check_types


@dataclass(frozen=True, kw_only=True)
class HyperParams:
    """Traced hyper-parameters: a pytree of floats, each of which may be swept inside one program.

    In a vmapped program every field is an array [S]. Never validated on construction: a pytree class is rebuilt with
    tracers at every transformation. `validate_hyperparams` checks concrete values.
    """

    learning_rate: float = 2.5e-4
    """Adam's step size at the start of training."""
    critic_learning_rate: float = 2.5e-4
    """With separate_learning_rates: the same of the critic's Adam."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation."""
    clip_eps: float = 0.2
    """PPO-Clip's range: ratios are clipped to [1 - clip_eps, 1 + clip_eps]; for SPO, the ratio's distance from 1 at
    which a sample's objective is largest."""
    entropy_coef: float = 0.01
    """Coefficient of the entropy bonus."""
    value_coef: float = 0.5
    """Coefficient of the value loss, which is not halved."""
    value_clip_eps: float = 0.2
    """With value_clipping: how far V may usefully move in one update phase, in the units of returns as they are learned
    from."""
    max_grad_norm: float = 0.5
    """Largest global norm of a network's gradient; larger ones are scaled down to it."""
    pfo_coef: float = 0.0
    """Coefficient of Proximal Feature Optimization on the policy; 0 is plain PPO."""
    critic_pfo_coef: float = 0.0
    """Coefficient of the same regulariser on the critic."""
    pfo_limit: float = 0.1
    """With pfo_mode clip: the largest PFO distance at which a sample still gives a policy gradient."""
    pfo_target_share: float = 0.1
    """With pfo_auto: size of the PFO term after the warm-up, as a share of that of the loss it is added to."""
    pfo_warmup: float = 50.0
    """With pfo_auto: rollouts before coefficients adapt; the first one always has pfo_coef and critic_pfo_coef."""
    kl_coef: float = 1.0
    """With kl_penalty: the penalty's coefficient at the start of training."""
    kl_target: float = 0.01
    """With kl_penalty: the mean KL of the last epoch, in nat, that the coefficient is adapted to."""
    kl_increment: float = 2.0
    """With kl_penalty: what the coefficient is multiplied by where the KL is above 1.5 kl_target; 1 keeps it."""
    kl_decrement: float = 0.5
    """With kl_penalty: what the coefficient is multiplied by where the KL is below kl_target / 1.5; 1 keeps it."""
    kl_stop_limit: float = 0.01
    """With kl_stop: the KL of a minibatch, in nat, beyond which its gradient step is the rollout's last."""
    weight_spectral_coef: float = 1e-3
    """With weight_spectral: coefficient of the spectral regularisation of all weight matrices, policy and critic."""
    feature_spectral_coef: float = 1e-2
    """With feature_spectral: coefficient of the concentration of the policy's feature spectrum."""
    critic_feature_spectral_coef: float = 0.0
    """With feature_spectral: the same for the critic's features."""
    l2_init_coef: float = 1e-2
    """With l2_init: coefficient of the squared distance of all weights from the initial ones."""
    parseval_coef: float = 1e-3
    """With parseval: coefficient of the sum of ||W W^T - parseval_scale I||^2."""
    parseval_scale: float = 2.0
    """With parseval: what the squared norm of a unit's incoming weights is to be (2: sqrt(2) is ReLU's gain)."""
    weight_decay_rate: float = 1e-3
    """With weight_decay: the share of a weight that a gradient step takes away, over the learning rate."""
    perturbation: float = 1e-6
    """With shrink_and_perturb soft: the share of a weight that is replaced by that of a freshly initialised one."""
    shrink: float = 0.4
    """With shrink_and_perturb hard: what weights are multiplied by (the authors' code: 0.4)."""
    perturb: float = 0.1
    """With shrink_and_perturb hard: what freshly initialised weights are multiplied by before they are added (the
    authors' code: 0.1)."""
    weight_clip_scale: float = 3.0
    """With weight_clipping: the largest size of a weight, in units of 1 / sqrt(fan_in)."""
    reset_threshold: float = 0.025
    """With unit_resets redo or regrama: the share of its layer's mean up to which a unit's activity (its gradient) is
    too small (ReDo: 0.025; code by others for ReGraMa has 0 to 0.05)."""
    replacement_rate: float = 1e-4
    """With unit_resets continual_backprop: the share of a layer's mature units that is replaced in a gradient step."""
    maturity_threshold: float = 1e4
    """With unit_resets continual_backprop: gradient steps that a unit is spared for after its reset (the authors' PPO:
    10,000)."""
    utility_decay: float = 0.99
    """With unit_resets continual_backprop: decay, in a gradient step, of the running mean of a unit's contribution."""
    adam_beta1: float = 0.9
    """Adam's decay of the first moment."""
    adam_beta2: float = 0.999
    """Adam's decay of the second moment."""
    adam_eps: float = 1e-8
    """Adam's epsilon, outside the square root."""


@dataclass(frozen=True, kw_only=True)
class OwnHyperParams(HyperParams):
    """Hyper-parameters of a run with interventions of your own, which have strengths of other names.

    A class of its own, so that of all other runs every hyper-parameter is a float.
    """

    strengths: dict[str, float] = field(default_factory=dict, hash=False)
    """Strengths of `interventions` of your own, by name; in a sweep file each has a line of its own."""


def strengths_of(hparams: HyperParams) -> dict[str, float]:
    """Strengths of interventions of the user's own, by name."""
    return hparams.strengths if isinstance(hparams, OwnHyperParams) else {}


def with_strengths(hparams: HyperParams, strengths: Mapping[str, float]) -> HyperParams:
    """`hparams` with strengths added to those that it has; itself where there are none to add."""
    if not strengths:
        return hparams
    values: dict[str, Any] = vars(hparams) | {"strengths": {**strengths_of(hparams), **strengths}}
    return OwnHyperParams(**values)


LARGEST_FLOAT32, SMALLEST_FLOAT32 = 3.4028234663852886e38, 1.1754943508222875e-38
_POSITIVE = ("clip_eps", "value_clip_eps", "max_grad_norm", "adam_eps", "kl_target", "kl_decrement", "kl_stop_limit")
_POSITIVE += ("weight_clip_scale",)
_UNIT = ("gamma", "gae_lambda", "perturbation", "replacement_rate")
_BELOW_ONE = ("adam_beta1", "adam_beta2", "utility_decay")


def _as_float32(value: float) -> float:
    """A finite number as float32 has it; what is too small for a normal one is 0, as on processors that flush them."""
    single = struct.unpack("f", struct.pack("f", value))[0]
    return single if abs(single) >= SMALLEST_FLOAT32 else 0.0


def validate_hyperparams(hparams: HyperParams) -> HyperParams:
    """Check concrete hyper-parameters; returns them.

    Raises ConfigError with one sentence naming the field, the value and what is allowed.
    """
    check_types(hparams)
    values: dict[str, Any] = dataclasses.asdict(hparams)
    for name, value in values.pop("strengths", {}).items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}, but must be a number.")
        if not math.isfinite(value) or abs(value) > LARGEST_FLOAT32:
            raise ConfigError(f"{name} is {value}, but must be a finite number (in float32: at most 3.4e38).")
    for name, value in values.items():
        if not math.isfinite(value) or abs(value) > LARGEST_FLOAT32:
            raise ConfigError(f"{name} is {value}, but must be a finite number (in float32: at most 3.4e38).")
        single = _as_float32(value)  # what a program gets
        if name in _POSITIVE and single <= 0:
            raise ConfigError(f"{name} is {value}, but must be greater than 0 (in float32: at least 1.2e-38).")
        if name in _UNIT and not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}, but must be between 0 and 1.")
        if name in _BELOW_ONE and not 0 <= single < 1:
            raise ConfigError(
                f"{name} is {value}, but must be at least 0 and below 1 (in float32: at most 0.99999994)."
            )
        if value < 0:
            raise ConfigError(f"{name} is {value}, but must be at least 0.")
    if hparams.kl_increment < 1:
        raise ConfigError(f"kl_increment is {hparams.kl_increment}, but must be at least 1.")
    if hparams.kl_decrement > 1:
        raise ConfigError(f"kl_decrement is {hparams.kl_decrement}, but must be at most 1.")
    return hparams
