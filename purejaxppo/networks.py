"""Actor and critic networks: the only file that imports flax.linen.

A network returns its head's outputs together with its features and pre-activations, explicitly (never by `sow`), as PFO
and the diagnostics need them. Convolutions are written as patches + matrix product: under vmap over weights a
convolution becomes a grouped one, slow on CPU and GPU, while a matrix product becomes a batched one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx, struct

from purejaxppo import blas, own
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.products import product

Array = jax.Array
Params = dict[str, Any]
Activate = Callable[[Array], Array] | None

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "leaky_relu": nn.leaky_relu}
_LARGE = 64  # numbers in an observation from which on a CPU gains by a joint first layer; below it loses 3 %
# (channels, kernel, stride) of each convolution.
CONVOLUTIONS = {"mlp": (), "minatar_conv": ((16, 3, 1),), "nature_conv": ((32, 8, 4), (64, 4, 2), (64, 3, 1))}


@struct.dataclass(kw_only=True)
class NetworkOutput:
    """What one network computes for a batch of observations [..., *obs].

    outputs: [..., K], the head: distribution parameters (policy) or the value (critic, K = 1).
    features: [..., D], post-activations of the penultimate layer.
    preactivations: one [..., D_l] per hidden layer in order (convolutions flattened), the input of its activation; the
        last one is [..., D].
    """

    outputs: Array
    features: Array
    preactivations: tuple[Array, ...]


@struct.dataclass(kw_only=True)
class Networks:
    """Policy and critic at one moment, as diagnostics and interventions of the user's own see them.

    policy, critic: what they give for the batch that comes with them, [N, ...]. params: of all networks, nested.
    both: from other observations [..., *obs], as the environment gives them, to what policy and critic give for them.
    apply: the same from other parameters as well, (params, obs). log_prob: from the policy's outputs [..., K] and
    actions as the batch has them to log pi [...].
    """

    policy: NetworkOutput
    critic: NetworkOutput
    params: Params
    both: Callable[[Array], tuple[NetworkOutput, NetworkOutput]] = struct.field(pytree_node=False)
    apply: Callable[[Params, Array], tuple[NetworkOutput, NetworkOutput]] = struct.field(pytree_node=False)
    log_prob: Callable[[Array, Array], Array] = struct.field(pytree_node=False)


def image_patches(x: Array, size: int, stride: int) -> Array:
    """All size x size patches of images: [..., H, W, C] -> [..., H', W', size * size * C], "valid" padding."""
    rows = (x.shape[-3] - size) // stride + 1
    columns = (x.shape[-2] - size) // stride + 1
    # First along columns, then along rows: fewer and longer pieces to copy than with every offset by itself.
    across = [x[..., j : j + columns * stride : stride, :][..., :columns, :] for j in range(size)]
    wide = jnp.concatenate(across, axis=-1)
    down = [wide[..., i : i + rows * stride : stride, :, :][..., :rows, :, :] for i in range(size)]
    return jnp.concatenate(down, axis=-1)


class UniformDense(nn.Module):
    """Affine layer with weights and biases from U(+-1/sqrt(fan_in)), the initialisation of the paper."""

    width: int
    precision: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        bound = x.shape[-1] ** -0.5

        def uniform(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        kernel = self.param("kernel", uniform, (x.shape[-1], self.width))
        bias = self.param("bias", uniform, (self.width,))
        return affine(x, kernel, bias, self.precision)


def affine(x: Array, kernel: Array, bias: Array, precision: str) -> Array:
    """x W + b [..., fan_out] of x [..., fan_in], with products of that precision."""
    return product(x, kernel, precision) + jnp.broadcast_to(bias, (*x.shape[:-1], *bias.shape))


class Network(nn.Module):
    """Torso (convolutions, then dense hidden layers) and one linear head per entry of `heads`."""

    convolutions: tuple[tuple[int, int, int], ...]
    hidden_sizes: tuple[int, ...]
    activation: str
    num_observation_axes: int
    heads: tuple[tuple[str, int], ...]
    precision: str = "highest"
    state_independent_scale: bool = False
    """Whether the policy head appends one learned log scale per action, independent of the state."""
    initial_log_std: float = 0.0
    """What that log scale is at the start."""
    layer_norm: bool = False
    """Whether every hidden layer is normalised before its activation."""
    rms_norm: bool = False
    """Whether it is divided by its root mean square instead."""
    crelu: bool = False
    """Whether a hidden layer has half as many units and gives both z and -z to its activation."""
    residual: bool = False
    """Whether a hidden layer's input is added to its pre-activation, from the second one on, where widths agree."""

    def _normalize(self, z: Array, name: str, num_axes: int) -> Array:
        """Layer normalisation (Ba et al. 2016) over a layer's last axes, with a gain and a bias per channel.

        Or z / sqrt(mean z^2), with a gain alone (Zhang and Sennrich 2019).
        """
        axes, name = tuple(range(-num_axes, 0)), f"{name}_norm"
        if self.layer_norm:
            return nn.LayerNorm(reduction_axes=axes, feature_axes=-1, use_fast_variance=False, name=name)(z)
        return nn.RMSNorm(reduction_axes=axes, feature_axes=-1, name=name)(z) if self.rms_norm else z

    def _num_units(self, width: int) -> int:
        return width // 2 if self.crelu else width

    def _both_signs(self, z: Array) -> Array:
        return jnp.concatenate([z, -z], axis=-1) if self.crelu else z

    @nn.compact
    def __call__(self, obs: Array, activation: Activate = None, first: Array | None = None) -> dict[str, NetworkOutput]:
        """Outputs by head; `activation` stands for the configured one, where a program's runs differ in it.

        `first` is what the first layer gives, for who has computed it already; see `first_layers`.
        """
        activation = activation or ACTIVATIONS[self.activation]
        batch_shape = obs.shape[: obs.ndim - self.num_observation_axes]
        x, preactivations = obs, []
        for index, (channels, size, stride) in enumerate(self.convolutions):
            dense = UniformDense(self._num_units(channels), self.precision, name=f"conv_{index}")
            z = dense(image_patches(x, size, stride)) if index > 0 or first is None else first
            z = self._both_signs(self._normalize(z, f"conv_{index}", num_axes=3))
            preactivations.append(z.reshape(*batch_shape, -1))
            x = activation(z)
        x = x.reshape(*batch_shape, -1)
        for index, width in enumerate(self.hidden_sizes):
            dense = UniformDense(self._num_units(width), self.precision, name=f"hidden_{index}")
            z = dense(x) if index > 0 or self.convolutions or first is None else first
            z = self._both_signs(self._normalize(z, f"hidden_{index}", num_axes=1))
            z = z + x if self.residual and index > 0 and x.shape[-1] == width else z
            preactivations.append(z)
            x = activation(z)
        return _with_heads(self, x, preactivations)


