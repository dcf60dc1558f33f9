"""Networks: forward pass against NumPy, initial weights against their distribution, shared trunks, mistakes."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.networks import ActorCritic, Params, make_actor_critic

# Heights and widths differ, so that a swapped axis shows.
OBSERVATION_SHAPE = {"mlp": (7,), "minatar_conv": (6, 5, 4), "nature_conv": (44, 52, 3)}
STRIDES = {"two": [(3, 1), (2, 2)], "mlp": [], "minatar_conv": [(3, 1)], "nature_conv": [(8, 4), (4, 2), (3, 1)]}
ACTIVATION = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
}


def make(shape: tuple[int, ...], *, outputs: int = 3, log_scale: bool = False, **fields: object) -> ActorCritic:
    return make_actor_critic(TrainConfig(**fields), shape, outputs, state_independent_scale=log_scale)


def random_params(networks: ActorCritic, seed: int = 0) -> Params:
    """Parameters of the networks' shapes, drawn by NumPy: nothing to compile, and biases and scales are not 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / np.sqrt(x.shape[0]), jnp.float32), shapes)


def by_layer(params: Params) -> dict[str, dict[str, np.ndarray]]:
    """`{"policy/hidden_0": {"kernel": ..., "bias": ...}}`, leaves as NumPy arrays."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *names, last = (entry.key for entry in path)
        layers.setdefault("/".join(names), {})[last] = np.asarray(leaf)
    return layers


def forward(
    params: Params, head: str, obs: np.ndarray, torso: str, activation: str, residual: bool = False
) -> tuple[np.ndarray, ...]:
    """Outputs, features and pre-activations of one network for obs [B, ...], by XLA's convolution and NumPy."""
    layers = {name: {k: np.asarray(v, np.float64) for k, v in leaf.items()} for name, leaf in params.items()}
    x, preactivations = obs.astype(np.float64), []
    for i, (size, stride) in enumerate(STRIDES[torso]):
        kernel = layers[f"conv_{i}"]["kernel"].reshape(size, size, x.shape[-1], -1)
        with jax.enable_x64(True):
            z = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        z = np.asarray(z) + layers[f"conv_{i}"]["bias"]
        preactivations.append(z.reshape(len(z), -1))
        x = ACTIVATION[activation](z)
    x = x.reshape(len(x), -1)
    while f"hidden_{(i := len(preactivations) - len(STRIDES[torso]))}" in layers:
        z = x @ layers[f"hidden_{i}"]["kernel"] + layers[f"hidden_{i}"]["bias"]
        preactivations.append(z + x if residual and i > 0 and z.shape == x.shape else z)
        x = ACTIVATION[activation](preactivations[-1])
    outputs = x @ layers[f"{head}_head"]["kernel"] + layers[f"{head}_head"]["bias"]
    return outputs, x, *preactivations


@pytest.mark.parametrize(
    ("torso", "activation"),
    [("mlp", "relu"), ("mlp", "tanh"), ("mlp", "gelu"), ("mlp", "leaky_relu"), ("minatar_conv", "tanh"),
     ("nature_conv", "relu")],
)  # fmt: skip
def test_forward_pass_equals_numpy(torso: str, activation: str) -> None:
    """Outputs, features (after the activation) and every layer's pre-activations, the penultimate one last."""
    shape = OBSERVATION_SHAPE[torso]
    networks = make(shape, torso=torso, activation=activation, hidden_sizes=(16, 8))
    params = random_params(networks)
    obs = np.random.default_rng(1).normal(size=(2, 3, *shape)).astype(np.float32)  # leading axes [T, N]
    for head, found in zip(("policy", "critic"), jax.jit(networks.both)(params, obs), strict=True):
        expected = forward(params[head], head, obs.reshape(6, *shape), torso, activation)
        arrays = (found.outputs, found.features, *found.preactivations)
        assert len(arrays) == len(expected) == 2 + len(STRIDES[torso]) + 2
        for ours, theirs in zip(arrays, expected, strict=True):
            assert ours.shape == (2, 3, theirs.shape[-1])
            np.testing.assert_allclose(ours.reshape(6, -1), theirs, rtol=1e-4, atol=1e-5)


