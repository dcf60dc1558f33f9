"""Trained parameters on disk, and a trained policy as a function: round trip, known actions, sentences."""

import dataclasses
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

import purejaxppo as pjp
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.ppo.state import make_learner
from purejaxppo.render import draw_acrobot, draw_cart_pole, draw_channels, play_episode, render
from purejaxppo.sweep import policies, store
from purejaxppo.sweep.plan import make_groups, parse_sweep, to_json
from purejaxppo.sweep.policies import choose_action, load_policies, load_policy, save_policies

CARTPOLE = pjp.TrainConfig(env="gymnax/CartPole-v1", hidden_sizes=(8,))


def fresh_params(config, runs):
    """Different parameters [S, ...] for each run, and statistics [S, ...] where the configuration normalises."""
    learner = make_learner(config)
    params = jax.vmap(learner.networks.init)(jnp.stack([jax.random.key(run) for run in runs]))
    shape = (len(runs), *learner.env.observation_shape)
    key_mean, key_var = jax.random.split(jax.random.key(len(runs)))
    statistics = ObservationStatistics(
        mean=jax.random.normal(key_mean, shape),
        var=jax.random.uniform(key_var, shape, minval=0.5, maxval=2.0),
        count=jnp.full(len(runs), 1024.0),
    )
    return params, None if config.normalize_observations == "off" else statistics


def save_sweep(out, content):
    """A sweep's directory with fresh policies of all runs, a file per group; returns its groups."""
    sweep = parse_sweep(content, default_name="test")
    out.mkdir(exist_ok=True)
    store.write_json(out / store.SWEEP, to_json(sweep))
    groups = make_groups(sweep)
    for number, group in enumerate(groups):
        runs = [run.index for run in group.runs]
        save_policies(out / "policies" / f"{number:04d}-0000.npz", runs, *fresh_params(group.config, runs))
    return groups


def save_one(out, config, params=None, statistics=None):
    """A sweep's directory of a single run; returns its learner and parameters."""
    learner = make_learner(config)
    params = learner.networks.init(jax.random.key(0)) if params is None else params
    out.mkdir(exist_ok=True)
    store.write_json(out / store.SWEEP, to_json(pjp.Sweep(name="one", seeds=(0,), config=config)))
    save_policies(
        out / "policies" / "one.npz", [0], *jax.tree.map(lambda x: jnp.asarray(x)[None], (params, statistics))
    )
    return learner, params


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


SWEPT = {
    "seeds": [3, 5],
    "config": {"hidden_sizes": [8], "normalize_observations": "running"},
    # The point that comes third belongs to the first group: places in the sweep and in a file differ.
    "points": [
        {"initialization": "uniform", "pfo_coef": 0.0},
        {"initialization": "orthogonal", "pfo_coef": 0.0},
        {"initialization": "uniform", "pfo_coef": 1.0},
    ],
}


def test_what_is_saved_is_loaded(tmp_path):
    groups = save_sweep(tmp_path, SWEPT)
    loaded = load_policies(str(tmp_path))
    assert [[run.index for run in found.runs] for found in loaded] == [[0, 1, 4, 5], [2, 3]]
    for found, group in zip(loaded, groups, strict=True):
        assert found.config == group.config
        assert found.runs == group.runs
        params, statistics = fresh_params(group.config, [run.index for run in group.runs])
        assert_equal(found.params, jax.tree.map(np.asarray, params))
        assert_equal(found.statistics, jax.tree.map(np.asarray, statistics))


def test_runs_are_chosen_and_put_together_from_several_files(tmp_path):
    groups = save_sweep(tmp_path, SWEPT)
    (whole, _), config = load_policies(tmp_path), groups[0].config
    (tmp_path / "policies" / "0000-0000.npz").unlink()
    params, statistics = whole.params, whole.statistics
    for name, rows in {"late": [2, 3], "rest": [0, 1]}.items():  # the files' order is not that of the runs
        index = [whole.runs[row].index for row in rows]
        part = jax.tree.map(lambda x, rows=rows: x[np.array(rows)], (params, statistics))
        save_policies(tmp_path / "policies" / f"{name}.npz", index, *part)
    assert_equal(load_policies(tmp_path)[0].params, params)
    chosen = load_policies(tmp_path, [5, 0])
    assert len(chosen) == 1
    assert chosen[0].config == config
    assert [(run.index, run.seed, run.hparams.pfo_coef) for run in chosen[0].runs] == [(0, 3, 0.0), (5, 5, 1.0)]
    assert_equal(chosen[0].params, jax.tree.map(lambda x: x[np.array([0, 3])], params))


