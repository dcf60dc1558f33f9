"""Fresh episodes: against known answers of the probes, and against a loop that plays one environment at a time."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import purejaxppo as pjp
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.evaluate import EVALUATION, _rows, _worst_for_diverged, evaluate, format_evaluation
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import make_learner
from purejaxppo.results.dataset import GroupResult, save, to_dataset
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import make_groups, parse_sweep, to_json
from purejaxppo.sweep.policies import choose_action, load_policies, save_policies
from purejaxppo.training import evaluation

COLUMNS = ["return_mean", "return_low", "return_high", "length_mean", "episodes", "cut"]


def save_sweep(out, content, params_of, statistics_of=None):
    """A sweep's directory with the policies params_of(config, run) of all runs."""
    sweep = parse_sweep(content, default_name="test")
    out.mkdir(exist_ok=True)
    store.write_json(out / store.SWEEP, to_json(sweep))
    for number, group in enumerate(make_groups(sweep)):
        params = [params_of(run.config, run) for run in group.runs]
        statistics = [statistics_of(run) for run in group.runs] if statistics_of else None
        stacked = jax.tree.map(lambda *x: np.stack(x), *params)
        stacked_statistics = jax.tree.map(lambda *x: np.stack(x), *statistics) if statistics else None
        save_policies(
            out / "policies" / f"{number}.npz", [run.index for run in group.runs], stacked, stacked_statistics
        )
    return sweep


def fresh(config, run):
    return make_learner(config).networks.init(jax.random.key(run.index))


def zeros(config, run):
    """Policy and critic whose outputs are 0 everywhere."""
    return jax.tree.map(np.zeros_like, fresh(config, run))


def logits_times_obs(factor):
    """A policy on one-number observations: the logit of action 1 is factor times the observation."""

    def params(config, run):
        tree = zeros(config, run)
        policy = tree["policy"]
        policy["hidden_0"]["kernel"][0, :2] = [1.0, -1.0]  # relu keeps the positive and the negative part
        policy["policy_head"]["kernel"][:2, 1] = [factor, -factor]
        return tree

    return params


def probe(env, **config):
    return {"seeds": 2, "config": {"env": f"probe/{env}", "hidden_sizes": [4], **config}}


def test_known_answers(tmp_path):
    save_sweep(tmp_path / "two", probe("Discounting"), zeros)
    table = evaluate(tmp_path / "two", episodes=5)
    assert table[COLUMNS].to_numpy().tolist() == [[1.0, 1.0, 1.0, 2.0, 5, 0]] * 2  # two steps, rewards 0 and 1
    assert table["run"].tolist() == table["seed"].tolist() == [0, 1]

    for factor in (40.0, -40.0):  # always right, always wrong
        save_sweep(tmp_path / "one", probe("ActionByObservation"), logits_times_obs(factor))
        table = evaluate(tmp_path / "one", episodes=64)
        assert table["return_mean"].tolist() == [np.sign(factor)] * 2
        assert table["length_mean"].tolist() == [1.0, 1.0]


def test_sampled_and_deterministic_actions(tmp_path):
    log_odds = np.log(0.8 / 0.2)
    save_sweep(tmp_path, probe("ActionByObservation"), logits_times_obs(log_odds))
    assert evaluate(tmp_path, is_deterministic=True)["return_mean"].tolist() == [1.0, 1.0]
    table = evaluate(tmp_path, episodes=4000)  # +1 with probability 0.8: mean 0.6, deviation 0.8
    assert np.abs(table["return_mean"].to_numpy() - 0.6).max() < 4 * 0.8 / 4000**0.5
    width = table["return_high"] - table["return_low"]
    np.testing.assert_allclose(width, 2 * 1.96 * 0.8 / 4000**0.5, rtol=0.1)
    assert len(set(table["return_mean"].tolist())) == 2  # runs have random numbers of their own


