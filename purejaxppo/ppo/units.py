"""Hidden units: how active they are, how large their gradients are, and which weights lead to them and away from them.

A unit is a neuron of a dense hidden layer, or a channel of a convolution, whose activity is averaged over all places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from purejaxppo.networks import Network, NetworkOutput, Params
from purejaxppo.ppo.state import Array, Learner, RunState

Units = dict[str, dict[str, Array]]
"""Of each network ("policy", "critic", or "shared") and each of its hidden layers one value for every unit, [D_l]."""


def built_in(learner: Learner) -> dict[str, Network]:
    """The networks by name, which are not of the user's own: of those nobody knows which weights are whose."""
    return {name: cast("Network", network) for name, network in learner.networks.networks}


def hidden_layers(network: Network) -> dict[str, int]:
    """Names of a network's hidden layers, in order, and their numbers of units D_l."""
    convolutions = {f"conv_{i}": channels for i, (channels, _, _) in enumerate(network.convolutions)}
    return convolutions | {f"hidden_{i}": width for i, width in enumerate(network.hidden_sizes)}


def layers_after(network: Network) -> dict[str, list[str]]:
    """Of each hidden layer the layers that read it: the next one, and of the last one all heads."""
    names = list(hidden_layers(network))
    followers = [[name] for name in names[1:]] + [[f"{head}_head" for head, _ in network.heads]]
    return dict(zip(names, followers, strict=True))


def activity(learner: Learner, state: RunState, outputs: tuple[NetworkOutput, NetworkOutput]) -> Units:
    """Mean |h| of every unit over samples (and places), of what policy and critic gave for a batch."""
    activation = learner.activation(state.choices)
    found: Units = {}
    for name, network in built_in(learner).items():
        output = outputs[1 if name == "critic" else 0]
        found[name] = {
            layer: _mean_size(activation(z), num_units)
            for (layer, num_units), z in zip(hidden_layers(network).items(), output.preactivations, strict=True)
        }
    return found


def gradient_activity(
    learner: Learner,
    state: RunState,
    obs: Array,
    loss: Callable[[tuple[NetworkOutput, NetworkOutput]], Array],
) -> Units:
    """Mean |dL / dh| of every unit over samples (and places), for a loss of what policy and critic give for obs [B, *].

    Up to a factor, which is the same for all units of a layer: a loss that is a mean has gradients of order 1 / B. h is
    what leaves the activation. A dead ReLU unit has such a gradient, though its own weights have none: code by others
    for ReGraMa judges by the gradients of the weights to a unit, and finds it.
    """
    activation = learner.activation(state.choices)
    obs = learner.network_input(state.observation_statistics, obs)
    policy, critic = jax.eval_shape(lambda: learner.networks.both(state.params, obs, activation))
    of_networks = (policy,) if learner.config.share_trunk else (policy, critic)
    shapes = [z.shape for output in of_networks for z in output.preactivations]

    def shifted_loss(shifts: list[Array]) -> Array:
        left = iter(shifts)  # layers are evaluated in this order, each once

        def shifted(z: Array) -> Array:
            return activation(z) + next(left).reshape(z.shape)

        return loss(learner.networks.both(state.params, obs, shifted))

    gradients = iter(jax.grad(shifted_loss)([jnp.zeros(shape) for shape in shapes]))
    return {
        name: {layer: _mean_size(next(gradients), size) for layer, size in hidden_layers(network).items()}
        for name, network in built_in(learner).items()
    }


def _mean_size(x: Array, num_units: int) -> Array:
    """Mean |x| [D] of x [B, places * D], whose last axis is the units'."""
    return jnp.abs(x).reshape(-1, num_units).mean(axis=0)


def outgoing_size(network: Network, params: Params) -> dict[str, Array]:
    """Sum of |w| [D_l] over all weights that lead away from every unit."""
    return {
        layer: sum(
            (jnp.abs(params[reader]["kernel"]).sum(axis=1).reshape(-1, size).sum(axis=0) for reader in readers),
            start=jnp.zeros(size),
        )
        for (layer, readers), size in zip(layers_after(network).items(), hidden_layers(network).values(), strict=True)
    }


def marked_weights(network: Network, params: Params, chosen: dict[str, Array]) -> tuple[Params, Params]:
    """Which of a network's parameters lead to chosen units [D_l], and which away from them: two trees of truth values.

    To a unit lead its column of the kernel, its bias, and a normalisation's gain and bias. Away from it leads, of every
    row of places or patches that the next layer reads, its own: channels are the innermost axis of both.
    """
    entering, leaving = (jax.tree.map(lambda x: jnp.zeros(x.shape, bool), params) for _ in range(2))
    for layer, readers in layers_after(network).items():
        mask = chosen[layer]
        for own in (layer, f"{layer}_norm"):
            if own in params:
                entering[own] = jax.tree.map(lambda x, mask=mask: jnp.broadcast_to(mask, x.shape), params[own])
        for reader in readers:
            kernel = params[reader]["kernel"]
            rows = jnp.tile(mask, kernel.shape[0] // mask.shape[0])
            leaving[reader] = leaving[reader] | {"kernel": jnp.broadcast_to(rows[:, None], kernel.shape)}
    return entering, leaving