def test_the_file_is_plain_numpy(tmp_path):
    params, _ = fresh_params(CARTPOLE, [0, 1, 2])
    save_policies(tmp_path / "new" / "p.npz", [4, 7, 9], params, None)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.npz"]
    with np.load(tmp_path / "new" / "p.npz") as content:
        names = {f"params/{net}/{layer}/{part}" for net in ("policy", "critic") for layer in ("hidden_0", f"{net}_head")
                 for part in ("kernel", "bias")}  # fmt: skip
        assert set(content.files) == names | {"run_index", "status"}
        assert content["run_index"].tolist() == [4, 7, 9]
        np.testing.assert_array_equal(content["params/policy/hidden_0/kernel"], params["policy"]["hidden_0"]["kernel"])


def test_discrete_action_is_the_argmax_computed_by_hand(tmp_path):
    config = dataclasses.replace(CARTPOLE, normalize_observations="running")
    statistics = ObservationStatistics(
        mean=jnp.array([0.5, -1.0, 0.1, 0.0]), var=jnp.array([4.0, 0.25, 1.0, 9.0]), count=jnp.float32(8.0)
    )
    rng = np.random.default_rng(5)
    random = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), fresh_params(config, [0])[0])
    _, params = save_one(tmp_path, config, jax.tree.map(lambda x: x[0], random), statistics)
    policy = load_policy(tmp_path, 0)
    obs = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)

    net = jax.tree.map(np.asarray, params["policy"])

    def by_hand(x):
        hidden = np.maximum(x @ net["hidden_0"]["kernel"] + net["hidden_0"]["bias"], 0.0)
        return np.argmax(hidden @ net["policy_head"]["kernel"] + net["policy_head"]["bias"], axis=-1)

    expected = by_hand((obs - np.array([0.5, -1.0, 0.1, 0.0])) / np.array([2.0, 0.5, 1.0, 3.0]))
    assert (expected != by_hand(obs)).any()  # normalising matters here
    np.testing.assert_array_equal(policy(obs), expected)
    np.testing.assert_array_equal(policy(obs.reshape(16, 16, 4)), expected.reshape(16, 16))
    assert int(policy(obs[3])) == expected[3]
    assert (policy.config, policy.run.index, policy.env.name) == (config, 0, "gymnax/CartPole-v1")


@pytest.mark.parametrize("kind", ["tanh_normal", "normal"])
def test_continuous_action_is_the_mode_in_the_environments_units(tmp_path, kind):
    config = pjp.TrainConfig(env="gymnax/Pendulum-v1", hidden_sizes=(8,), action_distribution=kind)
    learner, params = save_one(tmp_path, config)
    policy, obs = load_policy(tmp_path, 0), np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    loc = np.asarray(learner.networks.policy(params, jnp.asarray(obs)).outputs)[:, :1]
    expected = 2.0 * (np.tanh(loc) if kind == "tanh_normal" else loc)  # the torque is within +-2
    np.testing.assert_allclose(policy(obs), expected, rtol=1e-5, atol=1e-6)
    samples = np.asarray(policy(np.repeat(obs[:1], 4000, axis=0), jax.random.key(0)))
    assert samples.shape == (4000, 1)
    latent = np.arctanh(samples / 2.0) if kind == "tanh_normal" else samples / 2.0
    scale = np.asarray(learner.distribution.moments(learner.networks.policy(params, jnp.asarray(obs)).outputs))[0, 1]
    assert abs(latent.mean() - loc[0, 0]) < 4 * scale / 4000**0.5
    assert latent.std() == pytest.approx(scale, rel=0.05)


def test_samples_follow_the_probabilities_and_their_key(tmp_path):
    learner, params = save_one(tmp_path, CARTPOLE)
    policy, obs = load_policy(tmp_path, 0), np.array([0.5, -1.0, 0.2, 1.0], np.float32)
    probability = jax.nn.softmax(learner.networks.policy(params, jnp.asarray(obs)).outputs)[1]
    samples = np.asarray(policy(np.tile(obs, (10_000, 1)), jax.random.key(3)))
    assert abs(samples.mean() - probability) < 4 * 0.5 / 100
    np.testing.assert_array_equal(samples, policy(np.tile(obs, (10_000, 1)), jax.random.key(3)))
    assert (samples != np.asarray(policy(np.tile(obs, (10_000, 1)), jax.random.key(4)))).any()


