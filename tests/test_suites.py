"""Suites that are extras, each where it is installed: the contract, and every transition against the package itself.

`pip install 'purejaxppo[craftax]'`, or another, and `pytest tests/test_suites.py -k craftax`.
"""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from placeholder_sprites import write_sprites
from test_envs import (
    assert_close,
    check_description,
    check_episodes_end_once_and_at_the_limit,
    check_final_obs_is_obs_until_the_end,
    check_reset_and_step_agree_on_every_leaf,
    check_shapes_and_dtypes,
    clipped,
    play,
    rows,
)

import purejaxppo as pjp
from purejaxppo import envs
from purejaxppo.envs.base import auto_reset, reset_where_over, strongly_typed
from purejaxppo.envs.suites import SUITES, versions
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.state import make_learner

LIMIT = 7
# Random play loses at brix after 19 steps at the earliest.
OTHER_LIMITS = {"octax": 20}
# One quick environment of each suite, in which random play ends episodes and comes to their limit. Playground's tasks
# terminate where the physics is no number any more, and nowhere else: that has a test of its own.
EXAMPLES = {
    "craftax": "Craftax-Classic-Symbolic-v1",
    "jumanji": "Snake-v1",
    "navix": "Navix-Dynamic-Obstacles-6x6-Random-v0",
    "octax": "brix",
    "playground": "CartpoleBalance",
    "xminigrid": "MiniGrid-EmptyRandom-5x5",
}


def needs(suite):
    return pytest.mark.skipif(not SUITES[suite].is_installed, reason=f"needs pip install 'purejaxppo[{suite}]'")


# --- Each suite against its own package


def reference_of(first, advance, limit, key_of_reset=lambda key: key):
    """An environment from a package's own functions, with a limit and fresh resets written out, for `play`.

    first(key) -> raw; advance(raw, action, key) -> (raw, observation, reward, terminated).
    """

    def reset(key):
        return strongly_typed(first(key)), jnp.int32(0)

    def step(key, state, action):
        raw, elapsed = state
        with jax.numpy_rank_promotion("allow"):
            after, obs, reward, terminated = advance(raw, action, key)
        is_over = jnp.asarray(terminated, bool) | (elapsed + 1 >= limit)
        new = strongly_typed((after, elapsed + 1))
        fresh = reset(key_of_reset(key))
        return jax.tree.map(lambda a, b: jax.lax.select(is_over, a, b), fresh, new), (obs, reward, terminated)

    return reset, step


def craftax_reference(env):
    """Craftax's own environment that resets itself; its key and ours are split alike."""
    from craftax.craftax_classic.envs.craftax_symbolic_env import CraftaxClassicSymbolicEnv

    raw = CraftaxClassicSymbolicEnv()
    params = raw.default_params.replace(max_timesteps=env.max_episode_steps)

    def reset(key):
        with jax.numpy_rank_promotion("allow"):
            return strongly_typed(raw.reset(key, params)[1])

    def step(key, state, action):
        with jax.numpy_rank_promotion("allow"):
            obs, state, reward, done, _ = raw.step(key, state, action, params)
        return strongly_typed(state), {"obs": obs, "reward": reward, "done": done}

    return reset, step


def jumanji_reference(env):
    import jumanji

    raw = jumanji.make(env.name.removeprefix("jumanji/"))

    def first(key):
        with jax.numpy_rank_promotion("allow"):
            return raw.reset(key)[0]

    def advance(state, action, key):
        state, timestep = raw.step(state, action)
        return state, timestep.observation.grid, timestep.reward, timestep.last()

    return reference_of(first, advance, env.max_episode_steps)


def octax_reference(env):
    from octax.environments import create_environment

    from purejaxppo.envs.octax import _lenient

    with _lenient():
        raw = create_environment(env.name.removeprefix("octax/"))[0]

    def advance(state, action, key):
        with _lenient():
            state, frames, reward, terminated, _, _ = raw.step(state, action)
        return state, frames.transpose(2, 1, 0), reward, terminated

    return reference_of(lambda key: raw.reset(key)[0], advance, env.max_episode_steps)


def playground_reference(env):
    from mujoco_playground import dm_control_suite

    raw = dm_control_suite.load(env.name.removeprefix("playground/"), config_overrides={"impl": "jax"})

    def first(key):
        with jax.numpy_rank_promotion("allow"):
            return raw.reset(key)

    def advance(state, action, key):
        state = raw.step(state, clipped(action, env.action_space))
        return state, state.obs, state.reward, state.done > 0

    return reference_of(first, advance, env.max_episode_steps)


