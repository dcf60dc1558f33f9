# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Your own environment, network and intervention
#
# An environment of your own needs nothing but a class and one line, right here in the notebook. A
# network, a penalty or a diagnostic needs a function in a module of yours, which a sweep names (the
# README's section "Your own, by import path"). This notebook does the first, and for networks and
# penalties shows what is there, how to try a formula first, and where it goes if it is to be part
# of the package.

# %%
import inspect
import tempfile
import typing

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import purejaxppo as pjp
from purejaxppo import networks
from purejaxppo.ppo.interventions.penalties import penalties

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 90}
num_cores = pjp.use_cpu_cores()  # before JAX computes anything: runs are split over the cores

# %% [markdown]
# The constants to turn up. There is no real study of this toy; a study of collapse would take ten
# or more seeds and millions of steps (`experiments/configs/gradual_acrobot.toml`: 3,000,000).

# %%
TOTAL_STEPS = 40_000
SEEDS = 4
ROWS, COLUMNS = 4, 8

# %% [markdown]
# ## An environment
#
# A walk along a cliff, over a grid, from anywhere above it to the goal in the bottom right corner,
# which pays +1. The rest of the bottom row but for its left end is the cliff: -1, and the episode
# ends. A gust of wind now and then pushes the walker one row down. So the way along the edge is
# risky, and the way further up is safe.
#
# What an environment needs: a name, the shape and type of its observations, its actions, and the
# functions `reset` and `step`, in `jax.numpy` and without Python `if`s on arrays. `auto_reset` does
# the rest: it starts the next episode where one ends, and keeps "ended" and "cut off by the time
# limit" apart.


# %%
class CliffWalk(pjp.envs.Environment):
    """Observations: one-hot cells. Actions: up, right, down, left. State: row, column, age."""

    name = "mine/CliffWalk"
    action_space = pjp.envs.Discrete(4)
    observation_shape, observation_dtype = (ROWS * COLUMNS,), np.dtype("bool")

    def __init__(self, max_episode_steps=None, wind=0.1):
        self.max_episode_steps = max_episode_steps or 60
        self.wind = wind

    def observe(self, row, column):
        return jnp.arange(ROWS * COLUMNS) == row * COLUMNS + column

    def reset(self, key):
        cell = jax.random.randint(key, (), 0, (ROWS - 1) * COLUMNS)  # not in the bottom row
        row, column = cell // COLUMNS, cell % COLUMNS
        return self.observe(row, column), (row, column, jnp.int32(0))

    def step(self, key, state, action):
        key_wind, key_reset = jax.random.split(key)
        gust = jax.random.bernoulli(key_wind, self.wind).astype(jnp.int32)
        row = jnp.clip(state[0] + jnp.array([-1, 0, 1, 0])[action] + gust, 0, ROWS - 1)
        column = jnp.clip(state[1] + jnp.array([0, 1, 0, -1])[action], 0, COLUMNS - 1)
        is_bottom, age = row == ROWS - 1, state[2] + 1
        is_goal = is_bottom & (column == COLUMNS - 1)
        is_cliff = is_bottom & (column > 0) & ~is_goal
        return pjp.envs.auto_reset(
            self.reset,
            key_reset,
            obs=self.observe(row, column),
            state=(row, column, age),
            reward=jnp.float32(is_goal) - jnp.float32(is_cliff),
            terminated=is_goal | is_cliff,
            truncated=age >= self.max_episode_steps,
        )


# %% [markdown]
# Register it under a name of the form `suite/Name`, with a suite of your own. The function gets
# `max_episode_steps` of the configuration, or None. From now on every configuration of this process
# knows the name; a script that resumes or evaluates such a sweep must register it too.

# %%
pjp.envs.register("mine/CliffWalk", lambda limit: CliffWalk(limit))
print([name for name in pjp.envs.list_environments() if name.startswith("mine/")])

# %% [markdown]
# Step it by hand first. A few steps whose outcome you know find most mistakes. Here is every step
# from a cell next to the edge, with the wind switched off: only down may end the episode.

# %%
calm = CliffWalk(wind=0.0)
at_the_edge = (jnp.int32(ROWS - 2), jnp.int32(3), jnp.int32(0))
for action, word in enumerate(["up", "right", "down", "left"]):
    step = calm.step(jax.random.key(1), at_the_edge, jnp.int32(action))
    cell = divmod(int(step.final_obs.argmax()), COLUMNS)
    print(f"{word}: to {cell}, reward {step.reward:+.0f}, terminated {bool(step.terminated)}")
    assert bool(step.terminated) == (word == "down")

# %% [markdown]
# Then play many episodes at random and look at what comes out. Shapes and types must be the same at
# every step (the scan below fails if they are not), and the numbers must be plausible.