def test_continuous_actions_are_in_the_environments_units(tmp_path):
    def squashed_half(config, run):
        tree = zeros(config, run)
        tree["policy"]["policy_head"]["bias"][0] = np.arctanh(0.5)
        return tree

    save_sweep(tmp_path, probe("ActionContinuous"), squashed_half)
    table = evaluate(tmp_path, is_deterministic=True)
    np.testing.assert_allclose(table["return_mean"], 1.0, atol=1e-6)
    assert evaluate(tmp_path)["return_mean"].to_numpy().max() < 0.9


def test_observations_are_normalised_as_in_training(tmp_path):
    def statistics_of(run):
        """Run 1 saw observations around 3, so that it takes both of the probe's for negative ones."""
        mean = jnp.array([0.0 if run.index == 0 else 3.0])
        return ObservationStatistics(mean=mean, var=jnp.array([4.0]), count=jnp.float32(9.0))

    content = probe("ActionByObservation", normalize_observations="running")
    save_sweep(tmp_path, content, logits_times_obs(80.0), statistics_of)
    table = evaluate(tmp_path, episodes=400)
    right, alike = table["return_mean"].tolist()
    assert right == 1.0
    assert abs(alike) < 4 / 400**0.5


CARTPOLE = {"seeds": [4, 9], "config": {"hidden_sizes": [8]}, "axes": {"activation": ["relu", "tanh"]}}


def play_one_by_one(policies, row, run, num_episodes, seed):
    """Returns and lengths of a run: each environment by itself, up to the end of its first episode."""
    learner = make_learner(policies.config)
    params = jax.tree.map(lambda x: jnp.asarray(x[row]), policies.params)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), EVALUATION), run.index)
    key_reset, key_steps = jax.random.split(key)
    first = [learner.env.reset(k) for k in jax.random.split(key_reset, num_episodes)]
    obs, states = [x for x, _ in first], [x for _, x in first]
    returns, lengths, going_on = np.zeros(num_episodes), np.zeros(num_episodes, int), set(range(num_episodes))
    env_step = jax.jit(learner.env.step)
    for time in range(1000):
        key_action, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        actions = choose_action(learner, params, None, jnp.stack(obs), key_action)
        keys_env = jax.random.split(key_env, num_episodes)
        for i in list(going_on):
            result = env_step(keys_env[i], states[i], actions[i])
            obs[i], states[i] = result.obs, result.state
            returns[i] += float(result.reward)
            lengths[i] += 1
            if result.terminated or result.truncated:
                going_on.remove(i)
        if not going_on:
            return returns, lengths
    raise AssertionError("an episode does not end")


def test_equals_environments_played_one_by_one(tmp_path):
    save_sweep(tmp_path, CARTPOLE, fresh)
    table = evaluate(tmp_path, episodes=3, seed=7)
    assert table["run"].tolist() == [0, 1, 2, 3]
    assert table["activation"].tolist() == ["relu", "relu", "tanh", "tanh"]
    assert table["seed"].tolist() == [4, 9, 4, 9]
    policies = load_policies(tmp_path)[1]
    returns, lengths = play_one_by_one(policies, 1, policies.runs[1], num_episodes=3, seed=7)
    assert len(set(lengths)) > 1  # they end at different times
    assert table["return_mean"].tolist()[3] == pytest.approx(returns.mean())
    assert table["length_mean"].tolist()[3] == pytest.approx(lengths.mean())
    alone = evaluate(tmp_path, episodes=3, seed=7, runs=[3])
    pd.testing.assert_frame_equal(alone, table.loc[[3]].reset_index(drop=True))
    other = evaluate(tmp_path, episodes=3, seed=8, runs=[3])
    assert other["return_mean"].tolist() != alone["return_mean"].tolist()


def test_episodes_are_cut_at_max_steps_and_reported(tmp_path):
    save_sweep(tmp_path, CARTPOLE, fresh)
    table = evaluate(tmp_path, episodes=6, max_steps=5, runs=[0])
    assert table[["return_mean", "length_mean", "cut"]].to_numpy().tolist() == [[5.0, 5.0, 6]]


def test_the_environments_options_are_those_of_training(tmp_path):
    content = {"seeds": 1, "config": {"hidden_sizes": [8], "max_episode_steps": 7, "time_aware": True}}
    save_sweep(tmp_path, content, fresh)
    assert evaluate(tmp_path)[["return_mean", "length_mean", "cut"]].to_numpy().tolist() == [[7.0, 7.0, 0]]


