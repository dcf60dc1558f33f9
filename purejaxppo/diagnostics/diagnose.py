"""The diagnosis of one update: the networks before against after it, on the whole rollout batch of N samples.

Built for a program that is vmapped over runs. Matrices are read where they lie (stacking them would write another copy
of all of them), what is small is stacked early, and everything ends in one vector (see `purejaxppo.metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Protocol

import jax
import jax.numpy as jnp

from purejaxppo.diagnostics.neurons import (
    collinearity,
    deviation_of_rows,
    is_dead,
    is_dormant,
    policy_variance,
    squared_norm,
    sum_over_layers,
    variance,
)
from purejaxppo.diagnostics.probe import centred, explained_variance, r2_of_factor
from purejaxppo.diagnostics.spectral import (
    RANKS,
    SINGULAR_VALUES,
    SpectralMeasures,
    measures_of_spectrum,
    singular_values_and_factors,
    spectral_norms,
)
from purejaxppo.diagnostics.trust_region import RATIO_STATISTICS, RATIO_SUBSETS, cosine_of_rows, k3_terms, ratio_table
from purejaxppo.metrics import Metrics

Array = jax.Array

_SUFFIXES = ("_before", "")  # of a metric's name, by time
_KINDS = ("feature", "preactivation")  # a network's two matrices; the spectral measures of features have no infix
_SUBJECTS = (*_KINDS, "all_preactivations")
_INFIX = {"feature": "", "preactivation": "preactivation_"}
_FIELD_OF = {"rank": "approximate_rank"}  # the headline rank of the paper is the one called just "rank"


class NetworkOutput(Protocol):
    """What a diagnosis reads of a network's output: features [N, D], and pre-activations [N, D_l] per hidden layer."""

    @property
    def features(self) -> Array: ...

    @property
    def preactivations(self) -> tuple[Array, ...]: ...


Block = tuple[Sequence[str], Array]  # names, and as many values in an array of any shape


def diagnose(
    *,
    activation: str,
    clip_eps: Array | float,
    policy_before: NetworkOutput,
    policy_after: NetworkOutput,
    critic_before: NetworkOutput,
    critic_after: NetworkOutput,
    log_ratio: Array,
    kl: Array,
    entropy_before: Array,
    entropy_after: Array,
    policy_moments_before: Array,
    policy_moments_after: Array,
    value_before: Array,
    value_after: Array,
    value_target: Array,
    policy_weights: Sequence[Array],
    critic_weights: Sequence[Array],
    share_trunk: bool = False,
) -> Metrics:
    """All metrics of the registry except the families minibatch, performance and run: scalars [], spectra [D].

    log_ratio, kl, entropy_*, value_* are [N]: log pi_after - log pi_before of the rollout's actions, and KL(before ||
    after), entropy and value of each state; value_target [N] is what the critic was fitted to. policy_moments_* are
    [N, K]: probabilities, or loc and scale side by side. *_weights are the layers' kernels [fan_in, fan_out] after the
    update, the head last.
    With `share_trunk` the representation is measured once and reported under both networks' names.
    No gradient flows through a diagnosis: the SVD has none where singular values coincide.
    """
    networks = {"policy": (policy_before, policy_after)}
    if not share_trunk:
        networks["critic"] = (critic_before, critic_after)
    networks, log_ratio, kl = jax.lax.stop_gradient((networks, log_ratio, kl))
    networks = jax.lax.optimization_barrier(networks)  # else XLA computes activations again for each of their readers
    moments = jax.lax.stop_gradient(jnp.stack([policy_moments_before, policy_moments_after]))
    value, entropy = jax.lax.stop_gradient(((value_before, value_after), (entropy_before, entropy_after)))
    weights, target = jax.lax.stop_gradient(((policy_weights, critic_weights), value_target))
    blocks, rows, spectra = _representation(networks, activation, target)
    if share_trunk:
        blocks += [([_of_critic(name) for name in names], array) for names, array in blocks]
        rows += [([_of_critic(name) for name in names], array) for names, array in rows]
        spectra |= {_of_critic(name): spectrum for name, spectrum in spectra.items()}
    more_blocks, more_rows = _trust_region(log_ratio, kl, clip_eps)
    rows += [*_output_rows(value, entropy), *more_rows]
    blocks += [
        *more_blocks,
        _weight_norms(*weights, share_trunk),
        ([f"policy_variance{suffix}" for suffix in _SUFFIXES], policy_variance(moments)),
        ([f"value_std{suffix}" for suffix in _SUFFIXES], jnp.sqrt(variance(jnp.stack(value), axis=-1))),
        (
            [f"value_explained_variance{suffix}" for suffix in _SUFFIXES],
            explained_variance(jnp.stack([target, target]), jnp.stack(value)),
        ),
        _mean_over_samples(rows),
    ]
    return Metrics(
        names=tuple(name for names, _ in blocks for name in names),
        values=jnp.concatenate([array.ravel() for _, array in blocks]),
        spectra=spectra,
    )


