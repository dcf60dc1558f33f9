"""The diagnosis of one update: the networks before against after it, on the whole rollout batch of N samples.

Every metric is the public function of this package that has its name, mapped over networks and over before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.blas import of_each
from purejaxppo.diagnostics.neurons import (
    always_active_neurons,
    collinearity,
    dormant_neurons,
    feature_statistics,
    joint_norm,
    policy_variance,
    variance,
)
from purejaxppo.diagnostics.probe import centred, explained_variance
from purejaxppo.diagnostics.routes import singular_values_and_r2
from purejaxppo.diagnostics.spectral import (
    RANKS,
    SINGULAR_VALUES,
    measures_of_spectrum,
    singular_values,
    spectral_norms,
)
from purejaxppo.diagnostics.trust_region import drift, joint_drift, kl_k1, kl_k3, ratio_statistics

Array = jax.Array

_SUFFIXES = ("_before", "")  # of a metric's name, by time
_KINDS = {"": "feature", "preactivation_": "preactivation"}  # infix of spectral measures, which features have none of
_FIELD_OF = {"rank": "approximate_rank"}  # the headline rank of the paper is the one called just "rank"


@struct.dataclass(kw_only=True)
class Representation:
    """What a network makes of N states: features [N, D], and pre-activations [N, D_l] of every hidden layer."""

    features: Array
    preactivations: tuple[Array, ...]


@struct.dataclass(kw_only=True)
class Snapshot:
    """Policy and critic at one moment, on the N states of a rollout.

    networks: by name; the only one is "policy" where policy and critic share a trunk.
    entropy, value: [N]. moments: [N, K], a categorical policy's probabilities, or loc and scale side by side.
    weights: by name, the layers' kernels [fan_in, fan_out], the head last.
    """

    networks: dict[str, Representation]
    entropy: Array
    value: Array
    moments: Array
    weights: dict[str, tuple[Array, ...]]


def diagnose(
    before: Snapshot,
    after: Snapshot,
    *,
    log_ratio: Array,
    kl: Array,
    value_target: Array,
    clip_eps: Array | float,
    dead_neurons: Callable[[Array], Array],
) -> dict[str, Array]:
    """All metrics of the registry but those of minibatches, episodes, plasticity and runs: scalars [], spectra [D].

    log_ratio, kl [N]: log pi_after - log pi_before of the rollout's actions, KL(before || after) of each state.
    value_target [N]: what the critic was fitted to. dead_neurons: from features [N, D] to their number.
    With a shared trunk the representation is measured once and reported under both networks' names.
    No gradient flows through a diagnosis: the SVD has none where singular values coincide.
    """
    before, after, log_ratio, kl, target = jax.lax.stop_gradient((before, after, log_ratio, kl, value_target))
    names = list(before.networks)
    shapes = {name: jax.tree.map(jnp.shape, network) for name, network in before.networks.items()}
    is_alike = all(shape == shapes["policy"] for shape in shapes.values())
    metrics: dict[str, Array] = {}
    for together in [names] if is_alike else [[name] for name in names]:
        metrics |= _of_networks(together, before, after, target, dead_neurons)
    if names == ["policy"]:
        metrics |= {"critic" + name.removeprefix("policy"): x for name, x in metrics.items()}
    metrics |= _weights(after.weights) | _trust_region(log_ratio, kl, clip_eps)
    entropy, moments, value = (
        jnp.stack([getattr(x, name) for x in (before, after)]) for name in ("entropy", "moments", "value")
    )
    outputs = jax.vmap(_outputs, (0, 0, 0, None))(entropy, moments, value, target)
    return metrics | {f"{name}{suffix}": x[i] for name, x in outputs.items() for i, suffix in enumerate(_SUFFIXES)}


def _of_networks(
    names: Sequence[str], before: Snapshot, after: Snapshot, target: Array, dead_neurons: Callable[[Array], Array]
) -> dict[str, Array]:
    """Representations, and their drift, of networks of the same widths."""
    pairs = [(before.networks[name], after.networks[name]) for name in names]
    found = of_each(
        lambda network: _representation(network, target, dead_neurons), [network for pair in pairs for network in pair]
    )
    places = [(name, suffix) for name in names for suffix in _SUFFIXES]
    metrics = _named(places, [values for values, _ in found])
    num_samples, num_dimensions = pairs[0][0].features.shape
    metrics |= _named(places, _spectral(jnp.stack([spectra for _, spectra in found]), num_samples, num_dimensions))
    for name in names:
        for rank in [name + infix + rank for infix in ("_", "_preactivation_") for rank in RANKS]:
            metrics[f"{rank}_change"] = metrics[rank] - metrics[f"{rank}_before"]
        for infix in _KINDS:
            del metrics[f"{name}_{infix}singular_values_before"]  # spectra are large, and that of before was after once
        del metrics[f"{name}_probe_r2_before"]
    return metrics | _named([(name, "") for name in names], of_each(_drift, pairs))


def _named(places: Sequence[tuple[str, str]], values: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Metrics under their full names, with network and suffix of each place."""
    return {
        f"{network}_{name}{suffix}": x
        for (network, suffix), of_one in zip(places, values, strict=True)
        for name, x in of_one.items()
    }


