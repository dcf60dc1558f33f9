"""Observations as the networks see them, and when what they are normalised by moves; against NumPy.

And log point 0, before training, whose diagnosis needs the same program.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import oracles
import pytest
from tiny_envs import with_walk

import purejaxppo as pjp
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo import start
from purejaxppo.ppo.start import init_run, random_play
from purejaxppo.ppo.state import RunState, make_learner
from purejaxppo.results.registry import METRICS
from purejaxppo.training.train import Iteration, iterate
from purejaxppo.training.whole import make_train

KEY, HPARAMS = jax.random.key(4), HyperParams(learning_rate=1e-2)
CONFIG = pjp.TrainConfig(
    env="tiny/Walk", total_steps=64, num_envs=2, num_steps=16, minibatch_size=16, num_epochs=2, hidden_sizes=(7, 5),
    num_log_points=2, time_aware=True, num_plasticity_points=0,
)  # fmt: skip
assert CONFIG.updates_per_log == 1


class History:
    """Initial state, the states after each of two updates, and what these updates left, for one kind of statistics."""

    def __init__(self, kind: str):
        self.learner = with_walk(make_learner, dataclasses.replace(CONFIG, normalize_observations=kind))
        once = jax.jit(partial(iterate, self.learner))
        self.states: list[RunState] = [jax.jit(partial(init_run, self.learner))(KEY)]
        self.iterations: list[Iteration] = []
        for _ in range(2):
            state, iteration = once(HPARAMS, CONFIG.num_epochs, self.states[-1], True)
            self.states.append(state)
            self.iterations.append(iteration)
        self.outputs = jax.jit(lambda state, obs: self.learner.policy(state, obs).outputs)


@pytest.fixture(scope="module")
def fixed() -> History:
    return History("fixed")


@pytest.fixture(scope="module")
def running() -> History:
    return History("running")


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --- Fixed statistics


def test_fixed_statistics_are_those_of_random_play(fixed: History) -> None:
    """4000 steps in all, whatever the configuration; uniform actions, episodes going on where they end."""
    obs = jax.jit(partial(random_play, fixed.learner))(jax.random.fold_in(KEY, start._RANDOM_PLAY))
    obs = np.asarray(obs, np.float64)
    assert obs.shape == (4000, 4)
    found = fixed.states[0].observation_statistics
    np.testing.assert_allclose(found.mean, [*obs[:, :3].mean(axis=0), 0.0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.var, [*obs[:, :3].var(axis=0), 1.0], rtol=1e-4)
    actions = np.bincount(obs[:, 1].astype(int) + 1)  # -1 at the start of an episode
    assert actions[0] > 4000 / 7
    assert np.ptp(actions[1:] / actions[1:].sum()) < 0.05
    many = with_walk(make_learner, dataclasses.replace(fixed.learner.config, num_envs=100))
    assert jax.eval_shape(partial(random_play, many), KEY).shape == (100 * 100, 4)  # at least 100 steps of each


def test_fixed_statistics_and_so_the_policy_do_not_move_but_in_an_update(fixed: History) -> None:
    """What the second update starts from is what the first one ended with, to the bit, on the same raw observations."""
    first, second, third = fixed.states
    assert_same(second.observation_statistics, first.observation_statistics)
    assert_same(third.observation_statistics, first.observation_statistics)
    obs = fixed.iterations[1].batch.obs
    after = second.replace(observation_statistics=fixed.iterations[0].before.observation_statistics)
    assert_same(fixed.outputs(after, obs), fixed.outputs(second, obs))
    found = fixed.iterations[1].batch.policy_outputs
    np.testing.assert_allclose(fixed.outputs(after, obs), found, rtol=1e-5, atol=1e-6)
    assert (fixed.outputs(first, obs) != fixed.outputs(second, obs)).any()  # in the update it does move


def test_running_statistics_move_the_policy_between_updates(running: History) -> None:
    obs, second = running.iterations[1].batch.obs, running.states[1]
    after = second.replace(observation_statistics=running.iterations[0].before.observation_statistics)
    assert (running.outputs(after, obs) != running.outputs(second, obs)).any()
    found = running.iterations[1].batch.policy_outputs
    np.testing.assert_allclose(running.outputs(second, obs), found, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_those_of_all_batches_so_far_one_update_behind(running: History) -> None:
    """The update that collected a batch is still normalised by the statistics before it."""
    batches = [np.asarray(iteration.batch.obs, np.float64) for iteration in running.iterations]
    for number, state in enumerate(running.states[1:], 1):
        obs = np.concatenate(batches[:number])
        assert state.observation_statistics.count == len(obs)
        np.testing.assert_allclose(state.observation_statistics.mean[:3], obs[:, :3].mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.observation_statistics.var[:3], obs[:, :3].var(axis=0), rtol=1e-4)
    first = running.iterations[0].before.observation_statistics
    assert_same((first.mean, first.var), (np.zeros(4), np.ones(4)))


@pytest.mark.parametrize("kind", ["fixed", "running"])
def test_elapsed_time_is_not_normalised(kind: str, request: pytest.FixtureRequest) -> None:
    """-1 at the start of an episode; the other entries are normalised, and clipped only by running statistics."""
    history = request.getfixturevalue(kind)
    obs, statistics = history.iterations[1].batch.obs, history.states[1].observation_statistics
    seen = history.learner.network_input(statistics, obs)
    assert_same(seen[:, -1], obs[:, -1])
    assert obs[:, -1].min() == -1.0
    assert 0.0 < obs[:, -1].max() < 1.0  # 1 is that of a last observation
    assert np.abs(obs[:, 2]).mean() > 5 > 2 > np.abs(seen[:, 2]).mean()
    far = history.learner.network_input(statistics, obs.at[:, 0].set(1e4))
    assert (far[:, 0] == 10.0).all() if kind == "running" else (far[:, 0] > 1e3).all()


# --- Log point 0, and what moved with the statistics


@pytest.fixture(scope="module")
def result() -> Any:
    config = dataclasses.replace(CONFIG, normalize_observations="running")
    return jax.jit(with_walk(make_train, config))(HPARAMS, KEY)


def network(params: Any, x: np.ndarray, head: str) -> tuple[np.ndarray, ...]:
    """Outputs, features and penultimate pre-activations of one ReLU network, in NumPy."""
    layers = jax.tree.map(lambda w: np.asarray(w, np.float64), params[head])
    for name in ("hidden_0", "hidden_1"):
        z = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = np.maximum(z, 0.0)
    return x @ layers[f"{head}_head"]["kernel"] + layers[f"{head}_head"]["bias"], x, z


def normalized(statistics: Any, obs: np.ndarray) -> np.ndarray:
    return np.clip((obs - np.asarray(statistics.mean)) / np.sqrt(np.asarray(statistics.var) + 1e-8), -10, 10)


def kl(old: np.ndarray, new: np.ndarray) -> float:
    old, new = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (old, new))
    return (np.exp(old) * (old - new)).sum(axis=-1).mean()


def test_log_point_0_is_the_diagnosis_of_the_initial_networks(running: History, result: Any) -> None:
    """On the rollout of the first update; nothing has changed yet, and there was no minibatch."""
    metrics, initial = result.metrics, running.states[0]
    assert metrics.scalars.shape == (1 + CONFIG.num_logs, len(metrics.names))
    assert metrics["policy_singular_values"].shape == (1 + CONFIG.num_logs, 5)
    obs = normalized(initial.observation_statistics, np.asarray(running.iterations[0].batch.obs, np.float64))
    for head in ("policy", "critic"):
        outputs, features, preactivations = network(initial.params, obs, head)
        for infix, matrix in (("", features), ("preactivation_", preactivations)):
            assert oracles.distance_to_a_threshold(matrix) > 1e-3
            ranks = {"rank": oracles.approximate_rank, "srank": oracles.srank, "feature_rank": oracles.feature_rank}
            for name, rank in (ranks | {"effective_rank": oracles.effective_rank}).items():
                found = metrics[f"{head}_{infix}{name}"][0]
                np.testing.assert_allclose(found, rank(matrix), rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(metrics[f"{head}_dead_neurons"][0], oracles.dead_neurons(features, "relu"))
        norm = oracles.mean_norm(preactivations)
        np.testing.assert_allclose(metrics[f"{head}_preactivation_norm"][0], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_mean"][0], outputs.mean(), rtol=1e-4, atol=1e-6)


def test_at_log_point_0_nothing_has_changed_and_no_minibatch_was_seen(result: Any) -> None:
    metrics = result.metrics
    assert result.state.status == 0
    changes = [name for name in metrics.names if name.endswith(("_change", "_drift")) and name != "statistics_drift"]
    assert len(changes) > 20
    for name in (*changes, "kl", "kl_k1", "kl_k3"):
        np.testing.assert_allclose(metrics[name][0], 0.0, atol=1e-5, err_msg=name)
    of_minibatches = [name for name in metrics.names if name in METRICS and METRICS[name].family == "minibatch"]
    assert len(of_minibatches) > 20
    for name in of_minibatches:
        assert np.isnan(metrics[name][0]), name
        assert np.isfinite(metrics[name][1:]).all(), name
    np.testing.assert_array_equal(metrics["episode_count"][0] > 0, True)


def test_log_point_0_changes_nothing_of_training(running: History, result: Any) -> None:
    """The run is that of two iterations by hand: parameters, observations, statistics, update number."""
    state, by_hand = result.state, running.states[2]
    assert state.update == by_hand.update == 2
    found, expected = ((run.obs, run.params, run.observation_statistics) for run in (state, by_hand))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)


def test_what_running_statistics_do_to_the_policy_is_reported(running: History, result: Any) -> None:
    """KL and drift of the same networks, normalised by the statistics before and after they took the batch in."""
    for log_point in (1, 2):
        before, after = running.states[log_point - 1 : log_point + 1]
        obs = np.asarray(running.iterations[log_point - 1].batch.obs, np.float64)
        one, two = (
            network(after.params, normalized(state.observation_statistics, obs), "policy") for state in (before, after)
        )
        expected = {"statistics_kl": kl(one[0], two[0]), "statistics_drift": ((one[2] - two[2]) ** 2).mean()}
        for name, value in expected.items():
            assert value > 1e-4
            np.testing.assert_allclose(result.metrics[name][log_point], value, rtol=1e-3, err_msg=name)
