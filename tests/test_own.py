"""What users bring, by import path: the fixture project in lab_project/, in this process and as a user would run it."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_precision import is_exact, products
from test_update import make_batch, make_learner, make_state, minibatch_loss, minibatch_update

import purejaxppo as pjp
from purejaxppo import envs, own, rediagnosis
from purejaxppo.envs.names import CUSTOM
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import strengths_of
from purejaxppo.networks import make_actor_critic
from purejaxppo.ppo.interventions.owned import operate_after_step, own_penalties
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.results.dataset import own_metrics
from purejaxppo.sweep import store
from purejaxppo.sweep.engine import checked
from purejaxppo.sweep.plan import make_groups, own_modules, parse_sweep, to_json
from purejaxppo.sweep.policies import check_fit
from purejaxppo.training.diagnosis import own_metrics as measured_by_own

PROJECT = Path(__file__).parent / "lab_project"
SWEEP = {
    "config": {"env": "lab.envs:corridor", "interventions": ["lab.tricks:my_penalty", "lab.tricks:shrink"]},
    "hparams": {"my_penalty_margin": 1, "shrinkage": 0.0},
    "axes": {"my_penalty_coef": [0, 2]},
}
SHAPE = (3, 10, 2)  # of the corridor's observations


@pytest.fixture(autouse=True)
def _lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module of somebody's own with some code and says its name."""

    def write(code: str) -> str:
        name = f"brought_{abs(hash((code, tmp_path)))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


# --- Where it is found


@pytest.mark.parametrize(
    "path", ["lab.nets", "lab.nets:", ":Torso", "lab nets:Torso", "lab.nets:Torso:x", "lab/nets:T"]
)
def test_what_is_no_import_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="must be an import path, module:name"):
        pjp.TrainConfig(network=path).validate()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("lob.nets:Torso", "network needs module lob.nets, but there is no lob on sys.path or beside the sweep file."),
        ("lab.nats:Torso", "network needs module lab.nats, but there is no lab.nats on sys.path"),
        ("lab.nets:Toros", "has no Toros."),
        ("lab.nets:nn", "which must be a class of flax.linen (or flax.nnx) modules."),
    ],
)
def test_what_is_missing_is_one_sentence(path: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_actor_critic(pjp.TrainConfig(network=path), SHAPE, 2, state_independent_scale=False)
    assert sentence in str(error.value)


def test_what_is_in_a_notebook_or_in_no_file_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^diagnostics is in __main__, a notebook or the script that runs, but must be"
    ):
        own.find("diagnostics", "__main__:diag")
    with pytest.raises(ConfigError, match=r"^env is 'sys:Foo', but sys, built in, has no Foo"):
        own.find("env", "sys:Foo")
    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    with pytest.raises(ConfigError, match=r"there is no module made_up on sys\.path"):
        own.sources(["made_up"])
    assert own.sources(["sys"]).keys() == {"source_of_sys"}


def test_a_module_that_cannot_be_imported_says_where(module: Any) -> None:
    name = module("import math\n\nmath.nothing")
    with pytest.raises(ConfigError, match=rf"network needs .*: AttributeError: .*{name}\.py, line 3\.$"):
        own.find("network", f"{name}:Torso")
    with pytest.raises(ConfigError, match="SyntaxError"):
        own.load("import", module("def f(:"))
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'nowhere_at_all'"):  # not the module's
        own.load("import", module("import nowhere_at_all"))


