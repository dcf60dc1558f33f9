"""The diagnosis of one update: the networks before against after it, on the whole rollout batch of N samples.

Built for a program that is vmapped over runs. Matrices are read where they lie (stacking them would write another copy
of all of them), what is small is stacked early, and everything ends in one vector: XLA compiles a kernel for each
separate output, which for 160 scalars takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.diagnostics.neurons import (
    dead_neurons,
    mean_and_variance,
    mean_over_samples,
    policy_variance,
    row_moments,
    squared_norm,
    sum_over_layers,
)
from purejaxppo.diagnostics.registry import RANKS, SINGULAR_VALUES
from purejaxppo.diagnostics.spectral import SpectralMeasures, measures_of_spectrum, singular_values
from purejaxppo.diagnostics.trust_region import (
    RATIO_STATISTICS,
    RATIO_SUBSETS,
    kl_k1,
    kl_k3,
    mean_drift,
    ratio_table,
    row_drift,
)

Array = jax.Array

_SUFFIXES = ("_before", "")  # of a metric's name, by time
_KINDS = ("feature", "preactivation")  # a network's two matrices; the spectral measures of features have no infix
_INFIX = {"feature": "", "preactivation": "preactivation_"}
_FIELD_OF = {"rank": "approximate_rank"}  # the headline rank of the paper is the one called just "rank"


class NetworkOutput(Protocol):
    """What a diagnosis reads of a network's output: features [N, D], and pre-activations [N, D_l] per hidden layer."""

    @property
    def features(self) -> Array: ...

    @property
    def preactivations(self) -> tuple[Array, ...]: ...


@struct.dataclass(kw_only=True)
class PackedMetrics:
    """Metrics in few arrays: `values` [..., M] in the order of `names`, and `spectra` [..., D] by name."""

    names: tuple[str, ...] = struct.field(pytree_node=False)
    values: Array
    spectra: dict[str, Array]

    def unpack(self) -> dict[str, Any]:
        """Metrics by name; any leading axes (runs, log points) stay. Also for NumPy arrays."""
        return {name: self.values[..., index] for index, name in enumerate(self.names)} | self.spectra


Block = tuple[Sequence[str], Array]  # names, and as many values in an array of any shape


def diagnose(**inputs: Any) -> dict[str, Array]:
    """All metrics of the registry except the families minibatch, performance and run: scalars [], spectra [D].

    Takes what `diagnose_packed` takes.
    """
    return diagnose_packed(**inputs).unpack()


def diagnose_packed(
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
    share_trunk: bool = False,
) -> PackedMetrics:
    """`diagnose`, in few arrays.

    log_ratio, kl, entropy_*, value_* are [N]: log pi_after - log pi_before of the rollout's actions, and KL(before ||
    after), entropy and value of each state. policy_moments_* are [N, K]: probabilities, or loc and scale side by side.
    With `share_trunk` the representation is measured once and reported under both networks' names.
    No gradient flows through a diagnosis: the SVD has none where singular values coincide.
    """
    networks = {"policy": (policy_before, policy_after)}
    if not share_trunk:
        networks["critic"] = (critic_before, critic_after)
    networks, log_ratio, kl = jax.lax.stop_gradient((networks, log_ratio, kl))
    moments = jax.lax.stop_gradient((policy_moments_before, policy_moments_after))
    rows = jax.lax.stop_gradient(jnp.stack([value_before, value_after, entropy_before, entropy_after]))
    blocks, spectra = _representation(networks, activation)
    if share_trunk:
        blocks += [([_of_critic(name) for name in names], array) for names, array in blocks]
        spectra |= {_of_critic(name): spectrum for name, spectrum in spectra.items()}
    blocks += [*_output_blocks(moments, rows), *_trust_region_blocks(log_ratio, kl, clip_eps)]
    return PackedMetrics(
        names=tuple(name for names, _ in blocks for name in names),
        values=jnp.concatenate([array.ravel() for _, array in blocks]),
        spectra=spectra,
    )


def _of_critic(name: str) -> str:
    return "critic" + name.removeprefix("policy")


def _representation(
    networks: dict[str, tuple[NetworkOutput, NetworkOutput]], activation: str
) -> tuple[list[Block], dict[str, Array]]:
    """Spectral, norm, neuron and drift metrics of each network's outputs (before, after); and the spectra after."""
    outputs = list(networks.values())
    blocks, spectra = _spectral(
        {name: [_matrices(output) for output in pair] for name, pair in networks.items()},
    )
    dead = jnp.stack([dead_neurons(output.features, activation) for pair in outputs for output in pair])
    names = [f"{network}_dead_neurons{suffix}" for network, suffix in product(networks, _SUFFIXES)]
    return [*blocks, (names, dead.astype(jnp.float32)), *_norms_and_drift(networks)], spectra


def _matrices(output: NetworkOutput) -> tuple[Array, Array]:
    return output.features, output.preactivations[-1]