def test_convolutions_of_their_own_and_residual_layers_equal_numpy() -> None:
    """Past the third dense layer there is a way, past the first, wide as it is, and the second there is none."""
    shape, width = OBSERVATION_SHAPE["minatar_conv"], 2 * 1 * 5  # of the second convolution's maps
    networks = make(shape, convolutions=((7, 3, 1), (5, 2, 2)), hidden_sizes=(width, 6, 6), residual=True)
    params = random_params(networks)
    obs = np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32)
    for head, found in zip(("policy", "critic"), jax.jit(networks.both)(params, obs), strict=True):
        expected = forward(params[head], head, obs, "two", "relu", residual=True)
        arrays = (found.outputs, found.features, *found.preactivations)
        assert [x.shape[1] for x in arrays[2:]] == [4 * 3 * 7, width, width, 6, 6]
        for ours, theirs in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_uniform_initialization_fills_the_interval_of_the_fan_in() -> None:
    """Weights and biases of every layer are U(-1/sqrt(fan_in), 1/sqrt(fan_in)); fan_in is the kernel's rows."""
    networks = make(OBSERVATION_SHAPE["minatar_conv"], torso="minatar_conv", hidden_sizes=(8,), share_trunk=True)
    keys = jax.random.split(jax.random.key(0), 200)  # enough biases to test their distribution
    for name, layer in by_layer(jax.jit(jax.vmap(networks.init))(keys)).items():
        fan_in = layer["kernel"].shape[1]
        for kind, values in layer.items():
            scaled = values.ravel() * np.sqrt(fan_in)
            p = scipy.stats.kstest(scaled[:20_000], scipy.stats.uniform(-1, 2).cdf).pvalue
            assert np.abs(scaled).max() <= 1 + 1e-6, f"{name} {kind}"
            assert p > 1e-4, f"{name} {kind}: {p}"


@pytest.fixture(scope="module")
def orthogonal() -> jax.stages.Compiled:
    """The orthogonal initialisation of 64 runs, compiled: keys [64] -> parameters [64, ...]."""
    networks = make((20,), hidden_sizes=(8, 16), share_trunk=True, initialization="orthogonal")
    return jax.jit(jax.vmap(networks.init)).lower(jax.random.split(jax.random.key(0), 64)).compile()


def test_orthogonal_initialization_is_orthonormal_times_gain(orthogonal: jax.stages.Compiled) -> None:
    """Rows or columns, whichever are fewer; zero biases; every run its own."""
    for name, layer in by_layer(orthogonal(jax.random.split(jax.random.key(0), 64))).items():
        gain = {"policy_head": 0.01, "critic_head": 1.0}.get(name.split("/")[1], np.sqrt(2))
        kernel = layer["kernel"] if layer["kernel"].shape[1] >= layer["kernel"].shape[2] else layer["kernel"].mT
        gram = kernel.mT @ kernel
        expected = np.broadcast_to(gain**2 * np.eye(kernel.shape[2]), gram.shape)
        np.testing.assert_allclose(gram, expected, rtol=1e-4, atol=1e-5 * gain**2, err_msg=name)
        np.testing.assert_array_equal(layer["bias"], 0, err_msg=name)
        assert len(np.unique(kernel[:, 0, 0])) == 64, f"{name} repeats between runs"


def test_orthogonal_initialization_prefers_no_sign(orthogonal: jax.stages.Compiled) -> None:
    """LAPACK's QR alone always gives its first entry the same sign."""
    for name, layer in by_layer(orthogonal(jax.random.split(jax.random.key(0), 64))).items():
        num_positive = int((layer["kernel"][:, 0, 0] > 0).sum())
        assert scipy.stats.binomtest(num_positive, 64).pvalue > 1e-4, f"{name}: {num_positive} of 64"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="LAPACK factorises on the CPU only")
def test_orthogonal_initialization_factorises_one_matrix_at_a_time(orthogonal: jax.stages.Compiled) -> None:
    """A LAPACK call on a batch of matrices can hang XLA's CPU runtime for ever (see `blas.py`).

    Read from the compiled program, because the hang itself comes only now and then.
    """
    calls = [line for line in orthogonal.as_text().splitlines() if 'custom_call_target="lapack_' in line]
    assert sum("geqrf" in line.split("=")[0] for line in calls) == 4  # two hidden layers and two heads
    for call in calls:
        shape = re.search(r"operand_layout_constraints=\{f32\[([\d,]+)\]", call)
        assert shape is not None, call
        assert len(shape[1].split(",")) == 2, call


def test_initial_weights_differ_between_networks_and_keys() -> None:
    networks = make((7,), outputs=1, hidden_sizes=(7,))
    first, second = networks.init(jax.random.key(0)), networks.init(jax.random.key(1))
    kernels = [p[name]["hidden_0"]["kernel"] for p in (first, second) for name in ("policy", "critic")]
    assert len({float(kernel[0, 0]) for kernel in kernels}) == 4


def test_shared_trunk_is_one_network_with_two_heads() -> None:
    networks = make((7,), share_trunk=True, hidden_sizes=(8,))
    params = random_params(networks)
    assert {name: set(layers) for name, layers in params.items()} == {
        "shared": {"hidden_0", "policy_head", "critic_head"}
    }
    obs = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for head, output in zip(("policy", "critic"), networks.both(params, jnp.asarray(obs)), strict=True):
        expected = forward(params["shared"], head, obs, "mlp", "relu")
        for ours, theirs in zip((output.outputs, output.features, *output.preactivations), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_separate_networks_share_nothing() -> None:
    networks = make((7,), hidden_sizes=(8,))
    params = random_params(networks)
    gradient = jax.grad(lambda p: networks.critic(p, jnp.ones((5, 7))).outputs.sum())(params)
    assert set(params) == {"policy", "critic"}
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["policy"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["critic"]["critic_head"]))


