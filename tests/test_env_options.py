"""Names and options of environments: the registries, one-sentence mistakes, and what importing costs and prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from purejaxppo import envs
from purejaxppo.config import TrainConfig
from purejaxppo.envs.names import OURS, PROBE_NAMES, REFUSED
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.state import make_learner


def test_names_are_the_registries():
    import gymnax

    from purejaxppo.envs.brax import brax

    names = [name for name in envs.list_environments() if name.split("/")[0] in OURS]
    listed = set(names)
    assert len(listed) == len(names)
    registered = {f"gymnax/{name}" for name in gymnax.registered_envs} | {f"brax/{name}" for name in brax.envs._envs}
    assert registered - listed == set(REFUSED)
    assert listed - registered == {f"probe/{name}" for name in PROBE_NAMES}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("gymnax/CartPol-v1", {}, r"^env 'gymnax/CartPol-v1' is unknown; did you mean 'gymnax/CartPole-v1'"),
        ("cartpole-v1", {}, r"^env 'cartpole-v1' is unknown; did you mean 'gymnax/CartPole-v1'"),
        ("Hopper", {}, r"^env 'Hopper' is unknown; did you mean 'brax/hopper'"),
        ("zzz", {}, r"^env 'zzz' is unknown; `purejaxppo envs` lists"),
        ("", {}, r"^env '' is unknown"),
        ("gymnax/MNISTBandit-bsuite", {}, r"^env 'gymnax/MNISTBandit-bsuite' is not supported, since it downloads"),
        ("brax/swimmer", {"brax_backend": "generalized"}, r"^env 'brax/swimmer' is not supported"),
        ("brax/hopper", {"brax_backend": "warp"}, r"^brax_backend is 'warp', but must be one of spring, generalized"),
        ("gymnax/CartPole-v1", {"brax_backend": "warp"}, r"^brax_backend is 'warp'"),
        ("gymnax/CartPole-v1", {"max_episode_steps": 0}, r"^max_episode_steps is 0, but must be .* at least 1"),
        ("gymnax/CartPole-v1", {"max_episode_steps": 2.5}, r"^max_episode_steps is 2.5, but must be a whole number"),
        ("gymnax/CartPole-v1", {"max_episode_steps": True}, r"^max_episode_steps is True, but must be a whole number"),
        ("gymnax/CartPole-v1", {"max_episode_steps": 501}, r"^max_episode_steps is 501, but must be at most 500"),
        (
            "gymnax/Breakout-MinAtar",
            {"time_aware": True},
            r"^time_aware is true, but must be false for gymnax/Breakout",
        ),
        ("probe/Action", {"time_aware": True}, r"^time_aware is true, but must be false .* unless max_episode_steps"),
    ],
)
def test_mistakes_are_told_in_one_sentence(name, options, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        envs.make(name, **options)
    assert str(error.value).count("\n") == 0


def run_python(code, cwd):
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(Path(envs.__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240)


def test_listing_names_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, purejaxppo.envs as envs; envs.list_environments(); envs.check_options('brax/ant')\n"
        "assert not {'jax', 'gymnax', 'brax', 'mujoco'} & set(sys.modules)\n"
        "envs.make('probe/Action')\n"
        "assert 'jax' in sys.modules and not {'gymnax', 'brax'} & set(sys.modules)\n"
        "envs.make('gymnax/CartPole-v1')\n"
        "assert 'gymnax' in sys.modules and 'brax' not in sys.modules"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_brax_is_silent(tmp_path):
    """No terminal line, warning or log file from the import, a model that MuJoCo complains about, and a step."""
    code = (
        "import jax, jax.numpy as jnp\n"
        "from purejaxppo.envs import make\n"
        "env = make('brax/halfcheetah')\n"
        "_, state = jax.eval_shape(env.reset, jax.random.key(0))\n"
        "jax.eval_shape(env.step, jax.random.key(0), state, jnp.zeros(6))"
    )
    result = run_python(code, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_environment_are_those_of_the_configuration(monkeypatch):
    class Asked(Exception):
        """The options that were asked for."""

    def ask(name, **options):
        raise Asked(name, options)

    monkeypatch.setattr("purejaxppo.ppo.state.envs.make", ask)
    chosen = {"brax_backend": "generalized", "time_aware": False, "sticky_actions": 0.25, "frame_stack": 2}
    chosen |= {"max_episode_steps": 7, "env_params": {"a": 1.0}}
    with pytest.raises(Asked) as found:
        make_learner(TrainConfig(env="brax/hopper", **chosen))
    assert found.value.args == ("brax/hopper", chosen | {"env_params": (("a", 1.0),)})
