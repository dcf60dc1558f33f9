"""The probes' known answers, each found again by trying all that can happen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import envs
from purejaxppo.envs.base import Discrete
from purejaxppo.envs.names import PROBE_NAMES

PROBES = [f"probe/{name}" for name in PROBE_NAMES]
GRID = np.linspace(-1.0, 1.0, 41, dtype=np.float32)


def possible_actions(probe):
    return [np.int32(0), np.int32(1)] if isinstance(probe.action_space, Discrete) else [np.array([a]) for a in GRID]


def episode_return(probe, state, policy, gamma):
    """Discounted return from `state` with policy(obs) -> action; the probes are deterministic once begun."""
    total, discount = 0.0, 1.0
    for _ in range(10):
        step = probe.step(jax.random.key(0), state, policy(float(state.obs[0])))
        total += discount * float(step.reward)
        discount *= gamma
        if step.terminated:
            return total
        state = step.state
    raise AssertionError("the episode does not end")


@pytest.mark.parametrize("gamma", [0.5, 0.99])
@pytest.mark.parametrize("name", PROBES)
def test_probe_answers(name, gamma):
    probe = envs.make(name)
    actions = possible_actions(probe)
    starts = {float(obs[0]): state for obs, state in (probe.reset(jax.random.key(i)) for i in range(8))}
    assert sorted(starts) == ([-1.0, 1.0] if "ByObservation" in name else [0.0])
    for obs, state in starts.items():
        returns = np.array([episode_return(probe, state, lambda _, a=action: a, gamma) for action in actions])
        assert probe.optimal_value(obs, gamma) == pytest.approx(returns.max(), abs=1e-6)
        if probe.optimal_action is None:
            assert np.ptp(returns) == 0.0
            continue
        best = np.flatnonzero(returns > returns.max() - 1e-6)
        assert [float(np.ravel(actions[i])[0]) for i in best] == pytest.approx([probe.optimal_action(obs)])


def test_probe_values_between_and_uniform():
    discounting = envs.make("probe/Discounting")
    _, state = discounting.reset(jax.random.key(0))
    step = discounting.step(jax.random.key(1), state, jnp.int32(0))
    assert (float(step.reward), bool(step.terminated), float(step.obs[0])) == (0.0, False, 1.0)
    assert episode_return(discounting, step.state, lambda _: jnp.int32(1), 0.9) == discounting.optimal_value(1.0, 0.9)

    probe = envs.make("probe/ActionContinuous")
    _, state = probe.reset(jax.random.key(0))
    fine = jnp.linspace(-1.0, 1.0, 4001)[:, None]
    rewards = jax.vmap(lambda action: probe.step(jax.random.key(0), state, action).reward)(fine)
    assert float(rewards.mean()) == pytest.approx(5 / 12, abs=1e-3)


def test_probe_actions_are_clipped():
    probe = envs.make("probe/ActionContinuous")
    _, state = probe.reset(jax.random.key(0))
    far = probe.step(jax.random.key(0), state, jnp.array([7.0])).reward
    assert float(far) == pytest.approx(1.0 - 0.5**2)