def test_keys_are_none_of_trainings():
    """`split(key, n)[i]` is `fold_in(key, i)`: a small constant would be a key that `init_run` has used."""
    key = jax.random.key(0)
    fresh_key = jax.random.key_data(jax.random.fold_in(key, EVALUATION)).tolist()
    children = jax.random.key_data(jax.random.split(key, 4)).tolist()
    assert fresh_key not in children
    state = init_run(make_learner(pjp.TrainConfig(hidden_sizes=(4,), num_envs=2)), key)
    assert jax.random.key_data(state.key).tolist() in children  # what training folds its updates into


def test_text(tmp_path):
    content = {**probe("ActionByObservation"), "seeds": 2, "axes": {"pfo_coef": [0.0, 0.5], "num_epochs": [1]}}
    save_sweep(tmp_path, content, lambda config, run: logits_times_obs([40, 40, -40, -40][run.index])(config, run))
    table = evaluate(tmp_path, episodes=5)
    text = format_evaluation(table).splitlines()
    assert "5 episodes per run" in text[0]
    assert [line.split() for line in (text[2], *text[4:6])] == [
        ["pfo_coef", "num_epochs", "runs", "return", "length", "cut"],
        ["0", "1", "2", "1.00", "(1.00,", "1.00)", "1.00", "0"],  # two runs have no interval
        ["0.5", "1", "2", "-1.00", "(-1.00,", "-1.00)", "1.00", "0"],
    ]
    assert [line.split() for line in (text[11], *text[13:])] == [
        ["run", "pfo_coef", "num_epochs", "seed", "return", "length", "cut"],
        ["0", "0", "1", "0", "1.00", "[1.00,", "1.00]", "1.00", "0"],
        ["1", "0", "1", "1", "1.00", "[1.00,", "1.00]", "1.00", "0"],
        ["2", "0.5", "1", "0", "-1.00", "[-1.00,", "-1.00]", "1.00", "0"],
        ["3", "0.5", "1", "1", "-1.00", "[-1.00,", "-1.00]", "1.00", "0"],
    ]
    many = table.loc[np.repeat(0, 33)].reset_index(drop=True)
    assert len(format_evaluation(many).splitlines()) == 7  # one point, and no line per run
    assert "last 5 % of training" in text[7]
    markdown = format_evaluation(table, "markdown").splitlines()
    assert markdown[4] == "| 0 | 1 | 2 | 1.00 (1.00, 1.00) | 1.00 | 0 |"
    latex = format_evaluation(table, "latex").splitlines()
    assert [line for line in latex if not line.startswith(("%", "\\")) and line][
        1
    ] == "0 & 1 & 2 & 1.00 (1.00, 1.00) & 1.00 & 0 \\\\"
    assert len([line for line in latex if line.startswith("% ")]) == 3  # two titles and a note
    table.attrs["missing"] = [4, 7]
    assert "2 of 6 runs have not finished and are left out: 4, 7." in format_evaluation(table).splitlines()


def test_runs_that_have_not_finished_are_named(tmp_path):
    save_sweep(tmp_path, {**probe("ValueOnly"), "seeds": 4}, zeros)
    (policies,) = load_policies(tmp_path)
    some = jax.tree.map(lambda x: x[[0, 3]], policies.params)
    save_policies(tmp_path / "policies" / "0.npz", [0, 3], some, policies.statistics)
    assert evaluate(tmp_path, episodes=1).attrs["missing"] == [1, 2]
    assert evaluate(tmp_path, episodes=1, runs=[0]).attrs["missing"] == []


def test_the_policy_of_a_run_that_diverged_says_so(tmp_path):
    save_sweep(tmp_path, probe("ValueOnly"), zeros)
    (policies,) = load_policies(tmp_path)
    save_policies(tmp_path / "policies" / "0.npz", [0, 1], policies.params, policies.statistics, np.array([0, 3]))
    assert pjp.load_policy(tmp_path, 0).diverged_at is None
    with pytest.warns(UserWarning, match="run 1 diverged before its log point 3: this is its last policy before that"):
        policy = pjp.load_policy(tmp_path, 1)
    assert policy.diverged_at == 3
    assert policy.env_steps == 2 * policy.config.steps_per_log