class OwnNetwork(nn.Module):
    """A torso of the user's own, from observations [B, *obs] to features and pre-activations, and our heads."""

    torso: type[nn.Module] | type[nnx.Module]
    num_observation_axes: int
    heads: tuple[tuple[str, int], ...]
    precision: str = "highest"
    state_independent_scale: bool = False
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, obs: Array, activation: Activate = None, first: Array | None = None) -> dict[str, NetworkOutput]:
        """Outputs by head; which activation, and what the first layer is, only the torso knows."""
        del activation, first
        batch_shape = obs.shape[: obs.ndim - self.num_observation_axes]
        obs = obs.astype("float32")
        with jax.default_matmul_precision(self.precision):  # of products for which the torso itself says none
            found = named_torso(self.torso)(obs.reshape(-1, *obs.shape[len(batch_shape) :]))
        features, preactivations = jax.tree.map(lambda x: x.reshape(*batch_shape, *x.shape[1:]), found)
        return _with_heads(self, features, preactivations)


def named_torso(torso: type[nn.Module] | type[nnx.Module]) -> nn.Module:
    """A module of the class, an NNX one as a linen one, whose parameters are called torso."""
    return nnx.bridge.to_linen(torso, name="torso") if issubclass(torso, nnx.Module) else torso(name="torso")