def xminigrid_reference(env):
    import xminigrid

    raw, params = xminigrid.make(env.name.removeprefix("xminigrid/"))

    def first(key):
        with jax.numpy_rank_promotion("allow"):
            return raw.reset(params, key)

    def advance(timestep, action, key):
        timestep = raw.step(params, timestep, action)
        return timestep, symbols(timestep.observation, (13, 12)), timestep.reward, timestep.discount == 0

    return reference_of(first, advance, env.max_episode_steps)


def navix_reference(env):
    """Navix draws from a key in its state: the same one as ours has at each step."""
    import navix

    raw = navix.make(env.name.removeprefix("navix/"), max_steps=env.max_episode_steps)

    def first(key):
        with jax.numpy_rank_promotion("allow"):
            return raw.reset(key)

    def advance(timestep, action, key):
        state = timestep.state.replace(key=jax.random.split(key)[0])
        after = raw._step(timestep.replace(state=state), action)
        return after, symbols(after.observation, (11, 6, 4)), after.reward, after.step_type == 2

    return reference_of(first, advance, env.max_episode_steps, lambda key: jax.random.split(key)[1])


def symbols(ids, sizes):
    """Categories side by side, written with comparisons."""
    parts = [ids[..., i][..., None] == jnp.arange(size) for i, size in enumerate(sizes)]
    return jnp.concatenate(parts, axis=-1)


REFERENCES = {name.removesuffix("_reference"): x for name, x in list(globals().items()) if name.endswith("_reference")}


@pytest.fixture
def starving(monkeypatch):
    """Craftax's worlds with nothing in the stomach, and strength for 1 to 12 steps: nobody dies so soon by chance."""
    if not SUITES["craftax"].is_installed:
        return
    module = importlib.import_module("craftax.craftax_classic.envs.craftax_symbolic_env")
    original = module.generate_world

    def generate_world(key, *arguments):
        world, strength = original(key, *arguments), jax.random.uniform(key, (), minval=4.0, maxval=16.0)
        weak = {"player_food": jnp.zeros_like(world.player_food), "player_health": jnp.ones_like(world.player_health)}
        return world.replace(player_recover=-strength, **weak)

    monkeypatch.setattr(module, "generate_world", generate_world)


@pytest.mark.usefixtures("starving")
@pytest.mark.parametrize("suite", [pytest.param(suite, marks=needs(suite)) for suite in EXAMPLES])
def test_contract(suite):
    base = EXAMPLES[suite]
    env = envs.make(f"{suite}/{base}", max_episode_steps=OTHER_LIMITS.get(suite, LIMIT))
    reference = REFERENCES[suite](env)
    record = jax.jit(lambda key: play(env, key, reference=reference))(jax.random.key(0))
    step, expected = record["step"], record["expected"]
    check_description(env, f"{suite}/{base}")
    check_reset_and_step_agree_on_every_leaf(env)
    check_shapes_and_dtypes(env, record)
    check_episodes_end_once_and_at_the_limit(env, step)
    check_final_obs_is_obs_until_the_end(step)
    assert step.truncated.any()
    assert step.terminated.any() == (suite != "playground")
    if suite == "craftax":  # its own step gives the observation after the reset
        assert_close(step.obs, expected["obs"])
        assert_close(step.reward, expected["reward"])
        assert_close(step.terminated | step.truncated, expected["done"])
    else:
        assert_close(step.final_obs, expected[0])
        assert_close(step.reward, expected[1])
        assert_close(step.terminated, expected[2])
    check_first_states_differ(env, record)


@needs("playground")
def test_physics_that_breaks_ends_an_episode():
    """The observation of the end is none, its reward 0, and what comes after is a first state."""
    env = envs.make("playground/CartpoleBalance")
    _, state = jax.jit(env.reset)(jax.random.key(0))
    broken = state.replace(physics=state.physics.replace(qvel=jnp.full_like(state.physics.qvel, jnp.nan)))
    steps = jax.jit(jax.vmap(lambda state: env.step(jax.random.key(1), state, jnp.zeros(1))))
    step = steps(jax.tree.map(lambda *x: jnp.stack(x), state, broken))
    assert step.terminated.tolist() == [False, True]
    assert not step.truncated.any()
    assert np.isfinite(step.obs).all()
    assert np.isfinite(step.final_obs).all(axis=1).tolist() == [True, False]
    assert step.state.elapsed.tolist() == [1, 0]
    assert (step.reward[0] > 0, step.reward[1] == 0) == (True, True)