def _mean_over_samples(rows: list[Block]) -> Block:
    """All rows' means in one reduction."""
    every = jnp.concatenate([array.reshape(-1, array.shape[-1]) for _, array in rows])
    return [name for names, _ in rows for name in names], every.mean(axis=-1)


def _of_critic(name: str) -> str:
    return "critic" + name.removeprefix("policy")


def _representation(
    networks: dict[str, tuple[NetworkOutput, NetworkOutput]], activation: str, target: Array
) -> tuple[list[Block], list[Block], dict[str, Array]]:
    """Of the networks' outputs (before, after): scalars, what each sample has [..., N] to be averaged, and spectra."""
    features = [output.features for pair in networks.values() for output in pair]
    dead = [is_dead(x, activation).astype(jnp.float32).sum() for x in features]
    dormant = [is_dormant(x).astype(jnp.float32).sum() for x in features]
    fields = {"dead_neurons": dead, "dormant_neurons": dormant, "collinearity": [collinearity(x) for x in features]}
    names = [f"{network}_{field}{suffix}" for field, network, suffix in product(fields, networks, _SUFFIXES)]
    blocks, spectra = _spectral(networks, target)
    return [*blocks, (names, jnp.stack([x for values in fields.values() for x in values]))], _rows(networks), spectra


def _matrices(output: NetworkOutput) -> tuple[Array, Array]:
    return output.features, output.preactivations[-1]


def _spectral(
    networks: dict[str, tuple[NetworkOutput, NetworkOutput]], target: Array
) -> tuple[list[Block], dict[str, Array]]:
    """Measures of the matrices [N, D] of each network, by time and kind, and its linear probe; and the spectra after.

    One call for all: narrower networks get columns of zeros, which add singular values 0 and change no other.
    """
    shapes = {name: before.features.shape for name, (before, _) in networks.items()}
    widest = max(shape[1] for shape in shapes.values())
    every = [matrix for pair in networks.values() for output in pair for matrix in _matrices(output)]
    every = [jnp.pad(x, [(0, 0), (0, widest - x.shape[1])]) for x in every]
    by_place = (len(shapes), 2, 2)  # [network, time, kind]
    means = [x.mean(axis=0) if index % 2 == 0 else jnp.zeros(widest) for index, x in enumerate(every)]  # of features
    sigma, factors = singular_values_and_factors(every, jnp.stack(means), centred(target))
    sigma, factors = sigma.reshape(*by_place, -1), factors.reshape(*by_place, *factors.shape[1:])
    blocks: list[Block] = [([f"{name}_probe_r2" for name in networks], jax.vmap(r2_of_factor)(factors[:, 1, 0]))]
    spectra = {}
    for shape in sorted(set(shapes.values())):  # a single one, unless widths differ
        names = [name for name in shapes if shapes[name] == shape]
        part = jnp.stack([sigma[index, ..., : min(shape)] for index, name in enumerate(shapes) if name in names])
        blocks += _spectral_blocks(names, measures_of_spectrum(part, num_samples=shape[0], num_dimensions=shape[1]))
        for (i, name), (j, kind) in product(enumerate(names), enumerate(_KINDS)):
            spectra[f"{name}_{_INFIX[kind]}singular_values"] = part[i, 1, j]
    return blocks, spectra


def _spectral_blocks(networks: list[str], measures: SpectralMeasures) -> list[Block]:
    """Scalars of measures [network, time, kind]."""
    places = list(product(networks, _SUFFIXES, _KINDS))
    fields = (*RANKS, *SINGULAR_VALUES)
    values = jnp.stack([getattr(measures, _FIELD_OF.get(field, field)) for field in fields])
    names = [f"{net}_{_INFIX[kind]}{field}{suffix}" for field, (net, suffix, kind) in product(fields, places)]
    change = values[: len(RANKS), :, 1] - values[: len(RANKS), :, 0]
    change_names = [f"{net}_{_INFIX[kind]}{rank}_change" for rank, net, kind in product(RANKS, networks, _KINDS)]
    return [(names, values), (change_names, change)]