# %%
@jax.jit
def play_at_random(key, num_steps=200, num_envs=256):
    """Rewards, terminations and truncations [steps, envs] of a random policy."""
    env = pjp.envs.make("mine/CliffWalk")
    _, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))

    def one(state, key):
        keys = jax.random.split(key, num_envs)
        actions = jax.random.randint(key, (num_envs,), 0, env.action_space.n)
        step = jax.vmap(env.step)(keys, state, actions)
        return step.state, (step.reward, step.terminated, step.truncated)

    return jax.lax.scan(one, state, jax.random.split(key, num_steps))[1]


reward, terminated, truncated = play_at_random(jax.random.key(0))
print(f"episodes: {int((terminated | truncated).sum())}, of them cut off: {int(truncated.sum())}")
print(f"goals: {int((reward > 0).sum())}, falls: {int((reward < 0).sum())}")

# %% [markdown]
# ## Train on it
#
# Nothing more is needed. The observation is a one-hot vector, so every cell has a feature vector of
# its own, and the rank of the features can be read as the number of directions in which the policy
# tells cells apart.

# %%
folder = tempfile.TemporaryDirectory()
base = {"env": "mine/CliffWalk", "total_steps": TOTAL_STEPS, "num_log_points": 30}
sweep = pjp.Sweep(
    name="cliff",
    seeds=tuple(range(SEEDS)),
    config=pjp.TrainConfig(**base),
    hparams=pjp.HyperParams(learning_rate=1e-3),
    points=({"layer_norm": False}, {"layer_norm": True}),
)
dataset = pjp.run_sweep(sweep, out=folder.name + "/cliff", is_quiet=True)
pjp.analysis.overview(dataset)

# %% [markdown]
# The trained policies are in the folder. `load_policy` gives one of them as a function from
# observations to actions, which here means: an arrow in every cell. Cells that the walker never
# reaches have arrows that nothing has taught.


# %%
def draw_policy(ax, run):
    """The most likely action of a run's policy in every cell."""
    policy = pjp.load_policy(folder.name + "/cliff", run=run)
    actions = np.asarray(policy(np.eye(ROWS * COLUMNS, dtype=bool))).reshape(ROWS, COLUMNS)
    for (row, column), action in np.ndenumerate(actions):
        ax.text(column, row, "↑→↓←"[action], ha="center", va="center", size=13)
    for left, right, colour in (
        (0.5, COLUMNS - 1.5, "tab:red"),
        (COLUMNS - 1.5, COLUMNS, "tab:green"),
    ):
        ax.fill_between([left, right], ROWS - 1.5, ROWS, color=colour, alpha=0.3, lw=0)
    ax.set(xlim=(-0.5, COLUMNS - 0.5), ylim=(ROWS - 0.5, -0.5), xticks=[], yticks=[])


# %% [markdown]
# The runs with the lowest and the highest return at the end. A way that takes a detour upwards has
# learned about the wind.

# %%
finals = pjp.analysis.final_values(dataset, "return_mean").values
chosen = {"lowest return": int(finals.argmin()), "highest return": int(finals.argmax())}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.3))
for ax, (title, run) in zip(axes, chosen.items(), strict=True):
    draw_policy(ax, run)
    ax.set_title(f"{title}: {finals[run]:.2f} (red: cliff, green: goal)", size=9)
figure.tight_layout()

# %% [markdown]
# ### One that is written for gymnax
#
# gymnax's own environments are there by name. One of yours, a class with `reset_env`, `step_env`
# and `default_params`, is wrapped like this. Its `step_env` must not end an episode for time (in
# gymnax below 1.0 it does): the limit is ours.
#
# ```python
# from purejaxppo.envs.base import strongly_typed
#
#
# class Mine(pjp.envs.Environment):
#     name, action_space = "mine/Gym", pjp.envs.Discrete(2)
#     observation_shape, observation_dtype = (4,), np.dtype("float32")
#
#     def __init__(self, max_episode_steps):
#         self.env, self.max_episode_steps = MyGymnaxEnvironment(), max_episode_steps or 500
#         self.params = self.env.default_params
#
#     def reset(self, key):
#         return strongly_typed(self.env.reset_env(key, self.params))
#
#     def step(self, key, state, action):
#         key_step, key_reset = jax.random.split(key)
#         stepped = self.env.step_env(key_step, state, action, self.params)
#         obs, state, reward, terminated, _ = stepped
#         return pjp.envs.auto_reset(
#             self.reset,
#             key_reset,
#             obs=obs,
#             state=strongly_typed(state),
#             reward=jnp.float32(reward),
#             terminated=terminated,
#             truncated=state.time >= self.max_episode_steps,
#         )
#
#
# pjp.envs.register("mine/Gym", Mine)
# ```

# %% [markdown]
# ## A network
#
# What networks are made of is told by fields; each value is one program, as `layer_norm` was above.

