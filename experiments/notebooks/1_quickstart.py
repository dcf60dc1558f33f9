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
# # 1. Quickstart: train a few runs, and read their diagnostics
#
# PPO can lose its representation while it trains: the last hidden layer of the policy ends up
# telling almost no states apart, and then the return goes too. This notebook trains a few runs
# without and with PFO, the penalty that is meant to slow this down, and goes through the
# diagnostics one after the other: what each one measures, and what a healthy and a dying network
# look like in it.
#
# The definitions printed below are the package's own, and the numbers are read off the runs, so
# they stay true when you change the constants.

# %%
import tempfile
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import purejaxppo as pjp

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 90}
num_cores = pjp.use_cpu_cores()  # before JAX computes anything: runs are split over the cores

# %% [markdown]
# These constants keep the notebook short. Turn them up once it runs. The real study,
# `experiments/configs/stress_acrobot.toml`, has 300,000 steps, 8 seeds, and 4, 16 and 32 epochs.

# %%
TOTAL_STEPS = 100_000  # the real study: 300_000
SEEDS = 4  # the real study: 8
NUM_EPOCHS = 32  # the real study: 4, 16 and 32

# %% [markdown]
# ## Train
#
# A sweep is a configuration, the points at which it is run, and the seeds of each point. Sizes and
# switches are in `TrainConfig`; a combination of sizes is compiled once. Floats are in
# `HyperParams`, and all values of them share one program: here both values of `pfo_coef` do.
#
# The learning rate is 160 times the paper's. This is a **stress test**: it shows in a minute what
# normally takes days, and says nothing about how often it happens at usual settings. Your numbers
# will differ from those shown, since training at this learning rate amplifies rounding: another
# processor or version gives other runs of the same kind.

# %%
sweep = pjp.Sweep(
    name="notebook-1",
    seeds=tuple(range(SEEDS)),
    config=pjp.TrainConfig(
        env="gymnax/Acrobot-v1", total_steps=TOTAL_STEPS, num_epochs=NUM_EPOCHS, num_log_points=50
    ),
    hparams=pjp.HyperParams(learning_rate=4e-2, clip_eps=0.1),
    points=({"pfo_coef": 0.0}, {"pfo_coef": 1.0}),
)
print(sweep.num_runs, "runs of", sweep.config.num_updates, "updates each")

# %% [markdown]
# `run_sweep` compiles, trains all runs at once and writes everything into a folder. Here that is a
# temporary one; give it `out="runs/mine"` to keep it. Without `is_quiet=True` it shows its
# progress: steps done, steps per second, time left and the mean return.

# %%
folder = tempfile.TemporaryDirectory()
dataset = pjp.run_sweep(sweep, out=folder.name + "/sweep", is_quiet=True)
seconds = {name: float(dataset.attrs[f"seconds_{name}"]) for name in ("total", "compiling")}
print(f"{seconds['total']:.0f} s, {seconds['compiling']:.0f} s of them compiling")

# %% [markdown]
# ## Load
#
# The result is an `xarray.Dataset`: every metric is an array over runs and log points, and every
# swept field is a coordinate. Later, and in another process, `load_results` reads it again; the
# command `purejaxppo plot` reads the same folder, also while the sweep is still running.

# %%
dataset = pjp.load_results(folder.name + "/sweep")
print(dict(dataset.sizes), "and", len(dataset.data_vars), "metrics")
print("coordinates:", ", ".join(map(str, dataset.coords)))

# %% [markdown]
# First the table: each cell is the interquartile mean over seeds of the last 5 % of training. Fewer
# than five seeds have no interval: their values stand in its place. `collapsed` counts the runs
# that lost their return for good, with the exact interval of their share; a run that never learned
# has nothing to lose.

# %%
print(pjp.analysis.format_table(pjp.analysis.summary_table(dataset)))

# %% [markdown]
# Then the picture. The thin lines are single runs: look at them first. Outcomes are often of two
# kinds, some runs fail and some do not, and then no run is near the mean.

# %%
pjp.analysis.overview(dataset)

# %% [markdown]
# ## Read the diagnostics, one by one
#
# A helper for what follows. It prints each metric's definition and its median over seeds at the
# start and at the end, and draws one line per run: blue without PFO, orange with it, as above.

# %%
COLOURS = {0.0: "#0072B2", 1.0: "#D55E00"}


def show(*names, log=False):
    """Definition, start and end, and one panel of each metric."""
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 2.6), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        print(textwrap.fill(f"{name}: {pjp.diagnostics.METRICS[name].definition}", 95))
        for coef, runs in dataset[name].groupby("pfo_coef"):
            measured = runs.dropna("log", how="all")
            start, end = (float(measured[:, i].median()) for i in (0, -1))
            print(f"    PFO {coef:g}: {start:.3g} at the first measurement, {end:.3g} at the last")
            label = [f"PFO {coef:g}"] + [None] * (len(runs) - 1)
            ax.plot(measured.env_steps / 1000, measured.T, color=COLOURS[coef], lw=1, label=label)
        ax.set(title=name, xlabel="thousand environment steps", yscale="log" if log else "linear")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()


# %% [markdown]
# **Return.** What the agent is for, and the last thing to look at: representation is usually lost
# before the return is. Acrobot pays -1 per step until it swings up, and -500 means that it never
# does. *Healthy:* rises and stays. *Dying:* drops and does not come back.

