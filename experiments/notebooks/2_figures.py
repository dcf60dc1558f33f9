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
# # 2. Figures 1 to 3 of the paper, from one sweep
#
# This notebook runs a shortened version of a study that ships with the package and draws from it
# the paper's figures 1, 2 and 3, and two of our own: survival curves and the spectrum of the
# features. Every figure says on itself how to read it, and works on any results of `run_sweep`.

# %%
import dataclasses
import tempfile

import purejaxppo as pjp

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 90}
num_cores = pjp.use_cpu_cores()  # before JAX computes anything: runs are split over the cores

# %% [markdown]
# The constants to turn up. The real study is `experiments/configs/stress_acrobot.toml`, 72 runs of
# 300,000 steps; what came out is in `experiments/results/stress_acrobot`.

# %%
TOTAL_STEPS = 80_000  # the real study: 300_000
SEEDS = 4  # the real study: 8
EPOCHS = (4, 32)  # the real study: (4, 16, 32); all share one compiled program
PFO = (0.0, 1.0)  # the real study: (0.0, 1.0, 10.0); all values share a program

# %% [markdown]
# ## Shorten the study and run it
#
# Reading the study's own file makes sure that everything else is as in the study. Note the learning
# rate, 160 times the paper's: this is a stress test, in which things break fast. It amplifies
# rounding too, so on another processor or version single runs, and pictures, come out differently.

# %%
study = pjp.Sweep.from_toml("../configs/stress_acrobot.toml")
is_chosen = {"num_epochs": EPOCHS, "pfo_coef": PFO}
sweep = dataclasses.replace(
    study,
    seeds=tuple(range(SEEDS)),
    config=dataclasses.replace(study.config, total_steps=TOTAL_STEPS),
    points=tuple(p for p in study.points if all(p[name] in is_chosen[name] for name in p)),
)
print(sweep.num_runs, "runs, learning rate", sweep.hparams.learning_rate)

# %% [markdown]
# The folder is a temporary one; give `out="runs/mine"` to keep it. A run diverges when its losses
# or weights are no longer finite; it is then frozen and marked, and the others go on.

# %%
folder = tempfile.TemporaryDirectory()
dataset = pjp.run_sweep(sweep, out=folder.name + "/sweep", is_quiet=True)
print(
    f"{float(dataset.attrs['seconds_total']):.0f} s, diverged: {int((dataset.status != 0).sum())}"
)

# %% [markdown]
# ## Figure 1: return, rank, norm and plasticity
#
# The paper's main figure. Its claim has three parts: without PFO the norm grows, the rank falls
# in the end and the return with it; more epochs make it worse; the plasticity loss rises at the
# same time. The critic's rank need not fall. Check each part here against the thin lines, and the
# plasticity loss against the dashed ones: above the best constant's it is the distance of a
# confident policy from its targets, and no loss of plasticity.

# %%
pjp.analysis.draw_figure(dataset, "1")

# %% [markdown]
# The same in numbers, at the end of training. Values in brackets are single seeds: where those of
# two rows overlap, these seeds do not settle which is larger.

# %%
print(pjp.analysis.format_table(pjp.analysis.summary_table(dataset)))

# %% [markdown]
# ## Figure 2: entropy, variance and dead neurons of the policy
#
# What a collapsed policy looks like from outside: it acts the same in all states (variance near 0)
# and most of its units are dead. Its entropy may be anything, since a policy can be stuck at one
# action or at a coin toss.

# %%
pjp.analysis.draw_figure(dataset, "2")

# %% [markdown]
# ## Figure 3: single runs
#
# Means hide how one run loses first one thing and then another. This figure picks the best, a
# typical and the worst run by a fixed rule, of plain PPO with the most epochs, and shows what
# happens to rank, plasticity, return, ratios, variance and the objective in the same run. Look for
# the order: what moved first? Two of the three may be the same run when seeds are few.

# %%
pjp.analysis.draw_figure(dataset, "3")

# %% [markdown]
# ## Survival: how many runs have not collapsed yet
#
# A curve that steps down at 40k says that a run collapsed there, by the rules that notebook 1
# prints. With so few seeds each step is a large part of all runs, and the bands are wide, also
# where nothing happened: they are exact. A curve that stays at 1 means that no run was lost
# *within this time*.

# %%
pjp.analysis.draw_figure(dataset, "survival")

# %% [markdown]
# ## Spectrum: what the ranks are made of
#
# Each column of a panel is the spectrum of the features at one time: bright is large. A healthy
# spectrum is bright far down. When a representation dies, the dark comes up from below, and the
# dashed line, the rank, rises to the top of the panel. Zeros, from dead units, are the darkest.

# %%
pjp.analysis.draw_figure(dataset, "spectrum")

# %% [markdown]
# ## Does more epochs mean worse, in these runs?
#
# Read it off: medians over seeds at the end of training, plain PPO only. The paper says that norm
# and dead neurons go up with epochs, and that rank goes down. Small sweeps need not agree with it.

# %%
plain = dataset.isel(run=(dataset.pfo_coef == 0).values)
for name in ("policy_preactivation_norm", "policy_dead_neurons", "policy_rank"):
    ends = pjp.analysis.final_values(plain, name).groupby("num_epochs").median()
    print(name, {epochs: float(f"{value:.3g}") for epochs, value in ends.to_series().items()})

# %% [markdown]
# ## Keep the figures
#
# `save_figure` writes a PNG for slides and a PDF for the paper; `purejaxppo report` puts all
# figures and tables of a sweep onto one page. In a terminal, the real study is
#
# ```
# purejaxppo sweep experiments/configs/stress_acrobot.toml --out runs/stress
# purejaxppo plot runs/stress --figure 1
# ```

# %%
figure = pjp.analysis.draw_figure(dataset, "1")
for path in pjp.analysis.save_figure(figure, folder.name + "/figure1"):
    print(path.name, f"{path.stat().st_size / 1024:.0f} KiB")
