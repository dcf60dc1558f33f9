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
# # 3. Interventions: box plots, paired differences, claims
#
# What helps against the loss of representation? This notebook trains plain PPO and a few
# interventions under the same stress, draws the paper's figure 6, compares run by run, and holds
# the paper's claims against the result. It also shows what a handful of seeds can *not* tell.

# %%
import dataclasses
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import purejaxppo as pjp

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 90}
num_cores = pjp.use_cpu_cores()  # before JAX computes anything: runs are split over the cores

# %% [markdown]
# The constants to turn up. The real study is two files, `experiments/configs/stress_acrobot.toml`
# and `stress_interventions.toml`: 8 seeds, 300,000 steps, 32 epochs. What came out is in
# `experiments/results`, in folders of the same names.

# %%
TOTAL_STEPS = 40_000  # the real study: 300_000
SEEDS = 5  # the real study: 8; fewer than five give no verdict
NUM_EPOCHS = 16  # the real study: 32

# %% [markdown]
# ## The sweep
#
# Each intervention is a field that is off by default. `pfo_coef` and `adam_beta2` are floats, so
# their values share a program with plain PPO; so does `reset_optimizer`, a switch that only
# selects. `share_trunk` changes the networks, and makes a program of its own. Every point must name
# the same fields.

# %%
study = pjp.Sweep.from_toml("../configs/stress_acrobot.toml")
plain = {"pfo_coef": 0.0, "adam_beta2": 0.999, "reset_optimizer": False, "share_trunk": False}
names = {  # name in tables and pictures -> the point
    "plain PPO": plain,
    "PFO 1": plain | {"pfo_coef": 1.0},
    "PFO 10": plain | {"pfo_coef": 10.0},
    "Adam beta2 0.9": plain | {"adam_beta2": 0.9},
    "Adam reset": plain | {"reset_optimizer": True},
    "shared trunk": plain | {"share_trunk": True},
}

# %% [markdown]
# Everything else is the study's, shortened. Metrics are written at 50 points of a run.

# %%
sweep = dataclasses.replace(
    study,
    seeds=tuple(range(SEEDS)),
    config=dataclasses.replace(
        study.config, total_steps=TOTAL_STEPS, num_epochs=NUM_EPOCHS, num_log_points=50
    ),
    points=tuple(names.values()),
)
folder = tempfile.TemporaryDirectory()
dataset = pjp.run_sweep(sweep, out=folder.name + "/sweep", is_quiet=True)
print(sweep.num_runs, "runs in", f"{float(dataset.attrs['seconds_total']):.0f} s")

# %% [markdown]
# ## Figure 6: final values
#
# One box per intervention, over its seeds; `defaults` is plain PPO. A box made of five runs is five
# numbers: the box ends near the second lowest and the second highest. Boxes that overlap do not say
# "no difference", and boxes that do not overlap are no test either. That is what the next section
# is for.

# %%
pjp.analysis.draw_figure(dataset, "6")

# %% [markdown]
# ## Paired differences
#
# The same seed means the same initial weights and the same random numbers for the environments, in
# every configuration. So run `k` with an intervention is compared with run `k` without it, which
# takes out what the seed brings. The code below needs the final values of the runs of a point, in
# the order of their seeds.

# %%
points = [p for p, _ in pjp.analysis.points(dataset)]
members = dict(zip(names, (runs for _, runs in pjp.analysis.points(dataset)), strict=True))
assert points == list(names.values())  # the points come in the order of the sweep


def finals(metric, name, is_log=False):
    """Final values of the runs of a point (a log2, if told so), and their seeds."""
    values = pjp.analysis.final_values(dataset, metric).values[members[name]]
    return np.log2(values) if is_log else values, dataset.seed.values[members[name]]


# %% [markdown]
# For each intervention: intervention minus plain PPO, the interquartile mean over pairs with its
# 95 % bootstrap interval. Norms and ranks are compared as logarithms to the base 2, so that +1
# means twice as much.

# %%
rows = []
for metric, is_log in {
    "policy_preactivation_norm": True,
    "policy_rank": True,
    "return_mean": False,
}.items():
    for name in list(names)[1:]:
        (x, x_seeds), (y, y_seeds) = (
            finals(metric, name, is_log),
            finals(metric, "plain PPO", is_log),
        )
        difference = pjp.analysis.paired_difference(x, y, x_seeds, y_seeds)
        rows.append({"metric": metric, "intervention": name} | dataclasses.asdict(difference))
differences = pd.DataFrame(rows)
differences.round(2)