def _with_heads(network: Network | OwnNetwork, x: Array, preactivations: Sequence[Array]) -> dict[str, NetworkOutput]:
    """The linear heads of a network on its features x [..., D]."""
    outputs = {name: UniformDense(size, network.precision, name=f"{name}_head")(x) for name, size in network.heads}
    if network.state_independent_scale and "policy" in outputs:
        loc = outputs["policy"]
        start = nn.initializers.constant(network.initial_log_std)
        log_scale = network.param("log_scale", start, (loc.shape[-1],))
        outputs["policy"] = jnp.concatenate([loc, jnp.broadcast_to(log_scale, loc.shape)], axis=-1)
    return {
        name: NetworkOutput(outputs=y, features=x, preactivations=tuple(preactivations)) for name, y in outputs.items()
    }


@dataclass(frozen=True)
class ActorCritic:
    """Policy and value function: two networks, or one with a shared trunk. Static; parameters are passed in.

    Parameters are a dict with one entry per network: {"policy", "critic"} or {"shared"}. Each network has its own
    optimiser and its own gradient clipping.
    """

    networks: tuple[tuple[str, Network | OwnNetwork], ...]
    observation_shape: tuple[int, ...]
    initialization: str
    hidden_sizes: tuple[int, ...]
    """Widths of the policy's hidden layers, the penultimate one last; of built-in networks without convolutions."""

    def init(self, key: Array) -> Params:
        """Fresh parameters from one key."""
        keys = jax.random.split(key, len(self.networks) + 1)
        obs = jnp.zeros(self.observation_shape, jnp.float32)
        params = {name: net.init(k, obs)["params"] for (name, net), k in zip(self.networks, keys[1:], strict=True)}
        return orthogonal_kernels(params, keys[0]) if self.initialization == "orthogonal" else params

    def policy(self, params: Params, obs: Array, activation: Activate = None) -> NetworkOutput:
        """Policy network on observations [..., *obs]."""
        return self._apply(params, obs, "policy", activation)

    def critic(self, params: Params, obs: Array, activation: Activate = None) -> NetworkOutput:
        """Value network on observations [..., *obs]; outputs [..., 1]."""
        return self._apply(params, obs, "critic", activation)

    def both(self, params: Params, obs: Array, activation: Activate = None) -> tuple[NetworkOutput, NetworkOutput]:
        """Policy and critic; a shared trunk is evaluated once."""
        outputs: dict[str, NetworkOutput] = {}
        is_joint = len(self.networks) > 1 and (math.prod(self.observation_shape) >= _LARGE or not blas.is_cpu())
        is_joint &= all(isinstance(network, Network) for _, network in self.networks)
        firsts = first_layers(dict(self.networks), params, obs) if is_joint else {}
        for name, network in self.networks:
            outputs |= network.apply({"params": params[name]}, obs, activation, firsts.get(name))  # pyright: ignore
        return outputs["policy"], outputs["critic"]

    def _apply(self, params: Params, obs: Array, head: str, activation: Activate) -> NetworkOutput:
        networks = dict(self.networks)
        name = "shared" if "shared" in networks else head
        return networks[name].apply({"params": params[name]}, obs, activation)[head]  # pyright: ignore


