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
# # 5. The diagnostics on somebody else's network
#
# The diagnostics are functions of arrays: they need a matrix of features, not our trainer. This
# notebook writes a classifier in `flax.nnx` that knows nothing of this package, trains it on a
# sequence of tasks, and watches rank, dead units and the size of each update. All that it uses of
# `purejaxppo` is `pjp.diagnostics` and, at the end, a rank correlation.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import purejaxppo as pjp
from flax import linen, nnx

# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 90}

# %% [markdown]
# The constants to turn up. There is no study behind this toy; published experiments of this kind
# use tens to hundreds of tasks, image data and many seeds.

# %%
NUM_TASKS = 30
STEPS_PER_TASK = 150
LEARNING_RATE = 5e-3
WIDTH = 64

# %% [markdown]
# ## What the measures say about matrices that we know
#
# Four matrices of 1000 samples and 64 features: independent features, a matrix of rank 3 with a
# little noise, one where all samples point the same way, and one with half of its units dead.
# NumPy arrays will do, from PyTorch or from a file.

# %%
rng = np.random.default_rng(0)
normal = rng.normal(size=(1000, 64)).astype(np.float32)
three = normal[:, :3] @ rng.normal(size=(3, 64)).astype(np.float32)
known = {
    "independent": normal,
    "rank 3 and noise": three + 0.01 * rng.normal(size=(1000, 64)).astype(np.float32),
    "one direction": np.abs(normal[:, :1]) * np.ones((1, 64), np.float32),
    "ReLU, half dead": np.maximum(normal, 0) * (np.arange(64) < 32),
}

# %% [markdown]
# Each measure is defined in the docstring of `pjp.diagnostics.SpectralMeasures` or of its function.

# %%
rows = {}
for name, features in known.items():
    m = pjp.diagnostics.spectral_measures(features)
    rows[name] = {
        "approximate rank": m.approximate_rank,
        "effective rank": m.effective_rank,
        "srank": m.srank,
        "feature rank": m.feature_rank,
        "numerical rank": m.numerical_rank,
        "participation ratio": m.participation_ratio,
        "collinearity": pjp.diagnostics.collinearity(features),
        "dead": pjp.diagnostics.dead_neurons(features, "relu"),
    }
pd.DataFrame(rows).astype(float).round(2)

# %% [markdown]
# The rank measures disagree, and should: noise of one percent gives full numerical rank, but does
# not move the approximate rank, which counts 99 % of the energy. Independent units behind a ReLU
# have a large first singular value, because all their outputs are positive, and that pulls the
# participation ratio far below the number of live units. So name the measure that you report.
#
# ## Somebody's network
#
# Two hidden layers, with or without layer normalisation. All that the diagnostics will want from it
# is the output of its last hidden layer, here a method of its own.


# %%
class Classifier(nnx.Module):
    def __init__(self, is_normalized, rngs):
        self.first = nnx.Linear(16, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs) if is_normalized else nnx.identity
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def features(self, x):
        return nnx.relu(self.norm(self.second(nnx.relu(self.first(x)))))

    def __call__(self, x):
        return self.head(self.features(x))


# %% [markdown]
# The data: 1024 points in 16 dimensions with labels of ten classes drawn at random. They can only
# be memorised, and every task draws them anew. So every task is as hard as the first one, and a
# network that gets worse from task to task has lost something.

# %%
inputs = jax.random.normal(jax.random.key(1), (1024, 16))


def labels_of(task):
    """Random classes of all inputs, the same at every call."""
    return jax.random.randint(jax.random.key(1000 + task), (1024,), 0, 10)


def train_step(carry, batch):
    """One step of Adam; returns the loss before it."""
    (model, optimizer), (x, y) = carry, batch

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return carry, value


@nnx.jit
def train_task(model, optimizer, x, y):
    """A step for each of the minibatches x [steps, batch, 16], y [steps, batch]; their losses."""
    return nnx.scan(train_step, in_axes=(nnx.Carry, 0))((model, optimizer), (x, y))[1]


# %% [markdown]
# The diagnosis of a network: features in, numbers out. It is compiled together with the network, as
# all functions of `pjp.diagnostics` can be. `probe_r2` asks what share of a quantity a linear
# regression on the features explains; the quantity here is a simple function of the inputs, which
# the network was never asked for.


# %%
@nnx.jit
def diagnose(model):
    """Measures of the last hidden layer on all inputs."""
    features = model.features(inputs)
    spectral = pjp.diagnostics.spectral_measures(features)
    kernels = [model.first.kernel[...], model.second.kernel[...], model.head.kernel[...]]
    return {
        "approximate rank": spectral.approximate_rank,
        "effective rank": spectral.effective_rank,
        "dead units": pjp.diagnostics.dead_neurons(features, "relu"),
        "dormant units": pjp.diagnostics.dormant_neurons(features),
        "collinearity": pjp.diagnostics.collinearity(features),
        "feature norm": pjp.diagnostics.feature_statistics(features).norm,
        "largest spectral norm": pjp.diagnostics.spectral_norms(kernels).max(),
        "probe R2": pjp.diagnostics.probe_r2(features, inputs[:, 0] * inputs[:, 1]),
    }