# %% [markdown]
# The same as a picture. An interval that crosses the dotted line leaves the direction open. Fewer
# than five pairs have no interval, and no bootstrap of few pairs knows of the kind of run that none
# of them was.

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True)
for ax, (metric, part) in zip(axes, differences.groupby("metric", sort=False), strict=True):
    error = np.array([part.value - part.low, part.high - part.value])
    ax.errorbar(part.value, part.intervention, xerr=error, fmt="o", color="tab:blue", capsize=3)
    ax.axvline(0, color="0.5", linestyle=":")
    ax.set(title=metric, xlabel="difference" if metric == "return_mean" else "difference of log2")
axes[0].invert_yaxis()
figure.tight_layout()

# %% [markdown]
# Does pairing help here? It does where the runs of one seed resemble each other, and training at
# this learning rate amplifies small differences until they need not. The spread of the paired
# differences against the spread that unrelated runs would have answers it for these runs: a ratio
# well below 1 says that pairing helps, near or above 1 that it does not.

# %%
for name in list(names)[1:]:
    x, y = (finals("policy_preactivation_norm", n, is_log=True)[0] for n in (name, "plain PPO"))
    ratio = np.std(x - y, ddof=1) / np.hypot(np.std(x, ddof=1), np.std(y, ddof=1))
    print(f"{name}: spread of paired differences / spread of unrelated ones = {ratio:.2f}")

# %% [markdown]
# `comparison_table` (`purejaxppo compare` in a terminal) does this for any metric, every point
# against the first one (or `against=` another, `within=` each value of a field). It uses pairs
# where `correlation` says that they help, tests by ranks (`p_holm` is corrected for the number of
# contrasts), and adds the probability that one of a point's runs ends higher than one of the first
# point's. `best` is the share of resampled seeds in which a point leads: not the probability that
# it is the best, as of equal points some one leads too (`best_level`); `is_candidate` marks those
# that cannot be told from the leader.

# %%
table = pjp.analysis.comparison_table(dataset, "return_mean")
table.insert(0, "point", list(names))
table[["point", "collapsed", "value", "best", "is_candidate", "difference", "p_holm"]].round(2)

# %% [markdown]
# ## The paper's claims against these runs
#
# `evaluate_claims` breaks each claim into parts, and gives each part a verdict; claim C6 has one
# for each intervention. The thresholds are fixed in the package, not chosen after looking.

# %%
claims = pjp.analysis.evaluate_claims(dataset)
claims.query("part == ''")[["claim", "intervention", "verdict", "note"]]

# %% [markdown]
# And the parts, with what was measured. An effect above 0 is what the paper says; how large it must
# be is in `purejaxppo/claims/effects.py`. Of what happens in a run or not it is the share of runs.

# %%
parts = claims.query("part != ''")[
    ["claim", "intervention", "part", "verdict", "effect", "low", "high", "threshold"]
]
parts.round(2)

# %% [markdown]
# How to read the verdicts:
#
# - **SUPPORTED**: the effect is surely larger than the claim needs, or it happened in surely more
#   than half of the runs.
# - **CONTRADICTED**: the opposite is as sure.
# - **NOT OBSERVED**: what the claim is about has not happened, or in too few runs. These runs are
#   far shorter than the paper's (`length`), so that contradicts nothing.
# - **NO DIFFERENCE**: the whole interval lies within what makes no difference to anyone.
# - **INCONCLUSIVE**: none of these. This is *not* "no effect". Look at the interval: a wide one
#   says that more seeds are needed.
# - **NOT TESTED**: the sweep lacks what the part needs. This one has a single epoch count, so it
#   can say nothing about C2.
#
# All parts are judged at once, and their p-values are corrected for that (Holm). Still, this is a
# stress test: a verdict here is about Acrobot at 160 times the paper's learning rate and a shorter
# time. It amplifies rounding, so on another processor a part that is close to its limit may get
# another verdict: one more reason to want seeds.

# %%
print(parts.verdict.value_counts().to_string())

# %% [markdown]
# ## What fewer seeds do to it
#
# The same runs, the first three seeds only. Three seeds that agree may agree by chance, so every
# effect that was tested must come out INCONCLUSIVE, however large it is. Effects are still
# printed; verdicts are not to be had.

# %%
three = dataset.isel(run=dataset.seed.values < 3)
fewer = pjp.analysis.evaluate_claims(three).query("part != ''")
pd.DataFrame(
    {f"{SEEDS} seeds": parts.verdict.value_counts(), "3 seeds": fewer.verdict.value_counts()}
)

# %% [markdown]
# ## Try next
#
# - `SEEDS = 8`: which INCONCLUSIVE parts become something else, and in which direction?
# - `NUM_EPOCHS = 32`, as in the study, makes the stress harder.
# - Other fields to put into a point: `layer_norm`, `kl_penalty`, `kl_stop`, `policy_objective`,
#   `weight_spectral`, `feature_spectral`, `pfo_layers`, `critic_pfo_coef`. Notebook 4 tells how to
#   add one of your own.
# - In a terminal: `purejaxppo claims runs/mine` prints the same table with its explanation.