def test_modules_are_found_beside_the_sweep_file_after_all_others(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_me.py").write_text("x = 1")
    (tmp_path / "json.py").write_text("x = 1")
    (tmp_path / "sweep.toml").write_text('import = ["beside_me"]\n[config]\nenv = "beside_me:x"\n')
    sweep = pjp.Sweep.from_toml(tmp_path / "sweep.toml")
    assert sweep.folder == str(tmp_path)
    assert sweep.imports == ("beside_me",)
    assert own_modules(sweep) == ["beside_me"]
    assert own.find("env", "beside_me:x") == 1
    assert not hasattr(own.load("import", "json"), "x")


def test_modules_to_import_register_names_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget() -> None:
        CUSTOM.pop("lab/Corridor", None)
        sys.modules.pop("lab.setup", None)

    forget()

    file = tmp_path / "sweep.toml"
    file.write_text('[config]\nenv = "lab/Corridor"\n')
    with pytest.raises(ConfigError, match="env 'lab/Corridor' is unknown"):
        pjp.Sweep.from_toml(file)
    store.create(tmp_path / "out", pjp.Sweep.from_toml(file, imports=["lab.setup"]))
    assert own.sources(["lab"]).keys() == own.sources(own_modules(store.read_sweep(tmp_path / "out"))).keys()
    forget()
    assert store.read_sweep(tmp_path / "out").config.env == "lab/Corridor"
    assert "lab/Corridor" in envs.list_environments()
    forget()


def test_the_code_of_a_package_is_all_its_files_that_of_a_module_its_one(module: Any, tmp_path: Path) -> None:
    name = module("a = 1")
    first = own.sources([name])
    (tmp_path / "another.py").write_text("b = 1")
    assert own.sources([name]) == first
    (tmp_path / f"{name}.py").write_text("a = 2")
    assert own.sources([name]) != first
    assert list(first) == [f"source_of_{name}"]
    shutil.copytree(PROJECT / "lab", tmp_path / "lab_copy")
    whole = own.sources(["lab_copy.nets", "lab_copy.envs"])
    assert list(whole) == ["source_of_lab_copy"]
    (tmp_path / "lab_copy/tricks.py").write_text("")
    assert own.sources(["lab_copy.nets"]) != whole


def test_code_that_changed_after_its_import_is_not_said_to_have_run(module: Any, tmp_path: Path) -> None:
    name = module("a = 1")
    own.load("import", name)
    before = own.sources([name])
    (tmp_path / f"{name}.py").write_text("a = 2\nb = 3")
    own.load("import", name)  # a sweep that is under way builds its next program
    with pytest.raises(ConfigError, match=rf"^module {name}, .*\.py, has changed since this process imported it; res"):
        own.sources([name])
    importlib.reload(sys.modules[name])
    assert own.sources([name]) != before


def test_two_projects_with_modules_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: Any) -> None:
    """Unless their code is the same, as that of two checkouts."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own, "_beside", [])
    monkeypatch.delitem(sys.modules, "trap_env", raising=False)
    codes = {
        "a/trap_env.py": "x = 1",
        "b/trap_env/__init__.py": "x = 2",
        "c/other.py": "x = 1",
        "d/trap_env.py": "x = 1",
    }
    for path, code in codes.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(code)
        (tmp_path / path[0] / "s.toml").write_text('[config]\nenv = "trap_env:x"\n')
    for _ in range(2):
        pjp.Sweep.from_toml(tmp_path / "a/s.toml")
        sentence = rf"^module trap_env is in {tmp_path}/b, beside the sweep file, but .* that of {tmp_path}/a; two"
        with pytest.raises(ConfigError, match=sentence):
            pjp.Sweep.from_toml(tmp_path / "b/s.toml")
        with pytest.raises(ConfigError, match=sentence):
            pjp.Sweep.from_toml(tmp_path / "b/s.toml", imports=["trap_env"])
        for project in "cd":  # has none of its own; has a copy
            pjp.Sweep.from_toml(tmp_path / project / "s.toml")
        own.load("env", "trap_env")


def test_a_module_that_changed_between_its_import_and_our_first_look_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    """As in a notebook: import lab, edit it, run a sweep. Reading what was run before goes on."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for name, is_changed in (("early_same", False), ("early_changed", True)):
        (tmp_path / f"{name}.py").write_text("x = 1")
        importlib.invalidate_caches()
        importlib.import_module(name)
        if is_changed:
            (tmp_path / f"{name}.py").write_text("x = 1000")
        own.load("env", name)
        with pytest.raises(ConfigError, match=f"^module {name}, .* has changed") if is_changed else nullcontext():
            own.sources([name])
        assert own.sources([name], is_to_run=False).keys() == {f"source_of_{name}"}


def test_the_code_of_our_own_package_is_not_a_users() -> None:
    assert own.sources(["purejaxppo.diagnostics.ntk", "sys"]).keys() == {"source_of_sys"}


# --- The plan


def test_hyperparameters_are_floats_but_where_interventions_of_ones_own_have_strengths() -> None:
    assert all(isinstance(value, float) for value in vars(pjp.HyperParams()).values())
    content = {"config": {"env": "gymnax/CartPole-v1"}, "hparams": {"gamma": 0.9}}
    (run,) = make_groups(parse_sweep(content))[0].runs
    assert run.hparams == pjp.HyperParams(gamma=0.9)