def _representation(
    network: Representation, target: Array, dead_neurons: Callable[[Array], Array]
) -> tuple[dict[str, Array], Array]:
    """Of one network at one moment, metrics and the singular values [2, D] of features and last pre-activations."""
    features, layers = network.features, network.preactivations
    metrics = {
        "dead_neurons": dead_neurons(features),
        "dormant_neurons": dormant_neurons(features),
        "always_active_neurons": always_active_neurons(layers[-1]),
        "collinearity": collinearity(features),
        "all_preactivations_norm": joint_norm(layers),
    }
    sigma, metrics["probe_r2"] = singular_values_and_r2(features, centred(target))
    statistics = of_each(feature_statistics, [features, layers[-1]])
    for kind, of_kind in zip(_KINDS.values(), statistics, strict=True):
        metrics |= {f"{kind}_{field}": getattr(of_kind, field) for field in ("norm", "mean", "std")}
    return metrics, jnp.stack([sigma, singular_values(layers[-1])])


def _spectral(sigma: Array, num_samples: int, num_dimensions: int) -> list[dict[str, Array]]:
    """Of singular values [K, 2, D], the measures of each of K representations: side by side, as they are small."""
    measures = measures_of_spectrum(sigma, num_samples=num_samples, num_dimensions=num_dimensions)
    return [
        {
            f"{infix}{field}": getattr(measures, _FIELD_OF.get(field, field))[k, i]
            for i, infix in enumerate(_KINDS)
            for field in (*RANKS, *SINGULAR_VALUES, "singular_values")
        }
        for k in range(sigma.shape[0])
    ]


def _drift(pair: tuple[Representation, Representation]) -> dict[str, Array]:
    """Of one network before and after, how far its representation moved."""
    before, after = pair
    moved = {
        "feature": drift(before.features, after.features),
        "preactivation": drift(before.preactivations[-1], after.preactivations[-1]),
        "all_preactivations": joint_drift(before.preactivations, after.preactivations),
    }
    return {
        f"{subject}_{field}": x
        for subject, xs in moved.items()
        for field, x in zip(("drift", "cosine"), xs, strict=True)
    }


def _outputs(entropy: Array, moments: Array, value: Array, target: Array) -> dict[str, Array]:
    """Of policy and critic at one moment, what they say of the states."""
    return {
        "entropy": entropy.mean(),
        "policy_variance": policy_variance(moments),
        "value_mean": value.mean(),
        "value_std": jnp.sqrt(variance(value, axis=-1)),
        "value_explained_variance": explained_variance(target, value),
    }


def _weights(weights: dict[str, tuple[Array, ...]]) -> dict[str, Array]:
    """Spectral norms of each network's head, and the largest of its hidden layers."""
    norms = spectral_norms([matrix for matrices in weights.values() for matrix in matrices])
    metrics = {}
    for network, matrices in weights.items():
        own, norms = norms[: len(matrices)], norms[len(matrices) :]
        metrics[f"{network}_head_spectral_norm"] = own[-1]
        is_measured = len(matrices) > 1  # a torso of the user's own may have no matrix
        metrics[f"{network}_weight_spectral_norm_max"] = own[:-1].max() if is_measured else jnp.float32(jnp.nan)
    return metrics


def _trust_region(log_ratio: Array, kl: Array, clip_eps: Array | float) -> dict[str, Array]:
    estimates = {"kl": kl.mean(), "kl_k1": kl_k1(log_ratio), "kl_k3": kl_k3(log_ratio)}
    return estimates | ratio_statistics(log_ratio, clip_eps)