def test_lists_and_nothing_are_told_as_in_the_dataset(tmp_path):
    points = [{"hidden_sizes": [4, 2], "max_episode_steps": 1}, {"hidden_sizes": [4], "max_episode_steps": 3}]
    content = {"seeds": 1, "config": {"env": "probe/ValueOnly"}, "points": points}
    save_sweep(tmp_path, content, fresh)
    table = evaluate(tmp_path, episodes=1)
    assert table["hidden_sizes"].tolist() == ["4-2", "4"]
    assert np.isnan(table["return_low"].to_numpy()).all()  # one episode has no interval
    assert "[" not in format_evaluation(table).splitlines()[4]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"episodes": 0}, r"episodes is 0, but must be at least 1 and at most 10000\."),
        ({"episodes": 10**12}, r"episodes is 1000000000000, but must be at least 1 and at most 10000\."),
        ({"max_steps": 0}, r"max_steps is 0, but must be at least 1 and at most 1000000\."),
        ({"seed": -1}, r"seed is -1, but must be a whole number from 0"),
        ({"runs": [2]}, r"run is 2, but the sweep in .* has runs 0 to 1\."),
    ],
)
def test_sentences(tmp_path, options, sentence):
    save_sweep(tmp_path, probe("ValueOnly"), zeros)
    with pytest.raises(pjp.ConfigError, match=sentence):
        evaluate(tmp_path, **options)


def test_groups_keep_their_own_environment(tmp_path):
    content = {"seeds": 1, "config": {"hidden_sizes": [4]}, "axes": {"env": ["probe/Discounting", "probe/ValueOnly"]}}
    save_sweep(tmp_path, content, zeros)
    table = evaluate(tmp_path, episodes=2)
    assert table["length_mean"].tolist() == [2.0, 1.0]
    assert table["env"].tolist() == ["probe/Discounting", "probe/ValueOnly"]


def test_a_run_that_diverged_counts_as_the_worst_of_its_environment_and_snapshot():
    table = pd.DataFrame({"env": [*"aabb"] * 2, "snapshot": [0] * 4 + [1] * 4, "diverged": [True, False] * 4})
    table["return_mean"] = [np.nan, 1.0, np.nan, -7.0, np.nan, 5.0, np.nan, 3.0]
    assert _worst_for_diverged(table).tolist() == [1, 1, -7, -7, 5, 5, 3, 3]


def test_runs_that_diverged_are_marked_and_count_as_the_worst(tmp_path, monkeypatch):
    """Their policies are those of the last good log point, or untrained: no result of their settings."""
    save_sweep(tmp_path, probe("ValueOnly"), zeros)
    path = tmp_path / "policies" / "0.npz"
    (policies,) = load_policies(tmp_path)
    assert policies.status.tolist() == [0, 0]
    save_policies(path, [0, 1], policies.params, policies.statistics, np.array([0, 3]))
    assert load_policies(tmp_path, [1])[0].status.tolist() == [3]
    with monkeypatch.context() as patch:
        patch.setattr("purejaxppo.evaluate.MOST_AT_ONCE", 7)  # thus one run of four episodes
        widths: list[int] = []
        patch.setattr("purejaxppo.evaluate._rows", lambda runs, *rest: widths.append(len(runs)) or _rows(runs, *rest))
        assert evaluate(tmp_path, episodes=4)["diverged"].tolist() == [False, True]
        assert widths == [1, 1]
    table = evaluate(tmp_path, episodes=4)
    assert table["diverged"].tolist() == [False, True]
    points, runs = format_evaluation(table).split("Mean of each run")
    assert points.splitlines()[2].split() == ["runs", "diverged", "return", "length", "cut"]
    assert points.splitlines()[4].split()[:2] == ["2", "1"]
    assert [line.endswith("diverged") for line in runs.splitlines()[4:]] == [False, True]
    save_policies(path, [0, 1], policies.params, policies.statistics, np.array([1, 3]))
    assert format_evaluation(evaluate(tmp_path, episodes=4)).splitlines()[4].split() == ["2", "2", "-", "-", "0"]
    worst = table.assign(return_mean=[3.0, 9.0]).loc[[0, 0, 1]].reset_index(drop=True)
    assert "3.00 (3.00, 3.00, 3.00)" in format_evaluation(worst)


