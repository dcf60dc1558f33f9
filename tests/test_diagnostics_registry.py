"""The table of metrics: complete, well formed, readable, and free of JAX."""

from __future__ import annotations

import subprocess
import sys

import pytest

from purejaxppo import diagnostics
from purejaxppo.diagnostics import spectral
from purejaxppo.results import registry
from purejaxppo.results.registry import HEADLINE, METRICS, markdown_table
from purejaxppo.statistics import correlations

FAMILIES = {
    "spectral": 104,  # 2 networks x 2 matrices x (10 scalars after + 10 before + 5 changes + 1 spectrum)
    "norm": 32,  # 2 networks x (7 norms + collinearity) x (after, before)
    "neuron": 16,  # 2 networks x ((dead, dormant, always active) x (after, before), without gradient, resets)
    "output": 12,  # policy variance, value mean, deviation, explained variance, entropy, x (after, before); 2 probes
    "weight": 6,  # 2 networks x (largest of the hidden layers, head, change)
    "plasticity": 12,  # 2 networks x (loss, curve, 2 references, 2 excesses)
    "trust_region": 19,  # 3 KL + 12 ratio statistics + 2 fractions + excess ratio + KL by the observation statistics
    "drift": 13,  # 2 networks x 3 subjects x (drift, cosine) + that by the observation statistics
    "minibatch": 104,  # 25 quantities at 4 moments + 4 of the whole phase
    "performance": 7,
    "evaluation": 4,
    "run": 2,
}


def test_every_family_is_complete() -> None:
    counts = {family: sum(metric.family == family for metric in METRICS.values()) for family in FAMILIES}
    assert counts == FAMILIES
    assert len(METRICS) == sum(FAMILIES.values())


@pytest.mark.parametrize(
    "name",
    [
        *("return_mean", "episode_length_mean", "entropy", "policy_rank", "critic_rank", "policy_effective_rank"),
        *("policy_preactivation_norm", "policy_dead_neurons", "critic_dead_neurons", "policy_variance", "kl", "status"),
        *(
            "ratio_below_mean",
            "ratio_above_mean",
            "excess_ratio",
            "clip_fraction",
            "pfo_loss",
            "policy_singular_values",
        ),
        *("critic_preactivation_numerical_rank_change", "policy_all_preactivations_norm_before"),
        *("policy_participation_ratio", "critic_preactivation_condition_number_before", "policy_collinearity_before"),
        *("critic_dormant_neurons", "value_explained_variance", "policy_probe_r2", "critic_probe_r2"),
        *("policy_weight_spectral_norm_max", "critic_head_spectral_norm"),
        *("critic_step_norm_first_epoch_last", "policy_preactivation_sigma_min_before"),
    ],
)
def test_public_names(name: str) -> None:
    assert METRICS[name].name == name


def test_entries_are_well_formed() -> None:
    labels = [metric.long_name for metric in METRICS.values() if metric.family != "minibatch"]
    assert len(labels) == len(set(labels))
    definitions = [metric.definition for metric in METRICS.values()]
    assert len(definitions) == len(set(definitions))
    for metric in METRICS.values():
        assert metric.name.isidentifier()
        assert metric.long_name
        assert len(metric.definition) > 20, metric.name
        assert metric.dims in (("run",), ("run", "log"), ("run", "log", "D"), ("run", "log", "minibatch")), metric.name
        assert not metric.definition.endswith("."), metric.name


def test_tables() -> None:
    assert 12 <= len(HEADLINE) <= 17
    assert set(HEADLINE) <= METRICS.keys()
    whole = markdown_table().splitlines()
    assert len(whole) == len(METRICS) + 2
    assert all(line.replace("\\|", "").count("|") == 5 for line in whole)
    assert "`policy_rank`" in markdown_table(HEADLINE)
    assert len(markdown_table(HEADLINE).splitlines()) == len(HEADLINE) + 2


def test_reading_the_table_loads_no_jax() -> None:
    code = (
        "import sys; from purejaxppo import diagnostics; diagnostics.METRICS; diagnostics.markdown_table();"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_program_and_the_readers_know_the_same_measures() -> None:
    """Neither may import the other: the table is read without JAX, and the program does not know who reads."""
    assert tuple(registry.RANKS) == spectral.RANKS == tuple(correlations.RANKS)
    assert tuple(registry.SINGULAR_VALUES) == spectral.SINGULAR_VALUES


def test_public_names_of_the_package() -> None:
    for name in diagnostics.__all__:
        assert getattr(diagnostics, name) is not None
    assert dir(diagnostics) == sorted(diagnostics.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'rank'"):
        _ = diagnostics.rank
