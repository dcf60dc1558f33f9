"""Action distributions: against SciPy, against quadrature and sampling, and at the extremes that collapse reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from purejaxppo.distributions import Categorical, Normal, PolicyDistribution, TanhNormal

LOW, HIGH = (-2.0, 0.0, -1.0), (2.0, 3.0, 1.0)
DISTRIBUTIONS = {"categorical": Categorical(6), "normal": Normal(LOW, HIGH), "tanh_normal": TanhNormal(LOW, HIGH)}
KEY = jax.random.key(0)
SIZE = 100_000
"""Samples wherever an average is tested; one size, so that operations are compiled once."""

each = pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


def outputs(seed: int, *leading: int) -> jax.Array:
    """Random outputs [..., 6] that fit all three: six logits, or three locs and three (log or raw) scales."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*leading, 6)), jnp.float32)


def loc_scale(raw: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    loc, log_scale = np.split(np.asarray(raw, np.float64), 2, axis=-1)
    return loc, np.exp(log_scale)


# --- Against SciPy


def test_categorical_equals_scipy() -> None:
    distribution, old, new = DISTRIBUTIONS["categorical"], outputs(0, 4, 5), outputs(1, 4, 5)
    action = jnp.arange(20).reshape(4, 5) % 6
    p, q = (scipy.special.softmax(np.asarray(x, np.float64), axis=-1) for x in (old, new))
    log_prob = np.log(np.take_along_axis(p, np.asarray(action)[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(distribution.log_prob(old, action), log_prob, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(old, KEY), scipy.stats.entropy(p, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(distribution.kl(old, new), scipy.stats.entropy(p, q, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(distribution.moments(old), p, rtol=1e-5)


def test_normal_equals_scipy() -> None:
    distribution, old, new = DISTRIBUTIONS["normal"], outputs(0, 4, 5), outputs(1, 4, 5)
    action = np.random.default_rng(2).normal(size=(4, 5, 3))
    (loc, scale), (new_loc, new_scale) = loc_scale(old), loc_scale(new)
    log_prob = scipy.stats.norm(loc, scale).logpdf(action).sum(axis=-1)
    entropy = scipy.stats.norm(loc, scale).entropy().sum(axis=-1)
    kl = np.log(new_scale / scale) + (scale**2 + (loc - new_loc) ** 2) / (2 * new_scale**2) - 0.5
    np.testing.assert_allclose(distribution.log_prob(old, jnp.asarray(action, jnp.float32)), log_prob, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(old, KEY), entropy, rtol=1e-5)
    np.testing.assert_allclose(distribution.kl(old, new), kl.sum(axis=-1), rtol=1e-5)
    np.testing.assert_allclose(distribution.moments(old), np.concatenate([loc, scale], axis=-1), rtol=1e-5)


# --- What must hold of any distribution


@each
def test_kl_is_the_expected_log_ratio_of_its_samples(distribution: PolicyDistribution) -> None:
    """E_old[log p_old - log p_new], which ties `sample`, `log_prob` and `kl` to each other."""
    old, new = (jnp.broadcast_to(outputs(seed), (SIZE, 6)) for seed in (0, 1))
    action = distribution.sample(old, KEY)
    log_ratio = np.asarray(distribution.log_prob(old, action) - distribution.log_prob(new, action), np.float64)
    error = log_ratio.std() / np.sqrt(SIZE)
    np.testing.assert_allclose(distribution.kl(old, new)[0], log_ratio.mean(), atol=5 * error)


@each
def test_kl_of_a_distribution_to_itself_is_zero_without_gradient(distribution: PolicyDistribution) -> None:
    """The first minibatch of an update starts here."""
    old = outputs(0, 5)
    kl, gradient = jax.value_and_grad(lambda new: distribution.kl(old, new).sum())(old)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@each
def test_gradients_are_finite_at_extreme_outputs(distribution: PolicyDistribution) -> None:
    """One logit has all the mass, a normal is narrow and far away: log-probability, entropy and KL stay usable."""
    far = jnp.tile(jnp.array([1e3, -1e3, 0.0, -4.0, 4.0, 0.0]), (2, 1))
    near = outputs(0, 2)
    action = distribution.sample(near, KEY)

    def measures(raw: jax.Array) -> jax.Array:
        log_prob, entropy = distribution.log_prob(raw, action), distribution.entropy(raw, KEY)
        return jnp.stack([log_prob, entropy, distribution.kl(raw, near), distribution.kl(near, raw)]).sum(axis=-1)

    gradients = jax.jit(jax.jacrev(measures))(far)
    assert gradients.shape == (4, 2, 6)
    assert np.isfinite(measures(far)).all()
    assert np.isfinite(gradients).all()


@each
def test_mode_has_the_highest_latent_density(distribution: PolicyDistribution) -> None:
    old = outputs(0, SIZE)
    mode, action = distribution.mode(old), distribution.sample(old, KEY)
    if isinstance(distribution, TanhNormal):  # before squashing
        distribution = Normal(LOW, HIGH)
    assert (distribution.log_prob(old, mode) >= distribution.log_prob(old, action)).all()


# --- The tanh-squashed normal


compiled_log_prob = jax.jit(TanhNormal((-1.0,), (1.0,)).log_prob)


def squashed_density(raw: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions in (-1, 1), weights of a quadrature there, and the log-density of a one-dimensional action."""
    actions, weights = np.polynomial.legendre.leggauss(1000)
    with jax.enable_x64(True):
        log_prob = compiled_log_prob(np.tile(np.float64(raw), (1000, 1)), np.arctanh(actions)[:, None])
    return actions, weights, np.asarray(log_prob)


@pytest.mark.parametrize("raw", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.2)])
def test_tanh_normal_density_integrates_to_one(raw: tuple[float, float]) -> None:
    """Over the squashed action in (-1, 1), not over the latent one."""
    _, weights, log_prob = squashed_density(raw)
    np.testing.assert_allclose((weights * np.exp(log_prob)).sum(), 1.0, rtol=1e-3)


def test_tanh_normal_entropy_is_right_on_average() -> None:
    """One sample's estimate, averaged over 100,000, against quadrature."""
    raw = (0.7, -1.0)
    _, weights, log_prob = squashed_density(raw)
    estimates = np.asarray(
        TanhNormal((-1.0,), (1.0,)).entropy(jnp.broadcast_to(jnp.array(raw), (SIZE, 2)), KEY), np.float64
    )
    expected = -(weights * np.exp(log_prob) * log_prob).sum()
    np.testing.assert_allclose(estimates.mean(), expected, atol=5 * estimates.std() / np.sqrt(len(estimates)))


def test_tanh_normal_entropy_gradient_flows_through_the_sample() -> None:
    """d/d loc of E[log(1 - tanh^2(loc + scale e))] is far from 0 off the middle; without reparametrisation it is 0."""
    raw = jnp.broadcast_to(jnp.array([1.0, 0.0]), (SIZE, 2))
    gradient = jax.grad(lambda x: TanhNormal((-1.0,), (1.0,)).entropy(x, KEY).mean())(raw).sum(axis=0)
    noise = np.random.default_rng(0).normal(size=1_000_000)
    np.testing.assert_allclose(gradient[0], (-2 * np.tanh(1.0 + noise)).mean(), rtol=0.02)


def test_tanh_normal_log_prob_is_exact_where_tanh_saturates() -> None:
    """tanh(20) is 1 in float32; with latent actions nothing is lost: -log(1 - tanh^2 u) = 2 log cosh u."""
    latent = np.linspace(-20, 20, 41)[:, None]
    found = TanhNormal((-1.0,), (1.0,)).log_prob(jnp.zeros((41, 2)), jnp.asarray(latent, jnp.float32))
    expected = scipy.stats.norm.logpdf(latent) + 2 * np.log(np.cosh(latent))
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4)


def test_tanh_normal_scale_is_one_at_zero_and_has_a_floor() -> None:
    moments = DISTRIBUTIONS["tanh_normal"].moments(jnp.array([0.3, 0.3, 0.3, 0.0, -100.0, 100.0]))
    np.testing.assert_allclose(moments[:3], 0.3, rtol=1e-6)
    np.testing.assert_allclose(moments[3:5], [1.0, 0.01], rtol=1e-6)
    np.testing.assert_allclose(moments[5], 100.0, rtol=0.01)


# --- What the environment and the network see


@pytest.mark.parametrize(("name", "squash"), [("normal", lambda x: x), ("tanh_normal", np.tanh)])
def test_actions_are_scaled_to_the_bounds(name: str, squash: np.ufunc) -> None:
    latent = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
    low, high = np.array(LOW), np.array(HIGH)
    found = DISTRIBUTIONS[name].to_environment(jnp.asarray(latent))
    np.testing.assert_allclose(found, low + (high - low) * (squash(latent) + 1) / 2, rtol=1e-5, atol=1e-6)


def test_squashed_actions_end_at_the_bounds() -> None:
    found = DISTRIBUTIONS["tanh_normal"].to_environment(jnp.array([[-1e6] * 3, [1e6] * 3]))
    np.testing.assert_allclose(found, [LOW, HIGH], rtol=1e-6)


def test_discrete_actions_are_passed_on() -> None:
    action = jnp.arange(6)
    np.testing.assert_array_equal(DISTRIBUTIONS["categorical"].to_environment(action), action)