def make_actor_critic(
    config: TrainConfig, observation_shape: tuple[int, ...], num_policy_outputs: int, *, state_independent_scale: bool
) -> ActorCritic:
    """Networks of a configuration for an environment.

    Raises ConfigError when the convolutions do not fit the observation, and for a network of the user's own that is
    missing, or has other outputs than a torso.
    """
    torso = None if config.network is None else own_torso(config.network, observation_shape)
    convolutions = config.convolutions or CONVOLUTIONS[config.torso]
    if convolutions:
        _check_image(config, observation_shape)

    def network(*heads: tuple[str, int], hidden_sizes: tuple[int, ...] = config.hidden_sizes) -> Network | OwnNetwork:
        if torso is not None:
            return OwnNetwork(
                torso=torso[0],
                num_observation_axes=len(observation_shape),
                heads=heads,
                precision=config.matmul_precision,
                state_independent_scale=state_independent_scale,
                initial_log_std=config.initial_log_std,
            )
        return Network(
            convolutions=convolutions,
            hidden_sizes=hidden_sizes,
            activation=config.activation,
            num_observation_axes=len(observation_shape),
            heads=heads,
            precision=config.matmul_precision,
            state_independent_scale=state_independent_scale,
            initial_log_std=config.initial_log_std,
            layer_norm=config.layer_norm,
            rms_norm=config.rms_norm,
            crelu=config.crelu,
            residual=config.residual,
        )

    policy, critic = ("policy", num_policy_outputs), ("critic", 1)
    if config.share_trunk:
        networks = (("shared", network(policy, critic)),)
    else:
        networks = (("policy", network(policy)), ("critic", network(critic, hidden_sizes=config.critic_sizes)))
    return ActorCritic(networks, observation_shape, config.initialization, torso[1] if torso else config.hidden_sizes)


def own_torso(
    path: str, observation_shape: tuple[int, ...]
) -> tuple[type[nn.Module] | type[nnx.Module], tuple[int, ...]]:
    """The class that an import path leads to, and the widths of its hidden layers; nothing is computed.

    Raises ConfigError unless it is a class of modules that need no arguments (but `rngs`, of NNX) and give, for float32
    observations [B, *obs], float32 features [B, D] and pre-activations [B, D_l], the last ones [B, D].
    """
    cls = own.find("network", path)
    if not isinstance(cls, type) or not issubclass(cls, nn.Module | nnx.Module):
        raise ConfigError(f"network is {path!r}, which must be a class of flax.linen (or flax.nnx) modules.")

    def outputs(key: Array, obs: Array) -> tuple[Any, Any]:
        torso = named_torso(cls)
        variables = torso.init(key, obs[:1])
        return variables, torso.apply(variables, obs)

    obs = jax.ShapeDtypeStruct((3, *observation_shape), jnp.float32)
    try:
        variables, found = jax.eval_shape(outputs, jax.eval_shape(lambda: jax.random.key(0)), obs)
    except Exception as error:
        raise own.failure(f"network {path} cannot be applied to observations {list(obs.shape)}", error) from error
    if list(variables) != ["params"]:
        raise ConfigError(f"network {path} has variables {', '.join(variables)}, but may have params only.")
    rule = "but must be (features [B, D], list of pre-activations [B, D_l], the last one [B, D]), all float32"
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], list | tuple) or not found[1]:
        raise ConfigError(f"network {path}: what it gives is {_shapes(found)}, {rule}.")
    arrays = (found[0], *found[1])
    is_right = all(getattr(x, "ndim", 0) == 2 and x.shape[0] == 3 and x.dtype == jnp.float32 for x in arrays)
    if not is_right or found[0].shape != found[1][-1].shape:
        raise ConfigError(f"network {path}: for observations {list(obs.shape)} it gives {_shapes(found)}, {rule}.")
    return cls, tuple(x.shape[1] for x in found[1])


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)).replace("'", "")