def test_strengths_are_swept_inside_one_program_and_json_gives_the_sweep_back() -> None:
    sweep = parse_sweep(SWEEP)
    (group,) = make_groups(sweep)
    assert [strengths_of(run.hparams)["my_penalty_coef"] for run in group.runs] == [0.0, 2.0]
    assert all(strengths_of(run.hparams)["my_penalty_margin"] == 1.0 for run in group.runs)
    assert parse_sweep(json.loads(json.dumps(to_json(sweep)))) == sweep
    assert sweep.swept == ["my_penalty_coef"]
    leaves = jax.tree.leaves(group.runs[0].hparams)
    assert len(leaves) == len(dataclasses.fields(pjp.HyperParams)) + 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"hparams": {"my_penalty_coef": 1.0}}, "[hparams] field 'my_penalty_coef' is unknown"),
        ({"axes": {"my_penalty_coef": [1.0]}}, "swept field 'my_penalty_coef' is unknown"),
        ({"hparams": {"strengths": {"a": 1.0}}}, "[hparams] field 'strengths' is unknown"),
        ({"import": "lab.setup"}, "import is 'lab.setup', but must be a list of modules"),
        ({"import": ["lab/setup"]}, "but must be the name of a module"),
        ({"config": {"diagnostics": []}}, "diagnostics is [], but must be true, false or a list of import paths"),
        ({"config": {"diagnostics": ["churn"]}}, "diagnostics is 'churn', but must be an import path"),
        ({"config": {"diagnostics": ["a:b", "a:b"]}}, "must name nothing twice"),
        (
            {"config": {"network": "a:b", "layer_norm": True}},
            "layer_norm is True, but must be False with network",
        ),
        (
            {"config": {"network": "a:b", "pfo_layers": "all", "pfo_features": "features"}},
            "pfo_features is 'features' with pfo_layers 'all'",
        ),
        (SWEEP | {"hparams": {"shrinkage": "much"}}, "shrinkage is 'much', but must be a number."),
        (SWEEP | {"hparams": {"shrinkage": float("inf")}}, "shrinkage is inf, but must be a finite number"),
        (SWEEP | {"points": [{"stretch": 1.0}, {}]}, "stretch is in some points only"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(content: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_sweep(content)
    assert sentence in str(error.value)


def test_another_source_is_refused_without_force(tmp_path: Path) -> None:
    sweep = parse_sweep(SWEEP, folder=str(PROJECT))
    store.create(tmp_path / "out", sweep)
    assert store.read_sweep(tmp_path / "out").folder == str(PROJECT)
    assert "folder" not in to_json(sweep)
    facts = own.sources(own_modules(sweep))
    store.write_json(tmp_path / "out" / store.PROVENANCE, facts | {"own_metrics": {"churn": ["a", "", "b", "c"]}})
    store.check_same(tmp_path / "out", sweep, facts, is_forced=False)
    other = dict.fromkeys(facts, "0123456789abcdef")
    with pytest.raises(ConfigError, match=r"source_of_lab \(.* there, 0123456789abcdef here\).*needs --force"):
        store.check_same(tmp_path / "out", sweep, other, is_forced=False)
    store.check_same(tmp_path / "out", sweep, other, is_forced=True)
    store.note_continuation(tmp_path / "out", other)
    with pytest.warns(UserWarning, match="the source of lab has changed"):
        store.warn_of_other_sources(tmp_path / "out", sweep)


def test_a_sweep_made_in_python_remembers_where_its_modules_are() -> None:
    """So that `resume` and `evaluate`, in another process, find them."""
    sweep = dataclasses.replace(parse_sweep(SWEEP, folder=str(PROJECT)), folder=None)
    assert checked(sweep, tensorboard=False).folder == str(PROJECT)
    assert checked(parse_sweep({}), tensorboard=False).folder is None
    assert own.place_of(["json", "gymnax", "purejaxppo.diagnostics.ntk", "lab"]) == str(PROJECT)
    assert own.place_of(["json", "gymnax"]) is None  # installed: not to be looked for where they were


def test_without_anything_of_ones_own_a_directory_says_nothing_of_it(tmp_path: Path) -> None:
    store.create(tmp_path / "out", parse_sweep({}, folder=str(tmp_path)))
    assert {"folder", "import"}.isdisjoint(store.read_json(tmp_path / "out" / store.SWEEP))


# --- Environments


CORRIDOR = """
    import jax.numpy as jnp
    from lab.envs import Corridor
    from purejaxppo.envs import Box
    class Mine(Corridor):
        {}
"""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("observation_shape = (10, 3, 2)", "reset's observation is bool[3, 10, 2], but observation_shape and"),
        ("observation_dtype = jnp.dtype('float32')", "is bool[3, 10, 2], but observation_shape and observation_dtype"),
        ("observation_shape = 10", "has observation_shape 10, but must have a tuple of whole numbers"),
        ("observation_shape = [3, 10, 2]", "observation_shape [3, 10, 2], but must have a tuple of whole numbers"),
        ("observation_dtype = jnp.dtype('int32')", "dtype('int32'), but must have bool, uint8 or float32"),
        ("observation_dtype = 'boolish'", "observation_dtype 'boolish', but must have bool, uint8 or float32"),
        ("action_space = 2", "has action_space 2, but must have a Discrete or a Box"),
        ("step = lambda self, key, state, action: (1, 2)", "step gives tuple, but must give a purejaxppo.envs.Step"),
        ("step = lambda self, key, state, action: 1 / 0", "cannot reset and step: ZeroDivisionError"),
        ("__init__ = lambda self: None", "cannot be built with max_episode_steps None: TypeError"),
        (
            "step = lambda self, *x: Corridor.step(self, *x).replace(reward=jnp.ones(1))",
            "step's reward is float32[1], but it must be float32[]",
        ),
        (
            "step = lambda self, *x: Corridor.step(self, *x).replace(state=jnp.ones(1))",
            "step's state is float32[1], but reset's is",
        ),
        ("action_space = Box((3,), (-1.0,), (1.0,))", "low=(-1.0,), high=(1.0,)), but a Box must have the shape [A]"),
        ("action_space = Box((3,), -1.0, 1.0)", "low=-1.0, high=1.0), but a Box must have the shape [A]"),
        ("action_space = Box((1,), (-float('inf'),), (1.0,))", "must have the shape [A] and A finite numbers"),
        ("action_space = Box((1,), (-3e38,), (3e38,))", "but a Box must have"),  # whose difference is infinite
        ("action_space = Box((1,), (float('nan'),), (1.0,))", "must have the shape [A] and A finite numbers"),
        ("action_space = Box((1,), (1.0,), (-1.0,))", "every low one below its high one"),
        ("action_space = Box(1, (-1.0,), (1.0,))", "but a Box must have the shape [A]"),
        ("max_episode_steps = property(lambda self: 0.5, lambda *x: None)", "has max_episode_steps 0.5, but must have"),
        ("max_episode_steps = property(lambda self: True, lambda *x: None)", "max_episode_steps True, but must have"),
        ("max_episode_steps = property(lambda self: 0, lambda *x: None)", "max_episode_steps 0, but must have"),
    ],
)
def test_an_environment_that_breaks_the_contract_is_refused(module: Any, code: str, sentence: str) -> None:
    name = module(textwrap.dedent(CORRIDOR).format(code))
    with pytest.raises(ConfigError) as error:
        envs.make(f"{name}:Mine")
    assert sentence in str(error.value)


