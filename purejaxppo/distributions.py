"""Action distributions: the only file that imports distrax.

Each class is static; distribution parameters ("outputs" of the policy head) are arrays [..., K]. For continuous actions
"action" means the *latent* action, before squashing: it makes log-probabilities exact where tanh saturates, and ratios,
KL and everything else are unchanged by the bijection. `to_environment` gives the action in the environment's units.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

with warnings.catch_warnings():
    # distrax imports tensorflow-probability's nightly build, which touches a deprecated name of jax.core.
    warnings.simplefilter("ignore", DeprecationWarning)
    import distrax

Array = jax.Array

# Scale = softplus(x + bias) + floor, equal to 1 at x = 0: the "biased softplus" of the reference implementation.
_SCALE_FLOOR = 0.01
_SCALE_BIAS = math.log(math.expm1(1.0 - _SCALE_FLOOR))


class PolicyDistribution(Protocol):
    """What the algorithm needs from an action distribution."""

    @property
    def num_outputs(self) -> int:
        """Size K of the policy head (without state-independent parameters)."""
        ...

    @property
    def state_independent_scale(self) -> bool:
        """Whether the network appends a learned log scale that does not depend on the state."""
        ...

    @property
    def log_ratio_range(self) -> tuple[float, float]:
        """What log probability ratios are clamped to in the loss."""
        ...

    def sample(self, outputs: Array, key: Array) -> Array:
        """Latent action."""
        ...

    def log_prob(self, outputs: Array, action: Array) -> Array:
        """Log-probability (density) of a latent action [...]."""
        ...

    def entropy(self, outputs: Array, key: Array) -> Array:
        """Entropy [...]: exact, or from one reparametrised sample where there is no closed form."""
        ...

    def kl(self, old: Array, new: Array) -> Array:
        """KL(old || new) [...], exact."""
        ...

    def output_change(self, old: Array, new: Array) -> Array:
        """How far outputs moved [...] as CHAIN measures it: KL(old || new), or squared difference of means per dim."""
        ...

    def kl_of_constant(self, outputs: Array) -> Array:
        """Mean KL(outputs || q) [] over outputs [B, K] of the one distribution q for which it is least."""
        ...

    def moments(self, outputs: Array) -> Array:
        """What varies across states [..., K]: probabilities, or loc and scale."""
        ...

    def to_environment(self, action: Array) -> Array:
        """Action in the environment's units."""
        ...

    def mode(self, outputs: Array) -> Array:
        """Most probable latent action."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Discrete actions 0 .. num_actions - 1; outputs are logits."""

    num_actions: int
    state_independent_scale: bool = False
    log_ratio_range: tuple[float, float] = (-math.inf, 60.0)  # float32's exp overflows at 88

    @property
    def num_outputs(self) -> int:
        return self.num_actions

    def sample(self, outputs: Array, key: Array) -> Array:
        return jax.random.categorical(key, outputs)

    def log_prob(self, outputs: Array, action: Array) -> Array:
        return jnp.asarray(distrax.Categorical(logits=outputs).log_prob(action))

    def entropy(self, outputs: Array, key: Array) -> Array:
        del key
        return jnp.asarray(distrax.Categorical(logits=outputs).entropy())

    def kl(self, old: Array, new: Array) -> Array:
        return jnp.asarray(distrax.Categorical(logits=old).kl_divergence(distrax.Categorical(logits=new)))

    def output_change(self, old: Array, new: Array) -> Array:
        return self.kl(old, new)

    def kl_of_constant(self, outputs: Array) -> Array:
        mean = distrax.Categorical(probs=jax.nn.softmax(outputs).mean(axis=0, keepdims=True))
        return jnp.asarray(distrax.Categorical(logits=outputs).kl_divergence(mean)).mean()

    def moments(self, outputs: Array) -> Array:
        return jax.nn.softmax(outputs)

    def to_environment(self, action: Array) -> Array:
        return action

    def mode(self, outputs: Array) -> Array:
        return jnp.argmax(outputs, axis=-1)