# %%
kinds = typing.get_type_hints(pjp.TrainConfig)
for name in ("torso", "hidden_sizes", "activation", "initialization", "share_trunk", "layer_norm"):
    print(f"{name} = {getattr(pjp.TrainConfig(), name)!r}: {kinds[name]}")

# %% [markdown]
# For anything else, name a torso of your own by import path, `network = "lab.nets:Torso"` (the
# README's section "Your own, by import path"): it returns its features and pre-activations
# explicitly, and whatever it puts there is what the diagnostics measure and PFO holds. To add an
# activation to the package, put a function into `ACTIVATIONS` of `purejaxppo/networks.py` and its
# name into `Activation` of `purejaxppo/config.py`; say in `diagnostics/neurons.py` when a unit of
# it is dead.

# %%
print({name: function.__name__ for name, function in networks.ACTIVATIONS.items()})
print(networks.CONVOLUTIONS)
print(inspect.getdoc(networks.NetworkOutput))

# %% [markdown]
# ## An intervention
#
# A penalty has a switch in the configuration (off: it is not even in the program) and a strength in
# the hyper-parameters (swept inside one program). Here are four strengths of a penalty that the
# package has, the one on the spectral norms of the weights, in a single program.

# %%
strength = pjp.Sweep(
    name="strength",
    seeds=tuple(range(SEEDS)),
    config=pjp.TrainConfig(**base, weight_spectral=True),
    hparams=pjp.HyperParams(learning_rate=1e-3),
    points=tuple({"weight_spectral_coef": c} for c in (0.0, 1e-3, 1e-2, 1e-1)),
)
by_strength = pjp.run_sweep(strength, out=folder.name + "/strength", is_quiet=True)
for metric in ("policy_weight_spectral_norm_max", "policy_rank", "return_mean"):
    ends = pjp.analysis.final_values(by_strength, metric).groupby("weight_spectral_coef").median()
    print(metric, {f"{c:g}": round(float(v), 2) for c, v in ends.to_series().items()})

# %% [markdown]
# And this is the function that adds the penalties to the loss. Yours would be two lines more in it.

# %%
print(inspect.getsource(penalties))

# %% [markdown]
# Write the formula as a pure function of a minibatch first, and try it where you know the answer.
# An example: the mean squared correlation between different units, meant to keep units from all
# doing the same. It must be near 0 for independent units, 1 for copies of one unit, and must have a
# finite gradient for dead units, which is where such penalties break.


# %%
def correlation_penalty(features):
    """Mean squared correlation of different units of features [B, D]; constant units count as 0."""
    centred = features - features.mean(axis=0)
    square = jnp.square(centred).sum(axis=0)
    is_alive = square > 1e-12
    unit = jnp.where(is_alive, centred / jnp.sqrt(jnp.where(is_alive, square, 1.0)), 0.0)
    squares = jnp.square(unit.T @ unit)
    size = features.shape[1]
    return (squares.sum() - jnp.trace(squares)) / (size * (size - 1))


normal = jax.random.normal(jax.random.key(0), (4096, 64))
cases = {"independent": normal, "copies": jnp.tile(normal[:, :1], 64), "dead": jnp.zeros((256, 64))}
for name, features in cases.items():
    slope = jnp.abs(jax.grad(correlation_penalty)(features)).max()
    print(f"{name}: penalty {correlation_penalty(features):.4f}, largest gradient {slope:.1e}")
    assert jnp.isfinite(slope)

# %% [markdown]
# In a module of your own it is a function marked with `@pjp.penalty` that a sweep file names
# (the README's section "Your own, by import path"). Into the package it goes in six places ("Add to
# the package" has the list for diagnostics and networks as well):
#
# ```
# config.py         correlation: bool = False
#                   """Whether correlations of units are penalised, by correlation_coef."""
# hyperparams.py    correlation_coef: float = 1e-2
#                   """With correlation: coefficient of the mean squared correlation of units."""
# penalties.py      if config.correlation:
#                       penalty = correlation_penalty(policy.features)
#                       found["correlation_loss"] = (hparams.correlation_coef, penalty)
# interventions.py  a row: its name, fields, formula, source; the README's table is made of it
# registry.py       "correlation_loss": ("correlation of units", "", "with correlation: mean
#                   squared correlation of different units, without its coefficient", ""),
# inert.py          Rule(("correlation_coef",), lambda point: not point["correlation"],
#                   "correlation is false"),
# ```
#
# (`penalties.py` is in `purejaxppo/ppo/interventions/`, `registry.py` in `purejaxppo/results/`,
# `inert.py` in `purejaxppo/sweep/`, the others in `purejaxppo/`.) With its row the generated tests
# try it with every kind of action, trunk and torso. From then on
# `correlation_coef = [0.0, 0.01, 0.1]` in a sweep file is three strengths in one program, with all
# diagnostics.