def test_an_environment_registered_or_by_path_is_checked_and_must_take_the_limit(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module("from lab.envs import Corridor\nENV = Corridor()\ndef f(max_episode_steps): return Corridor(9)\n")
    with pytest.raises(ConfigError, match=rf"^env {name}:ENV is Corridor, but must be a function or class that"):
        envs.make(f"{name}:ENV")
    assert envs.make(f"{name}:f").max_episode_steps == envs.make(f"{name}:f", max_episode_steps=9).max_episode_steps
    with pytest.raises(ConfigError, match=r"was called with max_episode_steps 7, but has max_episode_steps 9; it must"):
        envs.make(f"{name}:f", max_episode_steps=7)
    monkeypatch.setitem(CUSTOM, "mine/X", lambda max_episode_steps: 5)
    with pytest.raises(ConfigError, match=r"^env mine/X gives int, but must give a purejaxppo\.envs\.Environment\."):
        envs.make("mine/X")


def test_an_environment_by_import_path_is_called_with_the_time_limit() -> None:
    assert envs.make("lab.envs:corridor").max_episode_steps == 50
    assert envs.make("lab.envs:corridor", max_episode_steps=7).max_episode_steps == 7
    with pytest.raises(ConfigError, match="sticky_actions is 2"):
        pjp.TrainConfig(env="lab.envs:corridor", sticky_actions=2.0).validate()


# --- Networks


@pytest.mark.parametrize("torso", ["lab.nets:Torso", "lab.nets:NnxTorso"])
@pytest.mark.parametrize("share_trunk", [False, True])
def test_a_network_is_a_torso_with_our_heads_at_any_batch_shape(torso: str, share_trunk: bool) -> None:
    config = pjp.TrainConfig(network=torso, share_trunk=share_trunk, initialization="orthogonal")
    networks = make_actor_critic(config, SHAPE, 2, state_independent_scale=False)
    params = networks.init(jax.random.key(0))
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, *SHAPE)), jnp.float32)
    policy, critic = networks.both(params, obs)
    width = networks.hidden_sizes[-1]
    assert policy.features.shape == policy.preactivations[-1].shape == (2, 5, width)
    assert (policy.outputs.shape, critic.outputs.shape) == ((2, 5, 2), (2, 5, 1))
    layers = params["shared" if share_trunk else "policy"]
    head = layers["policy_head"]["kernel"]
    np.testing.assert_allclose(head.T @ head, 1e-4 * np.eye(2), atol=1e-7)  # orthogonal, gain 0.01
    np.testing.assert_allclose(policy.outputs, policy.features @ head, rtol=1e-4, atol=1e-6)
    each = networks.policy(params, obs[1, 2])
    np.testing.assert_allclose(each.outputs, policy.outputs[1, 2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("torso", ["lab.nets:Torso", "lab.nets:NnxTorso"])
@pytest.mark.parametrize("precision", ["highest", "default"])
def test_products_of_a_torso_have_the_precision_that_is_asked_for(torso: str, precision: str) -> None:
    """Of the gradient as well, inside of a trainer, which computes all else exactly; on a CPU in the same bits."""
    config = pjp.TrainConfig(network=torso, matmul_precision=precision)
    networks = make_actor_critic(config, SHAPE, 2, state_independent_scale=False)
    params, obs = networks.init(jax.random.key(0)), jnp.ones((4, *SHAPE))

    def loss(params: Any) -> jax.Array:
        return sum((output.outputs.sum() for output in networks.both(params, obs)), jnp.zeros(()))

    with jax.default_matmul_precision("highest" if precision == "default" else "default"):
        found = list(products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    assert len(found) >= 6
    assert {is_exact(product) for product in found} == {precision == "highest"}


def test_our_own_network_as_a_users_gives_the_same_numbers(module: Any) -> None:
    name = module(
        """
        from flax import linen as nn
        from purejaxppo.networks import UniformDense
        class Torso(nn.Module):
            @nn.compact
            def __call__(self, obs):
                first = UniformDense(7, "highest", name="hidden_0")(obs.reshape(obs.shape[0], -1))
                second = UniformDense(5, "highest", name="hidden_1")(nn.relu(first))
                return nn.relu(second), [first, second]
        """
    )
    plain = make_actor_critic(pjp.TrainConfig(hidden_sizes=(7, 5)), SHAPE, 2, state_independent_scale=True)
    config = pjp.TrainConfig(network=f"{name}:Torso")
    brought = make_actor_critic(config, SHAPE, 2, state_independent_scale=True)
    assert brought.hidden_sizes == (7, 5)
    params = plain.init(jax.random.key(0))
    moved = {
        network: {"torso": {k: x for k, x in layers.items() if k.startswith("hidden_")}}
        | {k: x for k, x in layers.items() if not k.startswith("hidden_")}
        for network, layers in params.items()
    }
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(6, *SHAPE)), jnp.float32)
    for ours, theirs in zip(plain.both(params, obs), brought.both(moved, obs), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


TORSO = """
    import jax.numpy as jnp
    from flax import linen as nn
    class Torso(nn.Module):
        {}
        @nn.compact
        def __call__(self, obs):
            x = obs.reshape(obs.shape[0], -1)
            z = nn.Dense(4)(x)
            {}
"""


@pytest.mark.parametrize(
    ("fields", "returns", "sentence"),
    [
        ("width: int", "return z, [z]", "cannot be applied to observations [3, 3, 10, 2]: TypeError"),
        ("", "return z", "what it gives is float32[3, 4], but must be (features [B, D], list of pre-activations"),
        ("", "return z, []", "but must be (features"),
        ("", "return z, [z[:, :2]]", "it gives (float32[3, 4], [float32[3, 2]]), but must be (features"),
        ("", "return z[0], [z[0]]", "it gives (float32[4], [float32[4]]), but must be"),
        ("", "return z.astype('bfloat16'), [z.astype('bfloat16')]", "all float32"),
        ("", "return z[:1], [z[:1]]", "it gives (float32[1, 4], [float32[1, 4]])"),
        ("", "return z @ jnp.ones((3, 3)), [z]", "cannot be applied to observations [3, 3, 10, 2]: TypeError: dot"),
        ("", "y = nn.BatchNorm(use_running_average=True)(z); return y, [y]", "has variables batch_stats, params, but"),
    ],
)
def test_a_torso_of_another_shape_is_refused_before_compilation(
    module: Any, fields: str, returns: str, sentence: str
) -> None:
    name = module(textwrap.dedent(TORSO).format(fields, returns))
    config = pjp.TrainConfig(network=f"{name}:Torso")
    with pytest.raises(ConfigError) as error:
        make_actor_critic(config, SHAPE, 2, state_independent_scale=False)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        ({"network": "lab.nets:Torso"}, {}),
        ({}, {"network": "lab.nets:Torso"}),
        ({"layer_norm": True}, {}),  # whose other parameters have the same names and shapes: flax would play
        ({"hidden_sizes": (64, 65)}, {}),
    ],
)
def test_parameters_of_another_network_are_refused(trained: dict, asked: dict) -> None:
    learners = [make_whole_learner(pjp.TrainConfig(env="lab.envs:corridor", **fields)) for fields in (trained, asked)]
    params = learners[0].networks.init(jax.random.key(0))
    check_fit(learners[0], params)
    check_fit(learners[0], jax.tree.map(lambda x: x[None], params), 1)
    with pytest.raises(ConfigError, match="of another network than the configuration asks for: "):
        check_fit(learners[1], params)