@pytest.mark.parametrize("share_trunk", [False, True])
def test_both_equals_policy_and_critic(share_trunk: bool) -> None:
    networks = make((7,), share_trunk=share_trunk, hidden_sizes=(8,))
    params, obs = random_params(networks), jax.random.normal(jax.random.key(1), (5, 7))
    together, apart = networks.both(params, obs), (networks.policy(params, obs), networks.critic(params, obs))
    assert together[1].outputs.shape == (5, 1)
    jax.tree.map(np.testing.assert_array_equal, together, apart)


@pytest.mark.parametrize("share_trunk", [False, True])
def test_state_independent_scale_follows_the_policy_head(share_trunk: bool) -> None:
    """One learned log scale per action, the same in every state; the critic has none."""
    networks = make((7,), outputs=3, log_scale=True, share_trunk=share_trunk, hidden_sizes=(8,))
    params = random_params(networks)
    network = params["shared" if share_trunk else "policy"]
    network["log_scale"] = jnp.array([1.0, 2.0, 3.0])
    policy, critic = networks.both(params, jax.random.normal(jax.random.key(1), (5, 7)))
    assert policy.outputs.shape == (5, 6)
    assert critic.outputs.shape == (5, 1)
    np.testing.assert_array_equal(policy.outputs[:, 3:], np.tile([1.0, 2.0, 3.0], (5, 1)))


def test_many_networks_at_once_equal_one_after_the_other() -> None:
    shape = OBSERVATION_SHAPE["minatar_conv"]
    networks = make(shape, torso="minatar_conv", hidden_sizes=(8,))
    params = [random_params(networks, seed) for seed in range(3)]
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, *shape)), jnp.float32)
    together = jax.jit(jax.vmap(networks.policy))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), obs)
    apply = jax.jit(networks.policy)
    for s in range(3):
        alone = apply(params[s], obs[s])
        jax.tree.map(lambda x, y, s=s: np.testing.assert_allclose(x[s], y, rtol=1e-5, atol=1e-6), together, alone)


@pytest.mark.parametrize(
    ("torso", "shape", "sentence"),
    [
        ("minatar_conv", (4,), r"torso is 'minatar_conv', .* have shape \[4\]; allowed is 'mlp'"),
        ("nature_conv", (10, 10, 4), "torso is 'nature_conv', .* 10 x 10, are too small .* 'mlp' and 'minatar_conv'"),
        ("minatar_conv", (2, 9, 4), "torso is 'minatar_conv', .* 2 x 9, are too small .*; allowed is 'mlp'"),
    ],
)
def test_convolutions_that_do_not_fit_are_refused(torso: str, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(shape, torso=torso)


def test_the_smallest_image_that_fits_is_accepted() -> None:
    """36 x 36 leaves 1 x 1 after the three convolutions of the Nature DQN."""
    networks = make((36, 36, 1), torso="nature_conv", hidden_sizes=(8,))
    params = jax.eval_shape(networks.init, jax.random.key(0))
    assert params["policy"]["hidden_0"]["kernel"].shape == (64, 8)


@pytest.mark.parametrize("torso", ["mlp", "minatar_conv"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_joint_first_layer_is_that_of_each_network(torso, layer_norm):
    """Outputs, gradients and parameters' shapes are those of the two networks apart."""
    config = TrainConfig(env="gymnax/Breakout-MinAtar", torso=torso, layer_norm=layer_norm)
    networks = make_actor_critic(config, (10, 10, 4), 3, state_independent_scale=False)
    params = networks.init(jax.random.key(0))
    obs = jax.random.bernoulli(jax.random.key(1), 0.2, (32, 10, 10, 4)).astype(jnp.float32)

    def loss(params, outputs):
        policy, critic = outputs(params)
        return jnp.square(policy.outputs).sum() + critic.outputs.sum(), (policy, critic)

    def joint(params):
        return networks.both(params, obs)

    def apart(params):
        return networks.policy(params, obs), networks.critic(params, obs)

    (gradient, outputs), expected = (jax.grad(loss, has_aux=True)(params, each) for each in (joint, apart))
    chex.assert_trees_all_close((gradient, outputs), expected, rtol=1e-5, atol=1e-5)


def test_first_layers_are_joint_where_observations_are_large():
    for size, expected in ((63, False), (64, True)):
        networks = make_actor_critic(TrainConfig(env="gymnax/CartPole-v1"), (size,), 3, state_independent_scale=False)
        params = networks.init(jax.random.key(0))
        text = str(jax.make_jaxpr(lambda params, n=networks, s=size: n.both(params, jnp.zeros((2, s))))(params))
        assert ("concatenate" in text) == expected