@dataclass(frozen=True)
class Normal:
    """Independent normals with a state-independent scale, in the environment's units scaled to [-1, 1].

    Outputs are loc and log scale, each [..., A]. Actions outside the bounds are clipped by the environment.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    state_independent_scale: bool = True
    log_ratio_range: tuple[float, float] = (math.log(1e-7), math.log(1e9))  # as in the reference implementation

    @property
    def num_outputs(self) -> int:
        return len(self.low)

    def _normal(self, outputs: Array) -> distrax.MultivariateNormalDiag:
        loc, scale = self._loc_scale(outputs)
        return distrax.MultivariateNormalDiag(loc, scale)

    def _loc_scale(self, outputs: Array) -> tuple[Array, Array]:
        loc, log_scale = jnp.split(outputs, 2, axis=-1)
        return loc, jnp.exp(log_scale)

    def sample(self, outputs: Array, key: Array) -> Array:
        loc, scale = self._loc_scale(outputs)
        return loc + scale * jax.random.normal(key, loc.shape)

    def log_prob(self, outputs: Array, action: Array) -> Array:
        return jnp.asarray(self._normal(outputs).log_prob(action))

    def entropy(self, outputs: Array, key: Array) -> Array:
        del key
        return jnp.asarray(self._normal(outputs).entropy())

    def kl(self, old: Array, new: Array) -> Array:
        return jnp.asarray(self._normal(old).kl_divergence(self._normal(new)))

    def output_change(self, old: Array, new: Array) -> Array:
        return jnp.square(self._loc_scale(new)[0] - self._loc_scale(old)[0]).mean(axis=-1)

    def kl_of_constant(self, outputs: Array) -> Array:
        loc, scale = self._loc_scale(outputs)  # the normal with the mixture's mean and variance
        mean = loc.mean(axis=0, keepdims=True)
        variance = (jnp.square(scale) + jnp.square(loc - jnp.broadcast_to(mean, loc.shape))).mean(axis=0, keepdims=True)
        best = distrax.MultivariateNormalDiag(mean, jnp.sqrt(variance))
        return jnp.asarray(distrax.MultivariateNormalDiag(loc, scale).kl_divergence(best)).mean()

    def moments(self, outputs: Array) -> Array:
        return jnp.concatenate(self._loc_scale(outputs), axis=-1)

    def to_environment(self, action: Array) -> Array:
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        middle, half = (
            jnp.broadcast_to((high + low) / 2, action.shape),
            jnp.broadcast_to((high - low) / 2, action.shape),
        )
        return middle + half * self._squash(action)

    def mode(self, outputs: Array) -> Array:
        return self._loc_scale(outputs)[0]

    def _squash(self, action: Array) -> Array:
        return action


@dataclass(frozen=True)
class TanhNormal(Normal):
    """Tanh-squashed independent normals with state-dependent scale (the paper), scaled to the environment's bounds.

    Outputs are loc and raw scale, each [..., A]; scale is a biased softplus, 1 at raw scale 0. Densities are those of
    the squashed action in (-1, 1). The entropy has no closed form: -log p of one reparametrised sample.
    """

    state_independent_scale: bool = False

    @property
    def num_outputs(self) -> int:
        return 2 * len(self.low)

    def _loc_scale(self, outputs: Array) -> tuple[Array, Array]:
        loc, raw_scale = jnp.split(outputs, 2, axis=-1)
        return loc, jax.nn.softplus(raw_scale + _SCALE_BIAS) + _SCALE_FLOOR

    def log_prob(self, outputs: Array, action: Array) -> Array:
        log_slope = jnp.asarray(distrax.Tanh().forward_log_det_jacobian(action))
        return super().log_prob(outputs, action) - log_slope.sum(-1)

    def entropy(self, outputs: Array, key: Array) -> Array:
        return -self.log_prob(outputs, self.sample(outputs, key))

    def _squash(self, action: Array) -> Array:
        return jnp.tanh(action)