# --- Interventions and diagnostics


def test_a_penalty_adds_its_coefficient_times_its_value_and_its_gradient() -> None:
    learner = make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    on = dataclasses.replace(learner, interventions=(own.find_intervention("lab.tricks:my_penalty"),))
    hparams = pjp.OwnHyperParams(strengths={"my_penalty_coef": 0.3, "my_penalty_margin": 0.01})

    def penalty(params: Any) -> jax.Array:
        norm = jnp.square(learner.networks.policy(params, batch.obs).features).sum(-1)
        return jnp.maximum(norm - 0.01, 0.0).mean()

    def loss(learner: Any) -> Any:
        key = jax.random.key(0)
        return jax.value_and_grad(
            lambda params: minibatch_loss(params, learner, hparams, state, batch, key)[0]
        )(state.params)  # fmt: skip

    (value, gradient), (plain, plain_gradient) = loss(on), loss(learner)
    assert penalty(state.params) > 0
    np.testing.assert_allclose(value - plain, 0.3 * penalty(state.params), rtol=1e-3)
    expected = jax.tree.map(lambda x, y: x + 0.3 * y, plain_gradient, jax.grad(penalty)(state.params))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), gradient, expected)


def test_an_operation_after_a_step_changes_what_the_step_left() -> None:
    learner = make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    on = dataclasses.replace(learner, interventions=(own.find_intervention("lab.tricks:shrink"),))
    hparams = pjp.OwnHyperParams(strengths={"shrinkage": 0.25})
    plain, shrunk = (
        minibatch_update(x, hparams, jnp.float32(0.1), state, batch, jax.random.key(0))[0] for x in (learner, on)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.75 * b, rtol=1e-5, atol=1e-7), shrunk.params, plain.params
    )
    jax.tree.map(np.testing.assert_array_equal, shrunk.optimizer, plain.optimizer)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("f = 3", "must be a function marked with @pjp.penalty or @pjp.after_step"),
        ("def f(networks, batch): return 0.0", "must be a function marked with"),
        ("@pjp.penalty\ndef f(networks, batch): return networks.policy.features", "gives float32[8, "),
        ("@pjp.penalty\ndef f(networks, batch): return 1 / 0", "fails: ZeroDivisionError"),
        ("@pjp.penalty\ndef f(networks, batch, *, other): return other", "other is missing in [hparams]"),
        ("@pjp.after_step\ndef f(before, after, key): return after['policy']", "which gives other parameters than it"),
        ("@pjp.after_step\ndef f(before, after): return after", "fails: TypeError"),
    ],
)
def test_an_intervention_of_another_kind_is_refused(module: Any, code: str, sentence: str) -> None:
    name = module("import purejaxppo as pjp\n" + code)
    learner = make_learner()
    state = make_state(learner)
    batch = jax.tree.map(lambda x: x[:8], make_batch(learner, state))
    hparams = pjp.OwnHyperParams(strengths={"f_coef": 1.0})

    def use() -> None:
        on = dataclasses.replace(learner, interventions=(own.find_intervention(f"{name}:f"),))
        own_penalties(on, hparams, state, batch, on.both(state, batch.obs))
        operate_after_step(on, hparams, state.params, state.params, jax.random.key(0))

    with pytest.raises(ConfigError) as error:
        use()
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("rows", "returns", "sentence"),
    [
        ("", "{}", "must be a function marked with @pjp.diagnostic"),
        ("a=('one', 'two')", "{}", "whose row a is ('one', 'two'), but must be (long name, units, definition)"),
        ("a=('a', '', 'b')", "{'b': 1.0}", "gives ['b'], but must give a dict of what it has rows for: a."),
        ("a=('a', '', 'b')", "1.0", "gives float, but must give a dict"),
        ("a=('a', '', 'b')", "{'a': batch.advantage}", "whose a is float32["),
        ("a=('a', '', 'b')", "{'a': before.nothing}", "fails: AttributeError"),
    ],
)
def test_a_diagnostic_of_another_kind_is_refused(module: Any, rows: str, returns: str, sentence: str) -> None:
    code = f"import purejaxppo as pjp\n@pjp.diagnostic({rows})\ndef f(before, after, batch): return {returns}\n"
    name, learner = module(code), make_learner()
    state = make_state(learner)
    batch = make_batch(learner, state)
    moment = (state, learner.both(state, batch.obs))

    def use() -> None:
        on = dataclasses.replace(learner, diagnostics=(own.find_diagnostic(f"{name}:f"),))
        measured_by_own(on, moment, moment, batch)

    with pytest.raises(ConfigError) as error:
        use()
    assert sentence in str(error.value)