def _spectral(matrices: dict[str, list[tuple[Array, Array]]]) -> tuple[list[Block], dict[str, Array]]:
    """Measures of the matrices [N, D] of each network, by time and kind.

    One stacked call for all: several independent LAPACK calls in one program can deadlock XLA's CPU runtime. Networks of
    other widths get columns of zeros, which add singular values 0 and change no other.
    """
    shapes = {name: times[0][0].shape for name, times in matrices.items()}
    widest = max(shape[1] for shape in shapes.values())
    every = [matrix for times in matrices.values() for kinds in times for matrix in kinds]
    stacked = jnp.stack([jnp.pad(x, [(0, 0), (0, widest - x.shape[1])]) for x in every])
    sigma = singular_values(stacked).reshape(len(shapes), 2, 2, -1)  # [network, time, kind, K]
    blocks, spectra = [], {}
    for shape in sorted(set(shapes.values())):  # a single one, unless widths differ
        group = [index for index, other in enumerate(shapes.values()) if other == shape]
        names = [list(shapes)[index] for index in group]
        part = sigma[jnp.array(group), ..., : min(shape)] if len(group) < len(shapes) else sigma
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


def _norms_and_drift(networks: dict[str, tuple[NetworkOutput, NetworkOutput]]) -> list[Block]:
    """Norms before and after, and drift between, of features, penultimate and all pre-activations of each network."""
    pairs = list(networks.values())
    places = list(product(networks, _SUFFIXES, _KINDS))
    every = [row_moments(matrix) for pair in pairs for output in pair for matrix in _matrices(output)]
    rows = jax.tree.map(lambda *x: jnp.stack(x).reshape(len(pairs), 2, 2, -1), *every)  # [network, time, kind, N]
    statistics = mean_over_samples(rows)

    def sum_hidden(pair: tuple[NetworkOutput, NetworkOutput], measure: Any, start: Array) -> Array:
        layers = zip(*(output.preactivations[:-1] for output in pair), strict=True)
        return sum_over_layers([start, *(jnp.stack(measure(before, after)) for before, after in layers)])

    # Sums over layers [network, 2, N]: the penultimate layer's are known, the layers below it are added to them.
    square_all = jnp.stack([
        sum_hidden(pair, lambda b, a: (squared_norm(b), squared_norm(a)), rows.square[i, :, 1])
        for i, pair in enumerate(pairs)
    ])
    moved = [[row_drift(b, a) for b, a in zip(*map(_matrices, pair), strict=True)] for pair in pairs]
    moved = jnp.stack([jnp.stack([jnp.stack(kind) for kind in kinds]) for kinds in moved])  # [network, kind, 2, N]
    moved_all = jnp.stack([sum_hidden(pair, row_drift, moved[i, 1]) for i, pair in enumerate(pairs)])

    blocks: list[Block] = [
        ([f"{net}_{kind}_{field}{suffix}" for net, suffix, kind in places], getattr(statistics, field))
        for field in ("norm", "mean", "std")
    ]
    names = [f"{net}_all_preactivations_norm{suffix}" for net, suffix in product(networks, _SUFFIXES)]
    blocks.append((names, jnp.sqrt(square_all).mean(axis=-1)))
    for index, (network, (before, _)) in enumerate(networks.items()):
        widths = [before.features.shape[-1]] * 2 + [sum(x.shape[-1] for x in before.preactivations)]
        squares = jnp.concatenate([rows.square[index], square_all[index][:, None]], axis=1)  # [time, subject, N]
        moves = jnp.concatenate([moved[index], moved_all[index][None]])  # [subject, 2, N]
        mean_difference, cosine = mean_drift(
            difference=moves[:, 0],
            product=moves[:, 1],
            square_before=squares[0],
            square_after=squares[1],
            num_dimensions=jnp.array(widths, jnp.float32),
        )
        subjects = (*_KINDS, "all_preactivations")
        blocks.append(([f"{network}_{subject}_drift" for subject in subjects], mean_difference))
        blocks.append(([f"{network}_{subject}_cosine" for subject in subjects], cosine))
    return blocks


def _output_blocks(moments: tuple[Array, Array], rows: Array) -> list[Block]:
    """Policy variance from moments [N, K] before and after; means and deviations of rows [4, N] of values, entropies."""
    mean, variance = mean_and_variance(rows, axis=-1)
    names = [f"{name}{suffix}" for name, suffix in product(("value_mean", "entropy"), _SUFFIXES)]
    return [
        ([f"policy_variance{suffix}" for suffix in _SUFFIXES], policy_variance(jnp.stack(moments))),
        (names, mean),
        ([f"value_std{suffix}" for suffix in _SUFFIXES], jnp.sqrt(variance[:2])),
    ]


def _trust_region_blocks(log_ratio: Array, kl: Array, clip_eps: Array | float) -> list[Block]:
    table, fraction = ratio_table(log_ratio, clip_eps)
    names = [f"ratio{subset}_{statistic}" for subset, statistic in product(RATIO_SUBSETS, RATIO_STATISTICS)]
    return [
        (("kl", "kl_k1", "kl_k3"), jnp.stack([kl.mean(), kl_k1(log_ratio), kl_k3(log_ratio)])),
        (names, table),
        (("ratio_above_fraction", "ratio_below_fraction"), fraction[1:]),
        (("excess_ratio",), table[1, 0] / table[2, 0]),
    ]