def check_first_states_differ(env, record):
    """Later episodes begin with states of their own: of all starts no two are the same."""
    over = np.asarray(record["step"].terminated | record["step"].truncated)
    starts = jax.tree.map(lambda x: x[over], (record["step"].obs, record["step"].state))
    values = rows(jax.tree.map(as_numbers, starts), over.sum())
    assert len(np.unique(values, axis=0)) == over.sum()


def as_numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


# --- All names


def registered(suite):
    """Names that the package itself has, of the kind that we take."""
    if suite == "craftax":
        from craftax.craftax_env import make_craftax_env_from_name as make

        found = {"Craftax-Symbolic-v1", "Craftax-Classic-Symbolic-v1"}
        assert all(make(name, auto_reset=False) for name in found)
    elif suite == "jaxtari":
        import jaxtari

        found = set(jaxtari.list_available_games())
    elif suite == "jumanji":
        import jumanji

        found = set(jumanji.registered_environments()) & set(SUITES[suite].names)
    elif suite == "navix":
        import navix

        found = set(navix.registry())
    elif suite == "octax":
        from octax import environments

        games = {path.stem for path in Path(environments.__file__).parent.glob("*.py")} - {"__init__"}
        roms = {path.stem for path in Path(environments.get_rom_path("Tank.ch8")).parent.glob("*.ch8")}
        with_levels = {"cavern", "space_flight", "target_shooter"}
        levels = {rom for rom in roms if rom[-1].isdigit() and rom.rstrip("0123456789") in with_levels}
        found = (games - with_levels) | levels
    elif suite == "playground":
        from mujoco_playground import dm_control_suite

        found = set(dm_control_suite.ALL_ENVS)
    else:
        import xminigrid

        found = {name for name in xminigrid.registered_environments() if name.startswith("MiniGrid")}
    return found


@pytest.mark.parametrize("suite", [pytest.param(suite, marks=needs(suite)) for suite in SUITES])
def test_names_are_the_packages_own(suite):
    assert registered(suite) == set(SUITES[suite].names)
    assert {f"{suite}/{name}" for name in SUITES[suite].names} <= set(envs.list_environments())
    assert list(versions([f"{suite}/x", "gymnax/CartPole-v1"])) == [f"version_{SUITES[suite].package}"]


# --- Without any of them


@pytest.mark.parametrize("suite", SUITES)
def test_a_missing_package_is_one_sentence_that_names_the_extra(suite, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x: None if x == SUITES[suite].module else find(x))
    name = f"{suite}/{SUITES[suite].names[0]}"
    assert name not in envs.list_environments()
    sentence = rf"^env of suite {suite} needs the package \w+, .* not installed: pip install 'purejaxppo\[{suite}\]'\.$"
    with pytest.raises(ConfigError, match=sentence):
        envs.check_options(name)


def test_a_reset_where_an_episode_ended_is_that_of_everyone():
    """Also of runs beside each other, in which different numbers of episodes end at a time: none, some and all."""

    def reset(key):
        state = {"x": jax.random.uniform(key, (3,)), "key": jax.random.fold_in(key, 1), "n": jnp.int32(7)}
        return state["x"] * 2, state

    def stepped(function, key, over):
        obs, state = reset(jax.random.fold_in(key, 9))
        ends = {"terminated": over == 1, "truncated": over > 0}
        return function(reset, key, obs=obs, state=state, reward=jnp.float32(1.0), **ends)

    keys = jax.random.split(jax.random.key(0), (3, 5))
    over = jnp.array([[0, 0, 0, 0, 0], [1, 0, 2, 0, 0], [1, 2, 1, 1, 2]])
    cases = [
        (lambda f: jax.vmap(jax.vmap(f)), keys, over),
        (jax.vmap, keys[1], over[1]),
        (lambda f: jax.vmap(f, (0, None)), keys[1], over[1, 2]),
        (lambda f: f, keys[1, 2], over[1, 2]),
    ]
    for nest, *given in cases:
        one, two = (jax.jit(nest(partial(stepped, f)))(*given) for f in (auto_reset, reset_where_over))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_array_equal(as_numbers(a), as_numbers(b))


# --- Jaxtari, whose sprites are somewhere else