def first_layers(networks: dict[str, Any], params: Params, obs: Array) -> dict[str, Array]:
    """What the first layers of networks of one kind give for observations that they share, in one matrix product.

    Where observations are large most of the work is in it, and one product of twice the width is quicker than two: it
    reads the observations once. An accelerator likes fewer kernels, whatever the size.
    """
    network = next(iter(networks.values()))
    if network.convolutions:
        name, x = "conv_0", image_patches(obs, *network.convolutions[0][1:])
    else:
        name, x = "hidden_0", obs.reshape(*obs.shape[: obs.ndim - network.num_observation_axes], -1)
    layers = [params[of][name] for of in networks]
    joint = {part: jnp.concatenate([layer[part] for layer in layers], axis=-1) for part in ("kernel", "bias")}
    z = affine(x, joint["kernel"], joint["bias"], network.precision)
    ends = list(itertools.accumulate(layer["bias"].shape[-1] for layer in layers))
    return dict(zip(networks, jnp.split(z, ends[:-1], axis=-1), strict=True))


def layer_weights(params: Params, network: str) -> list[Array]:
    """Kernels [fan_in, fan_out] of a network's hidden layers (convolutions: of their patches), then of its head.

    Of a torso of the user's own all arrays of two or more axes, the last of which is the output's.
    """
    layers = params["shared"] if "shared" in params else params[network]
    if "torso" in layers:
        arrays = [x for x in jax.tree.leaves(layers["torso"]) if x.ndim > 1]
        return [*(x.reshape(-1, x.shape[-1]) for x in arrays), layers[f"{network}_head"]["kernel"]]
    names = [name for name in sorted(layers) if name.startswith(("conv_", "hidden_"))]
    hidden = [layers[name]["kernel"] for name in names if "kernel" in layers[name]]  # a LayerNorm has none
    return [*hidden, layers[f"{network}_head"]["kernel"]]


def is_head(layer: str) -> bool:
    """Whether a layer of a network's parameters is the linear head of policy or critic."""
    return layer in ("policy_head", "critic_head")


def orthogonal_kernels(params: Params, key: Array) -> Params:
    """`params` with orthogonal kernels (gain sqrt 2; policy head 0.01, critic head 1) and zero biases.

    A torso of the user's own stays as it has initialised itself.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    fresh = []
    for path, leaf in leaves:
        names = [entry.key for entry in path]
        if names[1] == "torso":
            pass
        elif names[-1] == "kernel":
            gain = {"policy_head": 0.01, "critic_head": 1.0}.get(names[-2], 2**0.5)
            key, key_leaf = jax.random.split(key)
            leaf = gain * _orthonormal(jax.random.normal(key_leaf, leaf.shape))
        elif names[-1] == "bias":
            leaf = jnp.zeros_like(leaf)
        fresh.append(leaf)
    return jax.tree_util.tree_unflatten(structure, fresh)


@blas.one_at_a_time
def _orthonormal(normal: Array) -> Array:
    """Haar-distributed matrix with orthonormal rows or columns, whichever are fewer, from a Gaussian one."""
    tall = normal if normal.shape[0] >= normal.shape[1] else normal.T
    q, r = jnp.linalg.qr(tall)
    q = q * jnp.sign(jnp.diagonal(r))[None, :]
    return q if normal.shape[0] >= normal.shape[1] else q.T


def _check_image(config: TrainConfig, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless the convolutions fit the observation."""
    told = f"torso is '{config.torso}'"
    if config.convolutions:
        told = f"convolutions is {[list(layer) for layer in config.convolutions]}"
    if len(shape) != 3:
        raise ConfigError(
            f"{told}, but observations of {config.env} have shape {list(shape)}; allowed is "
            f"{'[]' if config.convolutions else repr('mlp')} (convolutions need height x width x channels)."
        )
    height, width = shape[:2]
    for _, size, stride in config.convolutions or CONVOLUTIONS[config.torso]:
        height, width = (height - size) // stride + 1, (width - size) // stride + 1
        if min(height, width) < 1:
            allowed = "are smaller ones" if config.convolutions else "is 'mlp'"
            allowed = "are 'mlp' and 'minatar_conv'" if config.torso == "nature_conv" else allowed
            raise ConfigError(
                f"{told}, but observations of {config.env}, {shape[0]} x {shape[1]}, are too small for its "
                f"convolutions; allowed {allowed}."
            )