def _weight_norms(policy: Sequence[Array], critic: Sequence[Array], share_trunk: bool) -> Block:
    """Spectral norms of both heads, and the largest of the hidden layers of each network."""
    num_hidden = len(policy) - 1
    hidden = policy[:-1] if share_trunk else (*policy[:-1], *critic[:-1])
    norms = spectral_norms([policy[-1], critic[-1], *hidden])
    largest = [norms[2 : 2 + num_hidden].max(), norms[2 if share_trunk else 2 + num_hidden :].max()]
    names = ("policy_head_spectral_norm", "critic_head_spectral_norm")
    return (*names, "policy_weight_spectral_norm_max", "critic_weight_spectral_norm_max"), jnp.stack(
        [norms[0], norms[1], *largest]
    )


def _rows(networks: dict[str, tuple[NetworkOutput, NetworkOutput]]) -> list[Block]:
    """Norms, means and deviations before and after, and drift between, of each sample [..., N]."""

    def by_subject(function: Callable[..., Array], *outputs: NetworkOutput) -> Array:
        """`function`, a sum over dimensions, of features, of penultimate and of all pre-activations: [3, N]."""
        layers = [function(*same) for same in zip(*(output.preactivations for output in outputs), strict=True)]
        return jnp.stack([function(*(output.features for output in outputs)), layers[-1], sum_over_layers(layers)])

    widths = [[x.features.shape[-1]] * 2 + [sum(z.shape[-1] for z in x.preactivations)] for x, _ in networks.values()]
    width = jnp.array(widths, jnp.float32)[:, :, None]  # [network, subject, 1]
    wide = width[:, None]  # [network, 1, subject, 1]
    square, total = (
        jnp.stack([jnp.stack([by_subject(f, output) for output in pair]) for pair in networks.values()])
        for f in (squared_norm, lambda x: x.sum(axis=-1))
    )  # [network, time, subject, N]
    difference, scalar_product = (
        jnp.stack([by_subject(f, *pair) for pair in networks.values()])
        for f in (lambda b, a: squared_norm(a - b), lambda b, a: (b * a).sum(axis=-1))
    )  # [network, subject, N]

    def named(field: str, subjects: Sequence[str], suffixes: Sequence[str], values: Array) -> Block:
        places = product(networks, suffixes, subjects)
        return [f"{network}_{subject}_{field}{suffix}" for network, suffix, subject in places], values

    penultimate = [x[:, :, : len(_KINDS)] for x in (total, square, wide)]
    return [
        named("norm", _SUBJECTS, _SUFFIXES, jnp.sqrt(square)),
        named("mean", _KINDS, _SUFFIXES, penultimate[0] / penultimate[2]),
        named("std", _KINDS, _SUFFIXES, deviation_of_rows(*penultimate)),
        named("drift", _SUBJECTS, ("",), difference / width),
        named("cosine", _SUBJECTS, ("",), cosine_of_rows(scalar_product, square[:, 0], square[:, 1])),
    ]


def _output_rows(value: tuple[Array, Array], entropy: tuple[Array, Array]) -> list[Block]:
    names = [f"{name}{suffix}" for name, suffix in product(("value_mean", "entropy"), _SUFFIXES)]
    return [(names, jnp.stack([*value, *entropy]))]


def _trust_region(log_ratio: Array, kl: Array, clip_eps: Array | float) -> tuple[list[Block], list[Block]]:
    """Scalars, and quantities of each sample [..., N]."""
    table, fraction = ratio_table(log_ratio, clip_eps)
    names = [f"ratio{subset}_{statistic}" for subset, statistic in product(RATIO_SUBSETS, RATIO_STATISTICS)]
    scalars = [
        (names, table),
        (("ratio_above_fraction", "ratio_below_fraction"), fraction[1:]),
        (("excess_ratio",), table[1, 0] / table[2, 0]),
    ]
    return scalars, [(("kl", "kl_k1", "kl_k3"), jnp.stack([kl, -log_ratio, k3_terms(log_ratio)]))]
