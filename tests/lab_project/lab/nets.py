"""A network of this project's own: RMSNorm and a residual block; and one of NNX."""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Torso(nn.Module):
    """A dense layer, then one around which there is a way past it; both normalised by their root mean square."""

    @nn.compact
    def __call__(self, obs):
        x = obs.reshape(obs.shape[0], -1)
        first = nn.RMSNorm()(nn.Dense(8)(x))
        x = nn.relu(first)
        second = nn.RMSNorm()(nn.Dense(8)(x)) + x
        return nn.relu(second), [first, second]


class NnxTorso(nnx.Module):
    """One layer, in the other style of flax, which has to know the size of its input."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(60, 6, rngs=rngs)

    def __call__(self, obs):
        z = self.dense(obs.reshape(obs.shape[0], -1))
        return jnp.tanh(z), [z]