# %% [markdown]
# The third part is the trust region: how far did a task move the outputs and the features? The
# ratios are those of the probability of each input's label before the task, after against before.
# A policy would put in the log-probabilities of its actions. `0.2` is PPO's usual clip range.


# %%
@nnx.jit
def movement(log_prob_before, features_before, model, y):
    """How far outputs and features are from where they were."""
    after = jax.nn.log_softmax(model(inputs))[jnp.arange(1024), y]
    log_ratio = after - log_prob_before
    difference, cosine = pjp.diagnostics.drift(features_before, model.features(inputs))
    ratios = pjp.diagnostics.ratio_statistics(log_ratio, 0.2)
    kl = pjp.diagnostics.kl_k3(log_ratio)
    return {"drift": difference, "cosine": cosine, "KL (k3)": kl} | {
        name: ratios[name] for name in ("ratio_below_mean", "ratio_below_fraction")
    }


# %% [markdown]
# Now the training. At the end of every task: its loss, the diagnosis, the movement since its start.


# %%
def train(is_normalized):
    """A table with one row per task."""
    model = Classifier(is_normalized, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)
    table, order = [], np.random.default_rng(0)
    for task in range(NUM_TASKS):
        y, features = labels_of(task), model.features(inputs)
        sampled = jax.random.categorical(jax.random.key(task), model(inputs))
        before = jax.nn.log_softmax(model(inputs))[jnp.arange(1024), sampled]
        rows = order.integers(0, 1024, (STEPS_PER_TASK, 256))
        loss = train_task(model, optimizer, inputs[rows], y[rows])[-10:].mean()
        moved = movement(before, features, model, sampled)
        table.append({"task": task, "loss at the end": loss} | diagnose(model) | moved)
    return pd.DataFrame(jax.device_get(table)).astype(float).set_index("task")


tables = {"plain": train(False), "layer norm": train(True)}

# %% [markdown]
# ## Rank and dead units over training
#
# The first panel is the symptom (2.30 is the loss of guessing among ten classes), the rest are
# candidates for its cause. Two things to keep in mind. One network of each kind was trained: what
# differs between the lines may be an accident of this seed. And a row of zeros has cosine 0 with
# everything, so a network with all units dead reads 0 in collinearity: look at dead units first.
#
# In the paper the norm grows as PPO's representation dies. Does it here? What announces a collapse
# depends on the task, which is a reason to record several measures.


# %%
def draw(names):
    """One panel per column of the tables."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 4.6), sharex=True)
    for ax, name in zip(axes.flat, names, strict=True):
        for (kind, table), colour in zip(tables.items(), ("#0072B2", "#D55E00"), strict=True):
            ax.plot(table[name], color=colour, label=kind, marker=".", ms=4)
        ax.set_title(name, size=10)
    axes[0, 0].legend(fontsize=8)
    for ax in axes[1]:
        ax.set_xlabel("task")
    figure.tight_layout()


draw(
    [
        "loss at the end",
        "approximate rank",
        "dead units",
        "feature norm",
        "collinearity",
        "probe R2",
    ]
)

# %% [markdown]
# ## How far each task moves the network
#
# No clip holds this classifier back, so ratios may go anywhere. The drift is the mean squared
# change of the features: the quantity that PFO penalises, there on pre-activations. Gaps: no ratio
# was below the range.

# %%
draw(
    [
        "KL (k3)",
        "drift",
        "cosine",
        "ratio_below_fraction",
        "ratio_below_mean",
        "largest spectral norm",
    ]
)

# %% [markdown]
# Which measure goes along with the symptom? Spearman's rank correlation with the loss at the end,
# over the tasks of each network: +1 if they rise together, -1 if one falls where the other rises.
# Everything here may drift with time alone, so a correlation is a lead and no proof. NaN: constant.

# %%
names = ["approximate rank", "effective rank", "dead units", "dormant units", "feature norm"]
pd.DataFrame(
    {
        kind: {n: pjp.analysis.spearman_rho(table[n], table["loss at the end"]) for n in names}
        for kind, table in tables.items()
    }
).round(2)

# %% [markdown]
# ## A network that you cannot edit
#
# Flax's older interface, `linen`, can hand out the outputs of all layers of a network without a
# change to it. The output of the layer before the activation is the matrix of pre-activations; put
# it through the activation and you have the features.


# %%
class TheirNetwork(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(WIDTH)(x))
        x = linen.relu(linen.Dense(WIDTH)(x))
        return linen.Dense(10)(x)


network = TheirNetwork()
variables = network.init(jax.random.key(0), inputs)
_, captured = network.apply(variables, inputs, capture_intermediates=True, mutable="intermediates")
(preactivations,) = captured["intermediates"]["Dense_1"]["__call__"]
features = linen.relu(preactivations)
print("shape:", features.shape)
print(f"effective rank: {pjp.diagnostics.spectral_measures(features).effective_rank:.1f}")
print("dead units:", pjp.diagnostics.dead_neurons(features, "relu"))

# %% [markdown]
# ## Try next
#
# - `LEARNING_RATE = 1e-3` and `2e-2`: at which rate do units begin to die?
# - Give `train` a seed, run five of them, and draw all lines.
# - Put `diagnose` into the training loop of your own project, every thousand steps: it costs a
#   forward pass over one batch and a singular value decomposition of it.