def test_a_policy_is_compiled_once_per_shape(tmp_path, monkeypatch):
    save_one(tmp_path, CARTPOLE)
    count = 0

    def counted(learner, params, statistics, obs, key):
        nonlocal count
        count += 1
        return choose_action(learner, params, statistics, obs, key)

    monkeypatch.setattr(policies, "choose_action", counted)
    policy = load_policy(tmp_path, 0)
    for dtype in (np.float32, np.float64, np.int32):
        policy(np.zeros(4, dtype))
    assert count == 1


def test_time_aware_and_image_observations(tmp_path):
    config = dataclasses.replace(CARTPOLE, time_aware=True)
    save_one(tmp_path / "time", config)
    assert load_policy(tmp_path / "time", 0)(np.zeros(5)).shape == ()
    save_one(
        tmp_path / "image", pjp.TrainConfig(env="gymnax/Breakout-MinAtar", torso="minatar_conv", hidden_sizes=(8,))
    )
    assert load_policy(tmp_path / "image", 0)(np.zeros((7, 10, 10, 4), bool), jax.random.key(0)).shape == (7,)


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda info: info.file_size)
            at = largest.header_offset + 300  # behind two headers, inside the array
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        np.savez(path, other=np.zeros(3))


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "another file"])
def test_damaged_files_are_named(tmp_path, how):
    save_one(tmp_path, CARTPOLE)
    damage(tmp_path / "policies" / "one.npz", how)
    with pytest.raises(pjp.ConfigError, match=r"file .*one\.npz is damaged"):
        load_policies(tmp_path)


def test_sentences(tmp_path):
    with pytest.raises(pjp.ConfigError, match=r"not a sweep's: sweep\.json is missing"):
        load_policies(tmp_path)
    save_sweep(tmp_path, SWEPT)
    with pytest.raises(pjp.ConfigError, match=r"run is 6, but the sweep in .* has runs 0 to 5\."):
        load_policies(tmp_path, [0, 6])
    with pytest.raises(pjp.ConfigError, match=r"run is -1, but"):
        load_policy(tmp_path, -1)
    (tmp_path / "policies" / "0001-0000.npz").unlink()
    assert [len(found.runs) for found in load_policies(tmp_path)] == [4]  # what has finished
    with pytest.raises(pjp.ConfigError, match=r"run is 2, but .* does not hold its policy yet"):
        load_policies(tmp_path, [0, 2])
    with pytest.raises(pjp.ConfigError, match=r"obs has shape \[3\], but must end in \[4\]"):
        load_policy(tmp_path, 0)(np.zeros(3))
    (tmp_path / "policies" / "0000-0000.npz").unlink()
    with pytest.raises(pjp.ConfigError, match="holds no policy of these runs yet"):
        load_policies(tmp_path)


def colours(picture):
    return {colour for _, colour in picture.getcolors(1 << 20)}


def test_drawings_show_where_things_are():
    board = np.zeros((10, 10, 4), bool)
    board[9, 2, 0] = board[0, 7, 1] = True
    picture = draw_channels(board)
    side = picture.width // 10
    assert picture.getpixel((2 * side + 5, 9 * side + 5)) != (0, 0, 0)
    assert picture.getpixel((7 * side + 5, 5)) != (0, 0, 0)
    assert len(colours(picture)) == 3

    def orange(picture):  # centre of what is orange, the pole or the second link: (x, y), y downwards
        pixels = np.asarray(picture).astype(int)
        return np.argwhere(np.abs(pixels - [213, 94, 0]).sum(-1) < 60)[:, ::-1].mean(0) / picture.width - 0.5

    assert orange(draw_cart_pole(np.array([0.0, 0.0, 0.5, 0.0])))[0] > 0.03  # leans right
    assert orange(draw_cart_pole(np.array([2.0, 0.0, 0.0, 0.0])))[0] == pytest.approx(2.0 / 5.2, abs=0.01)
    hanging = orange(draw_acrobot(np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0])))
    assert hanging == pytest.approx([0.0, 0.33], abs=0.01)
    raised = orange(draw_acrobot(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])))  # first link to the right, second up
    assert raised == pytest.approx([0.22, -0.11], abs=0.01)


