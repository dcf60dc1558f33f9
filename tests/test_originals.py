"""Policies in the environments they were not trained in: the original CartPole, Acrobot and MinAtar Breakout.

The mean return in the original must be that of our own evaluation, |z| < 4: a transfer of the whole chain of training,
saving, loading and playing, which nothing that our environments get wrong can pass.
"""

import jax
import numpy as np
import pytest

import purejaxppo as pjp
from purejaxppo.evaluate import evaluate
from purejaxppo.ppo.state import make_learner
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import to_json
from purejaxppo.sweep.policies import load_policy, save_policies
from purejaxppo.training.train import make_trainer

NUM_EPISODES = 200
# Environment -> steps that train a policy much better than chance (22, -499), and a return that shows it.
BUDGETS = {"CartPole-v1": (16_000, 50.0), "Acrobot-v1": (60_000, -200.0)}


def save_one(out, config, params, statistics=None):
    out.mkdir(parents=True, exist_ok=True)
    store.write_json(out / store.SWEEP, to_json(pjp.Sweep(name="one", seeds=(0,), config=config)))
    save_policies(out / "policies" / "one.npz", [0], *jax.tree.map(lambda x: np.asarray(x)[None], (params, statistics)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with a sweep's directory per environment, trained by our own trainer; observations are normalised."""
    folder = tmp_path_factory.mktemp("trained")
    for name, (total_steps, _) in BUDGETS.items():
        config = pjp.TrainConfig(
            env=f"gymnax/{name}", total_steps=total_steps, num_envs=16, num_steps=128, hidden_sizes=(32,),
            num_epochs=8, activation="tanh", normalize_observations="running", num_log_points=1, diagnostics=False,
        )  # fmt: skip
        trainer, hparams = make_trainer(config), pjp.HyperParams(learning_rate=3e-3)
        state, _ = jax.jit(trainer.segment)(hparams, jax.jit(trainer.init)(hparams, jax.random.key(0)))
        save_one(folder / name, config, state.params, state.observation_statistics)
    return folder


def play(policy, observe, step, num_episodes, max_steps):
    """Returns and lengths [E] of the first episodes of E environments of other make, with sampled actions.

    observe() -> observations [E, ...]; step(i, action) -> (reward, is_over) of environment i.
    """
    returns, lengths, is_over = np.zeros(num_episodes), np.zeros(num_episodes), np.zeros(num_episodes, bool)
    for key in jax.random.split(jax.random.key(1), max_steps):
        actions = np.asarray(policy(observe(), key))
        for i in np.flatnonzero(~is_over):
            reward, is_over[i] = step(i, int(actions[i]))
            returns[i] += reward
            lengths[i] += 1
        if is_over.all():
            break
    return returns, lengths


def assert_agree(out, returns, lengths):
    """The original's returns and lengths [E] against our own evaluation.

    z is the difference of the mean returns over its standard error; that of our mean is taken from its interval.
    """
    ours = evaluate(out, episodes=NUM_EPISODES).iloc[0]
    error = (ours.return_high - ours.return_low) / (2 * 1.96)
    z = (returns.mean() - ours.return_mean) / np.hypot(returns.std(ddof=1) / len(returns) ** 0.5, error)
    print(f"original {returns.mean():.2f}, ours {ours.return_mean:.2f}, z {z:.2f}")
    assert abs(z) < 4
    assert lengths.mean() == pytest.approx(ours.length_mean, rel=0.35)
    assert ours.cut == 0


@pytest.mark.parametrize("name", BUDGETS)
def test_original_gymnasium(trained, name):
    gymnasium = pytest.importorskip("gymnasium")
    games = [gymnasium.make(name) for _ in range(NUM_EPISODES)]
    obs = np.stack([game.reset(seed=seed)[0] for seed, game in enumerate(games)])

    def step(i, action):
        obs[i], reward, terminated, truncated, _ = games[i].step(action)
        return reward, terminated or truncated

    returns, lengths = play(load_policy(trained / name, 0), lambda: obs, step, NUM_EPISODES, 500)
    assert returns.mean() > BUDGETS[name][1]
    assert_agree(trained / name, returns, lengths)


def follow_the_ball(config):
    """A policy for Breakout that moves towards where the ball will be, the more surely the farther it is.

    With d = column of the ball + its last step to the side - column of the paddle, the logits of (stay, left, right)
    are (0, relu(-3 d), relu(3 d)). Observations are [row, column, channel]; channels: paddle, ball, trail, bricks. The
    trail is where the ball was.
    """
    params = jax.tree.map(np.zeros_like, make_learner(config).networks.init(jax.random.key(0)))
    difference = np.zeros((10, 10, 4), np.float32)
    for channel, weight in enumerate((-1, 2, -1)):
        difference[..., channel] = weight * np.arange(10)
    policy = params["policy"]
    policy["hidden_0"]["kernel"][:] = np.stack([-difference.ravel(), difference.ravel()], axis=1)
    policy["policy_head"]["kernel"][:] = np.array([[0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    return params


def test_original_breakout(tmp_path):
    """gymnax plays without sticky actions; the original has them unless told otherwise, and Breakout has no ramp."""
    minatar = pytest.importorskip("minatar")
    config = pjp.TrainConfig(env="gymnax/Breakout-MinAtar", hidden_sizes=(2,))
    save_one(tmp_path, config, follow_the_ball(config))
    games = [minatar.Environment("breakout", sticky_action_prob=0.0) for _ in range(NUM_EPISODES)]
    for seed, game in enumerate(games):
        game.seed(seed)
        game.reset()
    minimal = games[0].minimal_action_set()

    def observe():
        return np.stack([game.state() for game in games])

    limit = 1000  # gymnax's own; the original has none
    returns, lengths = play(
        load_policy(tmp_path, 0), observe, lambda i, a: games[i].act(minimal[a]), NUM_EPISODES, limit
    )
    assert returns.mean() > 5.0  # chance: 0.5
    assert_agree(tmp_path, returns, lengths)