def test_a_diagnostic_sees_the_networks_before_and_after_and_can_ask_them_more(module: Any) -> None:
    code = """
    import purejaxppo as pjp
    @pjp.diagnostic(moved=("moved", "", "mean change of the value"), again=("again", "", "the same, asked again"))
    def f(before, after, batch):
        again = after.both(batch.obs)[1].outputs - before.both(batch.obs)[1].outputs
        return {"moved": (after.critic.outputs - before.critic.outputs).mean(), "again": again.mean()}
    """
    learner = make_learner()
    before, after = make_state(learner), make_state(learner)
    after = after.replace(params=jax.tree.map(lambda x: 1.5 * x, after.params))
    batch = make_batch(learner, before)
    on = dataclasses.replace(learner, diagnostics=(own.find_diagnostic(f"{module(code)}:f"),))
    found = measured_by_own(on, *((state, learner.both(state, batch.obs)) for state in (before, after)), batch)
    values = [learner.networks.critic(state.params, batch.obs).outputs for state in (before, after)]
    np.testing.assert_allclose(found["moved"], (values[1] - values[0]).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["again"], found["moved"], rtol=1e-4)


def test_a_diagnosis_is_made_anew_where_names_lead_elsewhere_by_now(module: Any, monkeypatch: Any) -> None:
    """A diagnostic that was reloaded, an environment that was registered again: not the numbers of before."""
    name = module(
        "import purejaxppo as pjp\n@pjp.diagnostic(a=('a', '', 'b'))\ndef f(before, after, batch): return {'a': 0.0}"
    )
    monkeypatch.setitem(CUSTOM, "mine/Again", own.find("env", "lab.envs:corridor"))
    config = pjp.TrainConfig(env="mine/Again", num_snapshots=1, diagnostics=(f"{name}:f",), hidden_sizes=(4,))
    made = [rediagnosis._program(config), rediagnosis._program(config)]
    importlib.reload(sys.modules[name])
    made += [rediagnosis._program(config), rediagnosis._program(config)]
    monkeypatch.setitem(CUSTOM, "mine/Again", own.find("env", "lab.envs:Corridor"))
    made += [rediagnosis._program(config)]
    assert [made.index(one) for one in made] == [0, 0, 2, 2, 4]