def test_an_episode_is_drawn_to_its_true_end(tmp_path):
    save_one(tmp_path, CARTPOLE)
    obs, _ = play_episode(load_policy(tmp_path, 0), 1, 200)
    is_out = (np.abs(obs[:, 0]) > 2.4) | (np.abs(obs[:, 2]) > 12 * 2 * np.pi / 360)
    assert is_out.tolist() == [False] * (len(obs) - 1) + [True]
    path = render(tmp_path, 0, seed=1, max_steps=200)
    assert path == tmp_path / "run_0.gif"
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        # Pictures that look the same are merged into one that stays longer.
        milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(picture))
    assert milliseconds == 20 * len(obs)
    assert len(play_episode(load_policy(tmp_path, 0), 1, 5)[0]) == 6


def test_an_episode_of_another_physics_is_drawn_with_it(tmp_path):
    """A pole of twice the length, on a shorter track, that has fallen at 3 degrees instead of 12."""
    params = {"length": 1.0, "theta_threshold_radians": 0.05, "x_threshold": 1.0}
    save_one(tmp_path, dataclasses.replace(CARTPOLE, env_params=tuple(sorted(params.items()))))
    obs, _ = play_episode(load_policy(tmp_path, 0), 1, 200)
    is_out = (np.abs(obs[:, 0]) > 1.0) | (np.abs(obs[:, 2]) > 0.05)
    assert is_out.tolist() == [False] * (len(obs) - 1) + [True]
    path = render(tmp_path, 0, seed=1, max_steps=200)
    with Image.open(path) as gif:
        drawn = np.asarray(gif.convert("RGB")).astype(int)
    pole = np.argwhere(np.abs(drawn - [213, 94, 0]).sum(-1) < 60)[:, 0]  # the rows that have some of it
    assert (pole.max() - pole.min()) / len(drawn) == pytest.approx(0.6, abs=0.03)  # as long as fits above the cart


def test_what_cannot_be_drawn_is_said(tmp_path):
    save_one(tmp_path, pjp.TrainConfig(env="probe/Action", hidden_sizes=(4,)))
    with pytest.raises(pjp.ConfigError, match=r"env is probe/Action, but only gymnax/CartPole-v1, .* can be drawn"):
        render(tmp_path, 0)
    save_one(tmp_path / "cart", CARTPOLE)
    for path, sentence in {"x.mp4": "must end in .gif", "nowhere/x.gif": "cannot be written: No such file"}.items():
        with pytest.raises(pjp.ConfigError, match=sentence):
            render(tmp_path / "cart", 0, tmp_path / path, max_steps=3)
    for max_steps in (0, 10**12):
        with pytest.raises(
            pjp.ConfigError, match=f"max_steps is {max_steps}, but must be at least 1 and at most 100000"
        ):
            render(tmp_path / "cart", 0, max_steps=max_steps)
    with pytest.raises(pjp.ConfigError, match=r"seed is 4294967296, but"):
        render(tmp_path / "cart", 0, seed=2**32)


def test_a_page_of_brax(tmp_path):
    config = pjp.TrainConfig(env="brax/inverted_pendulum", hidden_sizes=(4,), time_aware=True)
    save_one(tmp_path, config)
    path = render(tmp_path, 0, max_steps=20)
    assert path == tmp_path / "run_0.html"
    assert "brax" in path.read_text()[:400].lower()
    obs, physics = play_episode(load_policy(tmp_path, 0), 0, 20)
    assert physics.q.shape[0] == len(obs) - 1
    np.testing.assert_allclose(physics.q[:, 0], obs[:-1, 0], rtol=1e-6)


def test_policies_of_version_0_1_that_saw_the_time_from_0_to_1_are_refused(tmp_path: Path) -> None:
    sweep = {"name": "old", "seeds": [0], "config": {"env": "gymnax/Pendulum-v1", "time_aware": True}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    (tmp_path / "layout.json").write_text(json.dumps({"memory": None, "chunks": []}))
    with pytest.raises(pjp.ConfigError, match=r"policies of version 0.1 that saw time in \[0, 1\]"):
        pjp.load_policy(tmp_path, 0)