@pytest.fixture
def sprites(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    write_sprites(tmp_path, "pong")


def jaxtari_frames(env):
    """Jaxtari's own wrapper, four frames a step, fewer where the game ends."""
    import jaxtari
    from jaxtari.wrappers import AtariWrapper

    raw = AtariWrapper(jaxtari.make("pong"), sticky_actions=0.0, episodic_life=False)

    def first(key):
        with jax.numpy_rank_promotion("allow"):
            return raw.reset(key)[1]

    def advance(state, action, key):
        obs, state, rewards, terminated, _, _ = raw.step(state, action)
        for _ in range(3):  # none of which are after the end
            *after, reward, over, _, _ = raw.step(state, action)
            obs, state = jax.tree.map(partial(jnp.where, terminated), (obs, state), tuple(strongly_typed(after)))
            rewards += jnp.where(terminated, 0.0, reward)
            terminated = terminated | over
        flat = jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(obs)])
        return state, flat, rewards, terminated

    return reference_of(first, advance, env.max_episode_steps)


@pytest.fixture
def match_points(monkeypatch):
    """Pong that begins with the ball on its way into the corner, half of the time with the last point to be made."""
    if not SUITES["jaxtari"].is_installed:
        return
    game = importlib.import_module("jaxtari.games.jax_pong").JaxPong
    original = game.reset

    def reset(self, key):
        _, state = original(self, key)
        late = {"step_counter": jnp.int32(60), "ball_x": jnp.int32(34), "ball_y": jnp.int32(60)}
        points = 20 * jax.random.bernoulli(key).astype(jnp.int32)
        state = state.replace(enemy_score=points, player_score=points, **late)
        return self._get_observation(state), state

    monkeypatch.setattr(game, "reset", reset)


@needs("jaxtari")
@pytest.mark.usefixtures("match_points")
def test_contract_of_jaxtari(sprites):
    env = envs.make("jaxtari/pong", max_episode_steps=LIMIT)
    reference = jaxtari_frames(env)
    record = jax.jit(lambda key: play(env, key, reference=reference))(jax.random.key(0))
    step, (obs, reward, terminated) = record["step"], record["expected"]
    check_description(env, "jaxtari/pong")
    check_reset_and_step_agree_on_every_leaf(env)
    check_shapes_and_dtypes(env, record)
    check_episodes_end_once_and_at_the_limit(env, step)
    check_final_obs_is_obs_until_the_end(step)
    assert step.terminated.any()
    assert step.truncated.any()
    assert_close(step.final_obs, obs)
    assert_close(step.reward, reward)
    assert_close(step.terminated, terminated)
    check_first_states_differ(env, record)


@needs("jaxtari")
def test_pixels_are_grey_bytes_that_networks_see_from_0_to_1(sprites):
    config = pjp.TrainConfig(env="jaxtari/pong", env_params=(("pixels", True),), frame_stack=2, torso="nature_conv")
    learner = make_learner(config)
    assert (learner.env.observation_shape, learner.env.observation_dtype) == ((84, 84, 2), np.uint8)
    obs, state = jax.jit(learner.env.reset)(jax.random.key(0))
    assert 20 in np.unique(obs)  # the background of the placeholders
    assert len(np.unique(obs)) > 2
    np.testing.assert_allclose(learner.network_input(None, obs), np.asarray(obs) / 255.0, rtol=1e-6)
    step = jax.jit(learner.env.step)(jax.random.key(1), state, jnp.int32(2))
    np.testing.assert_array_equal(step.final_obs[..., 0], obs[..., 1])


@needs("jaxtari")
def test_without_sprites_a_sentence_says_who_installs_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^env jaxtari/pong needs its sprites, .* install-sprites asks whether"):
        envs.make("jaxtari/pong")


@pytest.mark.parametrize(
    ("env", "params", "sentence"),
    [
        pytest.param(
            *(
                "xminigrid/MiniGrid-EmptyRandom-5x5",
                {"view_size": 4},
                r"^env_params has view_size = 4, but must be odd",
            ),
            marks=needs("xminigrid"),
        ),
        pytest.param(
            *("octax/target_shooter1", {"frame_skip": 0}, r"^env_params has frame_skip = 0, but must be at least 1"),
            marks=needs("octax"),
        ),
    ],
)
def test_parameters_under_which_a_suite_would_be_wrong_are_refused(env, params, sentence):
    with pytest.raises(ConfigError, match=sentence):
        envs.make(env, env_params=params.items())