NO_METRICS = ("group", "seed", "env_steps", "run", "log", "run_index", "log_point", "gamma", "env")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (SWEEP | {"hparams": {"shrinkage": 0.0}}, "my_penalty_margin is missing in [hparams]"),
        (SWEEP | {"hparams": SWEEP["hparams"] | {"shrinkag": 0.0}}, "'shrinkag' is unknown; did you mean shrinkage"),
        ({"config": {"interventions": ["clash:pfo"]}}, "whose strength pfo_coef is already a field of ours"),
        ({"config": {"diagnostics": ["clash:kl"]}}, "gives a metric kl, which is ours already"),
        *(
            (
                {"config": {"diagnostics": [f"clash:{name}"]}},
                f"gives a metric {name}, but must call it by one word that",
            )
            for name in NO_METRICS
        ),
        (
            {"config": {"interventions": ["clash:once"], "diagnostics": ["clash:much"]}, "hparams": {"much": 1.0}},
            "'clash:much' gives a metric much, but must call it by one word that is no field, strength",
        ),
        ({"config": {"interventions": ["clash:seeded"]}}, "whose strength group is already a column of ours; call"),
        ({"config": {"interventions": ["clash:ranked"]}}, "whose strength policy_rank is already a metric of ours"),
    ],
)
def test_names_are_checked_before_anything_is_compiled_or_written(
    module: Any, monkeypatch: Any, tmp_path: Path, content: dict, sentence: str
) -> None:
    code = "import purejaxppo as pjp\n@pjp.penalty\ndef pfo(networks, batch): return 0.0\n"
    for name in ("kl", "much", *NO_METRICS):
        code += f"@pjp.diagnostic({name}=('x', '', 'y'))\ndef {name}(before, after, batch): return {{'{name}': 0.0}}\n"
    for name, strength in (("once", "much"), ("seeded", "group"), ("ranked", "policy_rank")):
        code += f"@pjp.after_step\ndef {name}(before, after, key, *, {strength}): return after\n"
    (tmp_path / "clash.py").write_text(code)
    monkeypatch.delitem(sys.modules, "clash", raising=False)
    small = {"env": "lab.envs:corridor", "num_steps": 8, "minibatch_size": 16, "num_plasticity_points": 0}
    sweep = parse_sweep(content | {"config": small | content["config"]})
    with pytest.raises(ConfigError) as error:
        pjp.run_sweep(sweep, tmp_path / "out", is_quiet=True)
    assert sentence in str(error.value)
    assert not (tmp_path / "out").exists()


