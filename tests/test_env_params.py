"""Parameters of environments: against the original with the same ones, through a sweep's file, and mistakes."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import gymnax
import jax
import numpy as np
import pandas as pd
import pytest
from test_envs import play
from test_evaluate import fresh, save_sweep

import purejaxppo as pjp
from purejaxppo import envs
from purejaxppo.config import TrainConfig
from purejaxppo.envs.gymnax import _UNREAD
from purejaxppo.envs.names import CUSTOM, GYMNAX_NAMES
from purejaxppo.envs.params import LIMITS, checked_params
from purejaxppo.errors import ConfigError
from purejaxppo.evaluate import evaluate
from purejaxppo.fields import scalar
from purejaxppo.plots.channels import choose_channels
from purejaxppo.plots.conditions import parse_where, select
from purejaxppo.results.concat import concat
from purejaxppo.results.dataset import GroupResult, points, to_dataset
from purejaxppo.results.export import _runs, export, run_name
from purejaxppo.statistics.comparison import comparison_table
from purejaxppo.statistics.summary import summary_table
from purejaxppo.sweep.plan import Sweep, describe, make_groups, parse_sweep, to_json


@pytest.mark.parametrize("params", [{"gravity": 1.62}, {"masscart": 5.0}, {"masspole": 0.7, "length": 1.5}])
def test_parameters_are_those_of_the_original_gymnasium(params) -> None:
    """Each transition of a cart-pole on the moon, or of other masses, from the same state with the same action."""
    gymnasium = pytest.importorskip("gymnasium")
    original = gymnasium.make("CartPole-v1").unwrapped
    for name, value in params.items():
        setattr(original, name, value)
    original.total_mass = original.masscart + original.masspole  # as its constructor has them
    original.polemass_length = original.masspole * original.length
    original.reset(seed=0)
    env = envs.make("gymnax/CartPole-v1", env_params=params.items())
    record = jax.jit(lambda key: play(env, key, num_steps=40, num_envs=1))(jax.random.key(3))
    is_different = False
    for t in range(40):
        state = jax.tree.map(lambda x, t=t: float(x[t, 0]), record["before"])
        original.state = np.array([state.x, state.x_dot, state.theta, state.theta_dot])
        original.steps_beyond_terminated = None
        obs = original.step(int(record["action"][t, 0]))[0]
        np.testing.assert_allclose(record["step"].final_obs[t, 0], obs, rtol=1e-4, atol=1e-5)
        is_different |= abs(obs[3] - state.theta_dot) > 0
    assert is_different


def test_masses_that_are_given_together_are_taken_as_they_are() -> None:
    env = envs.make("gymnax/CartPole-v1", env_params=[("masspole", 0.2), ("total_mass", 3.0)])
    assert (env._params.total_mass, env._params.polemass_length) == (3.0, 0.1)
    env = envs.make("gymnax/CartPole-v1", env_params=[("polemass_length", 0.3)])
    assert (env._params.total_mass, env._params.polemass_length) == (1.1, 0.3)


def test_every_parameter_of_gymnax_that_may_be_set_is_read() -> None:
    for name in GYMNAX_NAMES:
        env, defaults = gymnax.make(name)
        code = Path(inspect.getfile(type(env))).read_text()
        own = [field.name for field in dataclasses.fields(defaults) if field.name not in LIMITS]
        unread = [param for param in own if not re.search(rf"params\.{param}\b", code)]
        assert unread == [*_UNREAD.get(name, ("masscart",) if name == "CartPole-v1" else ())], name


def test_keywords_of_brax_are_its_classes_own() -> None:
    """Ant shows its position or does not; nothing is compiled."""
    shown = envs.make("brax/ant", env_params=[("exclude_current_positions_from_observation", False)])
    assert shown.observation_shape[0] == envs.make("brax/ant").observation_shape[0] + 2


FILE = """
name = "moon"
[config]
env = "gymnax/CartPole-v1"
{}
"""


def read(tmp_path, text: str) -> Sweep:
    path = tmp_path / "moon.toml"
    path.write_text(text)
    return Sweep.from_toml(path)


def test_a_sweeps_file_has_them_as_a_table_and_as_an_axis(tmp_path) -> None:
    sweep = read(tmp_path, FILE.format("env_params = {length = 1, gravity = 1.62}"))
    assert sweep.config.env_params == (("gravity", 1.62), ("length", 1))
    assert hash(sweep.config) == hash(parse_sweep(json.loads(json.dumps(to_json(sweep)))).config)
    swept = read(tmp_path, FILE.format("[axes]\nenv_params = [{}, {gravity = 1.62}]"))
    assert [group.config.env_params for group in make_groups(swept)] == [(), (("gravity", 1.62),)]
    again = parse_sweep(json.loads(json.dumps(to_json(swept))))
    assert again.points == swept.points


def test_a_sweep_keeps_them(tmp_path) -> None:
    """In its dataset, and for who plays with its policies; one update."""
    tiny = {"total_steps": 32, "num_envs": 2, "num_steps": 16, "minibatch_size": 16, "num_epochs": 1}
    tiny |= {"hidden_sizes": (4,), "num_log_points": 1, "diagnostics": False, "env": "gymnax/CartPole-v1"}
    sweep = parse_sweep({"name": "moon", "config": tiny | {"env_params": {"gravity": 1.62}}})
    dataset = pjp.run_sweep(sweep, tmp_path / "moon", is_quiet=True)
    assert json.loads(dataset.attrs["sweep"])["config"]["env_params"] == [["gravity", 1.62]]
    policy = pjp.load_policy(tmp_path / "moon", 0)
    assert policy.config.env_params == (("gravity", 1.62),)
    assert policy.env._params.gravity == 1.62


def test_swept_ones_are_called_alike_everywhere(tmp_path) -> None:
    """Plan, dataset, summary, legend, selection, export, folders of TensorBoard, merges and evaluation."""
    content = {
        "name": "moon",
        "seeds": 1,
        "config": {"env": "gymnax/CartPole-v1", "hidden_sizes": [4]},
        "axes": {"env_params": [{}, {"length": 1, "gravity": 1.62}], "critic_hidden_sizes": [[], [8, 8]]},
    }
    sweep = save_sweep(tmp_path, content, fresh)
    params, sizes = ["none", "gravity=1.62 length=1"], ["none", "8-8"]
    names = [f"run_000{i}_env_params={params[i // 2]}_critic_hidden_sizes={sizes[i % 2]}_seed=0" for i in range(4)]
    assert f"  env_params: {', '.join(params)} (one program" in describe(sweep, make_groups(sweep))

    metrics = {"return_mean": np.arange(12.0).reshape(4, 3)}
    runs = [run for group in make_groups(sweep) for run in group.runs]
    swept = {name: [run.point[name] for run in runs] for name in sweep.swept}
    about = {"env_steps": np.arange(3), "seeds": np.zeros(4), "status": np.zeros(4)}
    index = np.array([run.index for run in runs])
    result = GroupResult(metrics=metrics, run_index=index, swept=swept, **about)
    dataset = to_dataset([result], {"name": "moon", "sweep": to_json(sweep)})
    assert dataset["env_params"].values.tolist() == [params[0], params[0], params[1], params[1]]
    assert dataset["critic_hidden_sizes"].values.tolist() == sizes * 2
    assert summary_table(dataset)["env_params"].tolist() == dataset["env_params"].values.tolist()
    (drawn, _) = choose_channels([point for point, _ in points(dataset)])
    assert (drawn.title, drawn.labels) == ("env_params", params)
    assert select(dataset, parse_where([f"env_params={params[1]}"])).sizes["run"] == 2
    contrasts = comparison_table(dataset, against=f"env_params={params[1]}", within=["critic_hidden_sizes"])
    assert contrasts["is_base"].tolist() == [name == params[1] for name in contrasts["env_params"]]
    table = pd.read_csv(export(dataset, tmp_path, "csv"))
    assert table["env_params"].tolist() == [name for name in params for _ in range(6)]
    assert [run_name(run.index, run.point, run.seed) for run in sorted(runs, key=lambda run: run.index)] == names
    assert [name for name, _, _ in _runs(dataset)] == names

    untold = dataset.assign_attrs(sweep="{}").isel(run=[0, 3])  # coordinates in place of the sweep's own values
    assert concat([dataset, untold]).sizes["run"] == 4
    played = evaluate(tmp_path, episodes=1, max_steps=1, runs=[2])
    assert played[["env_params", "critic_hidden_sizes"]].to_numpy().tolist() == [[params[1], "none"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([["gravity", -1.0], ["name", "a"], ["on", True]], "gravity=-1 name=a on=True"),
        (np.float32(0.1), 0.1),
        (np.int64(3), 3),
        (np.array([64, 32]), "64-32"),
        (((16, 3, 1), (32, 3, 1)), "16-3-1-32-3-1"),
        (("lab.tricks:my_penalty",), "lab.tricks:my_penalty"),
        (None, "none"),
        ((), "none"),
        (np.bool_(True), True),
    ],
)
def test_values_in_one_word(value, text) -> None:
    assert scalar(value) == text
    assert type(scalar(value)) is type(text)
    assert scalar(scalar(value)) == text  # of what is told by coordinates alone


@pytest.mark.parametrize(
    ("env", "params", "sentence"),
    [
        ("gymnax/CartPole-v1", {"gravty": 1.0}, r"^env_params of gymnax/CartPole-v1: 'gravty' .* did you mean gravity"),
        ("gymnax/CartPole-v1", {"gravity": "low"}, r"^env_params has gravity = 'low', but for .* must be a number\.$"),
        ("gymnax/CartPole-v1", {"gravity": True}, r"^env_params has gravity = True, but for .* must be a number\.$"),
        ("gymnax/CartPole-v1", {"max_steps_in_episode": 5}, r"time limit of gymnax/CartPole-v1 is set by max_episode"),
        (
            "gymnax/Acrobot-v1",
            {"link_length_2": 2.0},
            r"^env_params has link_length_2, but must leave it out: gymnax/Ac",
        ),
        (
            "gymnax/CartPole-v1",
            {"masscart": 2.0, "total_mass": 3.0},
            r"^env_params has masscart, but must leave it out beside total_mass: gymnax/CartPole-v1 never reads it\.$",
        ),
        (
            "probe/Action",
            {"gravity": 1.0},
            r"^env_params has gravity, but must be left out for probe/Action, which has",
        ),
        ("brax/inverted_pendulum", {"backend": "mjx"}, r"^env_params has backend, but must be left out for brax/inv"),
    ],
)
def test_mistakes_are_one_sentence(env, params, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        envs.make(env, env_params=params.items())


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"gravity": [1.0]}, r"^env_params is .*, but must be a table of names and their values"),
        (7, r"^env_params is 7, but must be a table of names and their values"),
        ({"gravity": float("nan")}, r"^env_params has gravity = nan, but must be a finite number\.$"),
        ([["gravity", 1.0], ["gravity", 2.0]], r"^env_params names gravity, gravity, but must name nothing twice"),
    ],
)
def test_what_is_no_table_is_refused(value, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(env_params=value).validate()


def test_an_environment_of_ones_own_that_takes_no_parameters_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CUSTOM, "mine/Still", lambda max_episode_steps: None)
    sentence = r"^env mine/Still cannot be built with max_episode_steps None, gravity = 1\.0: TypeError: .*unexpected"
    with pytest.raises(ConfigError, match=sentence):
        envs.make("mine/Still", env_params=[("gravity", 1.0)])


def test_types_are_those_of_the_environments_own_values() -> None:
    own = {"a": 1, "b": 1.0, "c": True, "d": "x", "e": (1, 2)}
    found = checked_params("x/y", {"a": 3, "b": 3, "c": False, "d": "y"}, own)
    assert found == {"a": 3, "b": 3.0, "c": False, "d": "y"}
    assert type(found["b"]) is float
    for name, value in (("a", 1.5), ("c", 1), ("d", 1), ("e", 1)):
        with pytest.raises(ConfigError, match=r"^env_params"):
            checked_params("x/y", {name: value}, own)
