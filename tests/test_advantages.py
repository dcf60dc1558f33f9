"""Generalised advantage estimation: against a loop, against rlax, and at the limits where it has a simpler form."""

import warnings

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from purejaxppo.ppo.advantages import gae

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of tensorflow-probability's nightly build
    import rlax

T, N = 12, 3
GAMMA, LAMBDA = 0.97, 0.9

examples = settings(deadline=None, max_examples=25, derandomize=True)
compiled_gae = jax.jit(gae)


@st.composite
def trajectories(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Random rewards, values, terminations and truncations [T, N]; a step ends in at most one of the two ways."""
    numbers = npst.arrays(np.float32, (T, N), elements=st.floats(-5, 5, width=32, allow_subnormal=False))
    ends = draw(npst.arrays(np.int8, (T, N), elements=st.sampled_from([0, 0, 0, 1, 2])))
    numbers_by_name = {name: draw(numbers) for name in ("reward", "value", "next_value")}
    return numbers_by_name | {"terminated": ends == 1, "truncated": ends == 2}


def random_trajectory() -> dict[str, np.ndarray]:
    """One trajectory [T, N] without any end, in which V(s'_t) is V(s_{t+1})."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(T + 1, N)).astype(np.float32)
    reward = rng.normal(size=(T, N)).astype(np.float32)
    never = np.zeros((T, N), bool)
    return {
        "reward": reward, "value": values[:-1], "next_value": values[1:], "terminated": never, "truncated": never
    }  # fmt: skip


def gae_by_loop(trajectory: dict[str, np.ndarray], gamma: float, gae_lambda: float) -> np.ndarray:
    """A_t = sum_k (gamma lambda)^k delta_{t+k}, up to and with the step that ends the episode; one sum per entry."""
    advantages = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                reward, value, next_value = (float(trajectory[x][k, n]) for x in ("reward", "value", "next_value"))
                if trajectory["terminated"][k, n]:
                    next_value = 0.0
                advantages[t, n] += weight * (reward + gamma * next_value - value)
                if trajectory["terminated"][k, n] or trajectory["truncated"][k, n]:
                    break
                weight *= gamma * gae_lambda
    return advantages


@examples
@given(trajectory=trajectories(), gamma=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_equals_a_loop_over_the_definition(trajectory: dict[str, np.ndarray], gamma: float, gae_lambda: float) -> None:
    advantages = compiled_gae(**trajectory, gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantages, gae_by_loop(trajectory, gamma, gae_lambda), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ends", ["none", "terminations"])
def test_equals_rlax_where_there_is_no_truncation(ends: str) -> None:
    """rlax knows terminations, as a discount of 0, but no time limits."""
    trajectory = random_trajectory()
    if ends == "terminations":
        trajectory["terminated"] = np.random.default_rng(1).random((T, N)) < 0.3
    discount = GAMMA * (1.0 - trajectory["terminated"].astype(np.float32))
    values = np.concatenate([trajectory["value"], trajectory["next_value"][-1:]])
    expected = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)(
        jnp.asarray(trajectory["reward"]), jnp.asarray(discount), LAMBDA, jnp.asarray(values)
    )
    np.testing.assert_allclose(gae(**trajectory, gamma=GAMMA, gae_lambda=LAMBDA), expected, rtol=1e-5, atol=1e-6)


def test_lambda_1_is_the_discounted_return_minus_the_value() -> None:
    trajectory = random_trajectory()
    discounts = GAMMA ** np.arange(T, dtype=np.float64)
    advantages = gae(**trajectory, gamma=GAMMA, gae_lambda=1.0)
    for t in range(T):
        future = (discounts[: T - t, None] * trajectory["reward"][t:]).sum(axis=0)
        bootstrap = GAMMA ** (T - t) * trajectory["next_value"][-1]
        np.testing.assert_allclose(advantages[t], future + bootstrap - trajectory["value"][t], rtol=1e-5, atol=1e-5)


def test_lambda_0_is_the_temporal_difference() -> None:
    trajectory = random_trajectory()
    expected = trajectory["reward"] + GAMMA * trajectory["next_value"] - trajectory["value"]
    np.testing.assert_allclose(gae(**trajectory, gamma=GAMMA, gae_lambda=0.0), expected, rtol=1e-6, atol=1e-6)


def test_gamma_0_sees_no_future() -> None:
    trajectory = random_trajectory()
    advantages = gae(**trajectory, gamma=0.0, gae_lambda=LAMBDA)
    np.testing.assert_array_equal(advantages, trajectory["reward"] - trajectory["value"])


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_an_end_in_the_middle_does_not_leak_across_episodes(end: str) -> None:
    """Whatever the next episode holds, the advantages up to the end stay what they were, to the bit."""
    trajectory = random_trajectory()
    ends = np.zeros((T, N), bool)
    ends[5] = True
    trajectory[end] = ends
    elsewhere = {name: trajectory[name].copy() for name in ("reward", "value", "next_value")}
    for x in elsewhere.values():
        x[6:] = 1e6
    before, after = (gae(**trajectory | new, gamma=GAMMA, gae_lambda=LAMBDA) for new in ({}, elsewhere))
    np.testing.assert_array_equal(before[:6], after[:6])


@pytest.mark.parametrize(("end", "is_bootstrapped"), [("terminated", False), ("truncated", True)])
def test_the_final_observation_is_worth_its_value_at_a_time_limit_only(end: str, is_bootstrapped: bool) -> None:
    trajectory = random_trajectory() | {end: np.ones((T, N), bool)}
    bootstrap = GAMMA * trajectory["next_value"] * is_bootstrapped
    expected = trajectory["reward"] + bootstrap - trajectory["value"]
    np.testing.assert_allclose(gae(**trajectory, gamma=GAMMA, gae_lambda=LAMBDA), expected, rtol=1e-6, atol=1e-6)


def test_discount_and_decay_may_differ_between_runs() -> None:
    """[S] of each under vmap, as in a sweep over gamma and lambda."""
    trajectory = random_trajectory()
    gammas, lambdas = jnp.array([0.9, 0.99, 0.0]), jnp.array([0.0, 0.95, 1.0])
    together = jax.vmap(lambda g, d: gae(**trajectory, gamma=g, gae_lambda=d))(gammas, lambdas)
    for s, (gamma, gae_lambda) in enumerate(zip(gammas, lambdas, strict=True)):
        alone = gae(**trajectory, gamma=float(gamma), gae_lambda=float(gae_lambda))
        np.testing.assert_allclose(together[s], alone, rtol=1e-6, atol=1e-6)


def test_a_reward_that_is_not_a_number_leaves_later_advantages_alone() -> None:
    """At t = 0: nothing of it may start the sum, which runs backwards from the last step."""
    trajectory = random_trajectory()
    expected = gae(**trajectory, gamma=GAMMA, gae_lambda=LAMBDA)
    reward = trajectory["reward"].copy()
    reward[0] = np.nan
    found = gae(**trajectory | {"reward": reward}, gamma=GAMMA, gae_lambda=LAMBDA)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], expected[1:])