# --- As a user would run it


def run(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "purejaxppo", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )


def test_a_project_of_ones_own_is_swept_killed_resumed_and_looked_at(tmp_path: Path) -> None:
    """Everything in lab_project/ is named in its one TOML file; processes start elsewhere and find it beside that."""
    shutil.copytree(PROJECT, tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    file, out, cwd = tmp_path / "project/lab.toml", tmp_path / "out", tmp_path / "elsewhere"
    command = [sys.executable, "-m", "purejaxppo", "sweep", str(file), "--out", str(out), "--quiet"]
    environment = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while len(list(out.glob("parts/*/*.npz"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr
    assert not (out / "results.nc").exists()

    tricks = tmp_path / "project/lab/tricks.py"
    code = tricks.read_text()
    tricks.write_text(code + "# another source\n")
    refused = run("resume", out, "--quiet", cwd=cwd)
    assert refused.returncode == 2, refused.stderr
    assert "source_of_lab" in refused.stderr
    tricks.write_text(code)
    resumed = run("resume", out, "--quiet", cwd=cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert "churn" in resumed.stdout  # in the summary, with our own metrics

    dataset = store.load_results(out)
    assert own_metrics(dataset) == ["my_penalty_loss", "churn", "reversed_value"]
    assert dataset["my_penalty_coef"].values.tolist() == [0.0, 1.0]
    assert dataset["churn"].attrs["definition"].startswith("share of states whose most likely action")
    churn = dataset["churn"].values
    assert churn[:, 0].tolist() == [0.0, 0.0]  # before training
    assert ((churn >= 0) & (churn <= 1)).all()
    assert np.isfinite(dataset["my_penalty_loss"].values[:, 1:]).all()
    assert np.isfinite(dataset["reversed_value"].values).all()
    assert len(dataset.attrs["source_of_lab"]) == 16

    evaluated = run("evaluate", out, "--episodes", "4", "--seed", "1", cwd=cwd)
    assert evaluated.returncode == 0, evaluated.stderr
    assert len((out / "evaluation.csv").read_text().splitlines()) == 3
    drawn = run("render", out, "--run", "1", "--max-steps", "20", cwd=cwd)
    assert drawn.returncode == 0, drawn.stderr
    assert (out / "run_1.gif").read_bytes()[:3] == b"GIF"
    plotted = run("plot", out, "--metric", "churn", cwd=cwd)
    assert plotted.returncode == 0, plotted.stderr
    shutil.rmtree(tmp_path / "project")  # results are read without the project
    reported = run("report", out, cwd=cwd)
    assert reported.returncode == 0, reported.stderr
    page = (out / "report.html").read_text()
    assert "my_penalty_coef" in page
    assert "share of states whose most likely action" in page
    missing = run("evaluate", out, "--episodes", "4", cwd=cwd)
    assert missing.returncode == 2
    assert "there is no module lab on sys.path or beside the sweep file" in missing.stderr