# %%
show("return_mean", "entropy")

# %% [markdown]
# **Norm of the pre-activations**: how large the numbers are that go into the last hidden layer's
# activation. In the paper it grows all along, and the rank falls only eventually. *Healthy:* of the
# order of the square root of the layer's width, and level. *Dying:* grows by factors, without end;
# note the logarithmic axis. Large pre-activations mean that small steps of the weights no longer
# change which units are on.

# %%
show("policy_preactivation_norm", "critic_preactivation_norm", log=True)

# %% [markdown]
# **Rank of the features**: how many directions are needed for 99 % of the features' energy over the
# rollout. The **effective rank** is a smooth relative of it. *Healthy:* many, and often growing as
# the agent meets new states. *Dying:* falls towards 1, where the policy sees all states as
# multiples of one. A low rank alone is no disease: an easy task may need no more.

# %%
show("policy_rank", "policy_effective_rank")

# %% [markdown]
# Each rank is one number made of the whole **spectrum**, the singular values of the feature matrix.
# Here is the spectrum itself, at the last log point. *Healthy:* falls slowly. *Dying:* falls off a
# cliff after the first few. A cliff comes from dead units, whose singular values are 0 up to
# rounding, or from units that are copies of each other.

# %%
figure, ax = plt.subplots(figsize=(5, 2.8))
ax.set(xlabel="index i", ylabel="sigma_i / sigma_1", ylim=(1e-8, 2), title="spectrum at the end")
last = dataset["policy_singular_values"].isel(log=-1)
for run in last:
    share = np.maximum(run / run[0], 1e-9)
    ax.semilogy(range(1, run.size + 1), share, color=COLOURS[float(run.pfo_coef)], lw=1)

# %% [markdown]
# **Dead neurons** output 0 on every state of the rollout, so no gradient reaches their weights.
# **Dormant** ones output next to nothing compared with their layer. *Healthy:* few, not increasing.
# *Dying:* most of the layer (64 units here); a dead unit seldom comes back.

# %%
show("policy_dead_neurons", "policy_dormant_neurons")

# %% [markdown]
# **Policy variance**: how differently the policy acts in different states. **Collinearity**: the
# mean cosine between the features of two states. *Healthy:* variance above 0, collinearity
# below 1. *Dying:* variance at 0, the policy does the same thing everywhere; collinearity at 1, all
# states look alike but for their size. Read collinearity beside rank and dead neurons: outputs of a
# ReLU are never negative, so healthy networks are above 0 too, and one whose units are all dead
# reads 0. A run can be low in rank and still act differently in different states: then it is the
# rank that warns.

# %%
show("policy_variance", "policy_collinearity")

# %% [markdown]
# **Trust region.** PPO's clip is to keep the probability ratio of new to old policy between
# 1 - eps and 1 + eps, from 0.9 to 1.1 here. It only removes the gradient outside; nothing pulls
# back. *Healthy:* the mean ratio below the range stays close to its edge, and the KL is small.
# *Dying:* that mean falls towards 0, since features that point the same way carry every state
# along. Gaps are log points where no sample was outside, which is also what a dead policy shows.

# %%
show("ratio_below_mean", "kl")

# %% [markdown]
# **Plasticity loss**: copies of the networks, as they are at that moment, are trained on outputs of
# a new random network; the loss that is left after one pass. Alone it says little, so two lines
# stand beside it: the loss of the best constant output, and of the run's own initial network
# fitted alike. *Healthy:* below the constant's, near the fresh network's. At the constant's or
# above, the copy has learned nothing about single states: it is dead and outputs a constant, or it
# began far from its targets, as a confident policy or a critic of large returns does, which one
# pass does not undo. Dead neurons say which. There a higher loss is no less plasticity: at learning
# rates like this one the best run can have the highest.

# %%
pjp.plot.curves(dataset, ["policy_plasticity_loss", "critic_plasticity_loss"])

# %% [markdown]
# ## When did each run lose what?
#
# `detect_collapse` applies one fixed rule per quantity and tells at which step each run lost it; a
# run has collapsed where its return has. The others are to warn of it;
# NaN means never. "Dead" is 95 % of the units, so a run may have
# many dead neurons and still count as alive.

# %%
lost = pjp.analysis.detect_collapse(dataset).to_dataframe().reset_index(drop=True)
lost.filter(["pfo_coef", "seed", *(c for c in lost if c.endswith("_step")), "first_warning"])

# %% [markdown]
# The rules, in words:

# %%
for event, (metric, rule) in pjp.statistics.collapse.EVENTS.items():
    print(textwrap.fill(f"{event} ({metric}): {rule}", 95), end="\n\n")

# %% [markdown]
# ## Try next
#
# - `learning_rate=2.5e-4`, the paper's: does anything collapse in so few steps?
# - `NUM_EPOCHS = 4` and `16`: the paper says that more epochs make it worse and sooner.
# - `pfo_coef` of 0.01, 0.1, 10: they go into the same program, so add them to `points`.
# - `num_snapshots=10` in `TrainConfig` keeps the networks along training, for `pjp.rediagnose` and
#   `purejaxppo evaluate DIR --snapshots`; `num_evaluation_episodes=16` evaluates while it trains.
# - `purejaxppo metrics` in a terminal lists all metrics with their definitions.