def test_runs_that_collapsed_in_training_are_counted(tmp_path):
    save_sweep(tmp_path, probe("ValueOnly"), zeros)
    returns = np.stack([np.minimum(40.0, np.arange(40.0)), np.where(np.arange(40) < 20, np.arange(40.0), 0.0)])
    result = GroupResult(
        metrics={"return_mean": returns},
        env_steps=np.arange(1, 41),
        seeds=np.arange(2),
        swept={},
        status=np.zeros(2),
        run_index=np.arange(2),
    )
    assert evaluate(tmp_path, episodes=2)["collapsed"].isna().all()
    save(to_dataset([result], {}), tmp_path / "results.nc")
    table = evaluate(tmp_path, episodes=2)
    assert table["collapsed"].tolist() == [False, True]
    assert "1 of 2 [1 %, 99 %]" in format_evaluation(table)


def test_policies_of_older_files_say_nothing_of_divergence(tmp_path):
    save_sweep(tmp_path, probe("ValueOnly"), zeros)
    path = tmp_path / "policies" / "0.npz"
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files if name != "status"}
    np.savez(path, **arrays)
    assert evaluate(tmp_path, episodes=2)["diverged"].tolist() == [False, False]


# --- During training


def test_the_mode_is_played_in_training_where_it_is_asked_for():
    """+1 with probability 0.8 by samples: mean 0.6, deviation 0.8."""
    fields = {"hidden_sizes": (4,), "max_episode_steps": 5, "num_evaluation_episodes": 4000, "num_envs": 2}
    found = {}
    for actions in ("sample", "mode"):
        config = pjp.TrainConfig(env="probe/ActionByObservation", **fields, evaluation_actions=actions)
        learner = make_learner(config)
        state = init_run(learner, jax.random.key(0))
        params = logits_times_obs(np.log(0.8 / 0.2))(config, SimpleNamespace(index=0))
        measure = jax.jit(partial(evaluation.measure, learner))
        found[actions] = measure(replace(state, params=params))
        assert np.isnan(measure(replace(state, params=params, status=jnp.int32(3))).scalars).all()
    assert found["mode"].scalars.tolist() == [1.0, 0.0, 1.0, 1.0]  # mean and deviation of returns, lengths
    assert abs(found["sample"]["evaluation_return_mean"] - 0.6) < 4 * 0.8 / 4000**0.5
    assert found["sample"]["evaluation_return_std"] == pytest.approx(0.8, rel=0.05)


def test_a_run_is_evaluated_at_evenly_spaced_log_points():
    """Two steps, rewards 0 and 1, whatever the policy does; of one episode there is no deviation."""
    config = pjp.TrainConfig(
        env="probe/Discounting", max_episode_steps=3, total_steps=64, num_envs=2, num_steps=8, minibatch_size=16,
        num_epochs=1, hidden_sizes=(4,), num_log_points=4, diagnostics=False,
        num_evaluation_episodes=1, num_evaluation_points=2,
    )  # fmt: skip
    metrics = jax.jit(pjp.make_train(config))(pjp.HyperParams(), jax.random.key(0)).metrics
    np.testing.assert_array_equal(metrics["evaluation_return_mean"], [1, np.nan, 1, np.nan, 1])
    np.testing.assert_array_equal(metrics["evaluation_length_max"], [2, np.nan, 2, np.nan, 2])
    assert np.isnan(metrics["evaluation_return_std"]).all()


def test_episodes_that_need_not_end_are_not_played():
    with pytest.raises(pjp.ConfigError, match=r"^num_evaluation_episodes is 4, but must be 0 for probe/Action, whose "):
        make_learner(pjp.TrainConfig(env="probe/Action", num_evaluation_episodes=4))
