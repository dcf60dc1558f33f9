"""Claims: each one on made-up sweeps in which it is true, false, and undecided; and who is compared with whom."""

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest

from purejaxppo import HyperParams, TrainConfig
from purejaxppo.claims.interventions import DEFAULTS, INTERVENTIONS, setups
from purejaxppo.claims.verdicts import evaluate_claims, format_claims
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import GroupResult, load, save, to_dataset
from purejaxppo.statistics.estimates import iqm, paired_difference
from purejaxppo.sweep.plan import Sweep, to_json

L = 100
WIDTH = 64
TIME = np.arange(L) / (L - 1)


def run(is_true=True, is_severe=False, seed=0):
    """Metrics [L] of a run in which the paper is right (things collapse at some time), or in which it is wrong."""
    jitter = 1 + 0.02 * np.random.default_rng(seed).normal(size=L)
    begin = 0.4 if is_severe else 0.6
    gone = np.clip((TIME - begin) / 0.2, 0, 1)  # 0 before the collapse, 1 after it
    if is_true:
        metrics = {
            "policy_preactivation_norm": 10 * 2 ** ((4 if is_severe else 2) * TIME),
            "policy_rank": np.round(30 * (1 - gone) + (1 if is_severe else 3) * gone),
            "return_mean": 100 * np.minimum(1, 5 * TIME) * (1 - gone),
            "policy_plasticity_loss": 0.1 * 10 ** (gone + 0.1 * TIME),
            "ratio_below_mean": 0.7 * 0.1**gone,
        }
    else:
        metrics = {
            "policy_preactivation_norm": 10 * 2 ** (-2 * TIME),
            "policy_rank": np.round(10 + 30 * TIME),
            "return_mean": 100 * TIME,
            "policy_plasticity_loss": 0.1 * 2 ** (-2 * TIME),
            "ratio_below_mean": 0.7 * 0.5**TIME,
        }
    metrics["policy_plasticity_loss"] = np.where(np.arange(L) % 4 == 3, metrics["policy_plasticity_loss"], np.nan)
    metrics |= {
        "policy_variance": 0.2 * 0.01**gone,
        "policy_dead_neurons": 10 + 54 * gone,
        "policy_loss": -0.01 * 0.01**gone,
    }
    return {name: values if name == "policy_rank" else values * jitter for name, values in metrics.items()}


def sweep(make, points=({},), seeds=8, config=None, hparams=None, status=None):
    """Results of a sweep: `make(point, seed)` gives the metrics [L] of a run."""
    plan = Sweep(
        name="made-up",
        seeds=tuple(range(seeds)),
        config=TrainConfig(**(config or {})),
        hparams=HyperParams(**(hparams or {})),
        points=tuple(points),
    )
    pairs = [(point, seed) for point in points for seed in plan.seeds]
    runs = [make(point, seed) for point, seed in pairs]
    metrics = {name: np.stack([metrics[name] for metrics in runs]) for name in (runs[0] if runs else run())}
    metrics["policy_singular_values"] = np.ones((len(pairs), L, WIDTH))
    group = GroupResult(
        metrics=metrics,
        env_steps=1000 * np.arange(1, L + 1),
        seeds=np.array([seed for _, seed in pairs]),
        swept={name: [point[name] for point, _ in pairs] for name in plan.swept},
        status=np.zeros(len(pairs)) if status is None else np.array(status),
        run_index=np.arange(len(pairs)),
    )
    return to_dataset([group], {"sweep": to_json(plan)})


def rows(table, name, column):
    """A column of the row of a claim and of those of its parts."""
    return [row[column] for row in table.to_dict("records") if row["claim"] == name]


def claim(table, name):
    """Verdict of a claim and the list of those of its parts."""
    verdict, *parts = rows(table, name, "verdict")
    return verdict, parts


def note(table, name, part=1):
    return rows(table, name, "note")[part]


# Whether the paper is right in a run of this seed.
WORLDS = {
    "SUPPORTED": lambda seed: True,
    "CONTRADICTED": lambda seed: False,
    "INCONCLUSIVE": lambda seed: seed % 2 == 0,
}


@pytest.mark.parametrize("verdict", WORLDS)
def test_representation_and_return_are_lost(verdict):
    """False: the norm shrinks, rank and return go on to grow."""
    table = evaluate_claims(sweep(lambda point, seed: run(WORLDS[verdict](seed), seed=seed)))
    assert claim(table, "C1") == (verdict, [verdict] * 3)


@pytest.mark.parametrize("verdict", WORLDS)
@pytest.mark.parametrize(("name", "metric"), [("C3", "policy_plasticity_loss"), ("C4", "ratio_below_mean")])
def test_plasticity_is_lost_and_clipping_stops_protecting(name, metric, verdict):
    """False: while the rank falls, the plasticity loss falls too, and the ratios rise."""

    def make(point, seed):
        metrics = run(seed=seed)
        return metrics if WORLDS[verdict](seed) else metrics | {metric: metrics[metric][::-1]}

    assert claim(evaluate_claims(sweep(make)), name) == (verdict, [verdict] * 2)


@pytest.mark.parametrize("verdict", WORLDS)
def test_a_collapsed_policy(verdict):
    """False: once the return has collapsed, there is more of everything."""

    def make(point, seed):
        metrics = run(seed=seed)
        flipped = {name: metrics[name][::-1] for name in ("policy_variance", "policy_dead_neurons", "policy_loss")}
        return metrics if WORLDS[verdict](seed) else metrics | flipped

    assert claim(evaluate_claims(sweep(make)), "C5") == (verdict, [verdict] * 3)


@pytest.mark.parametrize("verdict", WORLDS)
def test_more_epochs(verdict):
    """False: it is the runs with few epochs that collapse first."""
    points = ({"num_epochs": 32}, {"num_epochs": 4}, {"num_epochs": 8})
    table = evaluate_claims(
        sweep(lambda point, seed: run(True, (point["num_epochs"] == 32) == WORLDS[verdict](seed), seed), points)
    )
    assert claim(table, "C2") == (verdict, [verdict] * 3)
    assert note(table, "C2", 0) == "32 against 4 epochs"
    assert rows(table, "C2", "runs") == [0, 8, 8, 8]


@pytest.mark.parametrize("verdict", WORLDS)
@pytest.mark.parametrize(
    "point", [{"pfo_coef": 1.0}, {"share_trunk": True}, {"reset_optimizer": True}, {"adam_beta2": 0.9}]
)
def test_interventions_help(point, verdict):
    """False: plain PPO is sound, and the intervention collapses."""
    plain = {"adam_beta2": 0.999, "pfo_coef": 0.0}
    points = ({field: plain.get(field, False) for field in point}, point)
    table = evaluate_claims(
        sweep(lambda here, seed: run((here != point) == WORLDS[verdict](seed), False, seed), points)
    )
    assert claim(table, "C6") == (verdict, [verdict] * 2)
    assert all(next(iter(point)) in part for part in rows(table, "C6", "part")[1:])


def test_effects_are_in_the_units_they_name():
    ranks = np.concatenate([np.full(50, 16.0), np.full(50, 4.0)])
    norms = np.concatenate([[6, 8, 10, 12, 14], np.full(90, 99.0), np.full(5, 80.0)])
    returns = np.concatenate([np.zeros(5), np.full(60, 100.0), np.full(35, 20.0)])
    metrics = {"policy_rank": ranks, "policy_preactivation_norm": norms, "return_mean": returns}
    found = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | metrics)).iloc[1:4]
    # 10 to 80: 3 doublings; 16 to 4: 2 halvings; of 100 gained 80 are lost.
    np.testing.assert_allclose(found[["effect", "low", "high"]], [[3] * 3, [2] * 3, [0.8] * 3], rtol=1e-12)
    assert found["unit"].tolist() == ["doublings", "halvings", "of the gain"]
    assert found["threshold"].tolist() == [1, 1, 0.5]


def test_a_size_must_be_reached():
    """A norm that grows by 1.5 surely grows, but it does not double."""
    norms = {"policy_preactivation_norm": np.linspace(10, 15, L)}
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | norms))
    assert claim(table, "C1") == ("INCONCLUSIVE", ["INCONCLUSIVE", "SUPPORTED", "SUPPORTED"])


def test_one_contradicted_part_contradicts_the_claim():
    norms = {"policy_preactivation_norm": np.linspace(15, 10, L)}
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | norms))
    assert claim(table, "C1") == ("CONTRADICTED", ["CONTRADICTED", "SUPPORTED", "SUPPORTED"])


def test_runs_that_never_learned_have_no_return_to_lose():
    noise = {"return_mean": np.random.default_rng(0).normal(size=L)}
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | (noise if seed > 4 else {})))
    assert table["runs"].iloc[1:4].tolist() == [8, 8, 5]


# --- Who is compared with whom


def test_comparisons_are_paired_over_seeds():
    """Seeds differ a hundredfold, the intervention raises the rank of each by a tenth of a doubling or so."""
    luck = 2 ** np.random.default_rng(1).uniform(0, 7, size=8)
    gain = 0.1 + 0.01 * np.arange(8)

    def make(point, seed):
        rank = luck[seed] * 2 ** (gain[seed] * (point["pfo_coef"] > 0))
        return run(seed=seed) | {"policy_rank": np.full(L, rank)}

    dataset = sweep(make, ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}))
    row = evaluate_claims(dataset).query("part == 'pfo_coef=1: higher rank'").iloc[0]
    assert row["verdict"] == "SUPPORTED"
    np.testing.assert_allclose(row["effect"], iqm(gain))
    expected = paired_difference(gain, np.zeros(8), np.arange(8), np.arange(8))
    np.testing.assert_allclose([row["low"], row["high"]], [expected.low, expected.high], atol=0.01)
    dataset["seed"][:8] = np.roll(np.arange(8), 3)
    row = evaluate_claims(dataset).query("part == 'pfo_coef=1: higher rank'").iloc[0]
    assert row["verdict"] == "INCONCLUSIVE"


def test_only_equal_settings_are_compared():
    """The intervention changes nothing, but was tried at the worse of two learning rates alone."""
    points = (
        {"learning_rate": 0.1, "pfo_coef": 0.0},
        {"learning_rate": 1.0, "pfo_coef": 0.0},
        {"learning_rate": 1.0, "pfo_coef": 1.0},
    )
    table = evaluate_claims(sweep(lambda point, seed: run(point["learning_rate"] == 1, seed=seed), points))
    assert claim(table, "C6") == ("INCONCLUSIVE", ["INCONCLUSIVE"] * 2)
    assert rows(table, "C6", "runs") == [0, 8, 8]
    assert rows(table, "C6", "effect")[1:] == [0, 0]


def test_settings_count_the_same_and_returns_are_scaled():
    """Two environments, one with returns a thousand times larger: the effect is in shares of each one's range."""
    points = [
        {"env": env, "pfo_coef": coef} for env in ("gymnax/CartPole-v1", "gymnax/Acrobot-v1") for coef in (0.0, 1.0)
    ]

    def make(point, seed):
        metrics = run(point["pfo_coef"] == 0, seed=seed)
        scale = 1000 if "Acrobot" in point["env"] else 1
        return metrics | {"return_mean": scale * metrics["return_mean"]}

    both = evaluate_claims(sweep(make, points)).query("part == 'pfo_coef=1: higher return'").iloc[0]
    one = evaluate_claims(sweep(make, points[:2])).query("part == 'pfo_coef=1: higher return'").iloc[0]
    assert (both["runs"], one["runs"]) == (16, 8)
    np.testing.assert_allclose(both[["effect", "low", "high"]].tolist(), one[["effect", "low", "high"]].tolist())


def test_copies_of_plain_ppo_are_no_further_evidence():
    """pfo_layers means nothing without PFO: two points of plain PPO are one setting."""
    points = [{"pfo_layers": layers, "pfo_coef": coef} for layers in ("last", "all") for coef in (0.0, 1.0)]
    dataset = sweep(lambda point, seed: run(point["pfo_coef"] == 0, seed=seed), points)
    table = evaluate_claims(dataset)
    assert table["runs"].iloc[1] == 8
    assert note(table, "C1", 0) == "16 runs of plain PPO, 0 of them diverged"
    names = [part.split(":")[0] for part in rows(table, "C6", "part")[1::2]]
    assert names == ["pfo_coef=1", "pfo_coef=1, pfo_layers=all"]


def described(config=None, hparams=None, points=({},)):
    dataset = sweep(lambda point, seed: run(), points, 1, config, hparams)
    return [(setup.interventions, setup.is_papers) for setup in setups(dataset)]


@pytest.mark.parametrize(
    ("config", "hparams", "name", "is_papers"),
    [
        ({}, {}, "", False),
        ({"lr_schedule": "linear", "activation": "tanh"}, {"learning_rate": 0.1}, "", False),
        ({}, {"pfo_coef": 10.0}, "pfo_coef=10", True),
        ({"pfo_layers": "all"}, {"pfo_coef": 1.0}, "pfo_coef=1, pfo_layers=all", True),
        ({}, {"pfo_coef": 0.1}, "pfo_coef=0.1", False),
        ({}, {"pfo_coef": 100.0}, "pfo_coef=100", False),
        ({}, {"critic_pfo_coef": 1.0}, "critic_pfo_coef=1", False),
        ({"pfo_distance": "cosine"}, {"pfo_coef": 1.0}, "pfo_coef=1, pfo_distance=cosine", False),
        ({"pfo_features": "features"}, {"pfo_coef": 1.0}, "pfo_coef=1, pfo_features=features", False),
        ({"pfo_mode": "clip"}, {"pfo_limit": 0.2}, "pfo_mode=clip, pfo_limit=0.2", False),
        ({"pfo_layers": "all"}, {"pfo_limit": 0.2}, "", False),
        ({"share_trunk": True}, {}, "share_trunk=True", True),
        ({"reset_optimizer": True}, {}, "reset_optimizer=True", True),
        ({}, {"adam_beta2": 0.9}, "adam_beta2=0.9", True),
        ({}, {"adam_beta2": 0.99}, "", False),
        ({"share_trunk": True}, {"pfo_coef": 1.0}, "pfo_coef=1, share_trunk=True", False),
        ({"layer_norm": True}, {}, "layer_norm=True", False),
        ({"policy_objective": "spo"}, {}, "policy_objective=spo", False),
        ({"kl_penalty": True}, {"kl_target": 0.02}, "kl_penalty=True, kl_target=0.02", False),
        ({"kl_stop": True}, {}, "kl_stop=True", False),
        ({}, {"kl_target": 0.02, "kl_stop_limit": 0.1}, "", False),
        ({"weight_spectral": True}, {}, "weight_spectral=True", False),
        ({"weight_spectral": True}, {"weight_spectral_coef": 0.0}, "", False),
        ({"feature_spectral": True}, {}, "feature_spectral=True", False),
        ({"feature_spectral": True}, {"feature_spectral_coef": 0.0}, "", False),
    ],
)
def test_what_counts_as_plain_ppo(config, hparams, name, is_papers):
    assert described(config, hparams) == [(name, is_papers)]
    # The same from an axis, next to a point of plain PPO.
    plain = {field: DEFAULTS[field] for field in config | hparams}
    assert described(points=(plain, config | hparams)) == [("", False), (name, is_papers)]


def test_unequal_betas_are_settings_and_not_all_the_same_plain_ppo():
    """Runs of beta2 = 0.99 were averaged into those of 0.999, against which beta2 = 0.9 is held."""
    points = tuple({"adam_beta2": beta, "pfo_coef": coef} for beta in (0.99, 0.999, 0.9) for coef in (0.0, 1.0))
    found = setups(sweep(lambda point, seed: run(), points, seeds=1))
    other = (("adam_beta2", 0.99),)
    assert [setup.setting for setup in found] == [other, other, (), (), (), ()]
    assert [setup.interventions for setup in found[:4]] == ["", "pfo_coef=1", "", "pfo_coef=1"]

    def make(point, seed):
        return run(seed=seed) | {"policy_rank": np.full(L, {0.99: 32.0, 0.999: 2.0, 0.9: 8.0}[point["adam_beta2"]])}

    table = evaluate_claims(sweep(make, tuple({"adam_beta2": beta} for beta in (0.999, 0.99, 0.9))))
    row = table[table["part"] == "adam_beta2=0.9: higher rank"].iloc[0]
    assert row["effect"] == pytest.approx(2)
    assert row["verdict"] == "SUPPORTED"
    # Where no run has the betas of the base, the first that has unequal ones is what others are held against.
    found = setups(sweep(lambda point, seed: run(), ({"adam_beta2": 0.9}, {"adam_beta2": 0.99}), seeds=1))
    assert [setup.setting for setup in found] == [(), ()]


def test_an_axis_overrides_the_base():
    assert described(hparams={"pfo_coef": 1.0}, points=({"pfo_coef": 0.0}, {"pfo_coef": 1.0})) == [
        ("", False),
        ("pfo_coef=1", True),
    ]


def test_every_field_of_an_intervention_exists():
    names = {field.name for cls in (TrainConfig, HyperParams) for field in dataclasses.fields(cls)}
    assert {field for intervention in INTERVENTIONS for field in intervention.fields} <= names


def test_what_the_paper_does_not_name_has_no_part_in_its_claim():
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}, {"pfo_coef": 100.0})
    table = evaluate_claims(sweep(lambda point, seed: run(point["pfo_coef"] != 1, seed=seed), points))
    assert claim(table, "C6") == ("SUPPORTED", ["SUPPORTED"] * 2)
    verdict, parts = claim(table, "more")
    assert verdict == ""
    assert len(parts) == 2
    assert "pfo_coef=100: higher rank" in format_claims(table)


# --- What cannot be tested, and says why


def test_what_a_sweep_lacks():
    plain = sweep(lambda point, seed: run(seed=seed))
    table = evaluate_claims(plain)
    assert claim(table, "C2") == ("NOT TESTED", ["NOT TESTED"] * 3)
    assert "no axis num_epochs" in note(table, "C2")
    assert claim(table, "C6") == ("NOT TESTED", [])
    assert "no such intervention" in note(table, "C6", 0)
    plain["policy_plasticity_loss"] = plain["policy_plasticity_loss"] * np.nan
    for dataset in (plain, plain.drop_vars("policy_plasticity_loss")):
        table = evaluate_claims(dataset)
        assert claim(table, "C3") == ("NOT TESTED", ["NOT TESTED"] * 2)
        assert note(table, "C3") == "policy_plasticity_loss has no values in these results"
    sound = evaluate_claims(sweep(lambda point, seed: run(False, seed=seed)))
    assert claim(sound, "C5") == ("NOT TESTED", ["NOT TESTED"] * 3)
    assert note(sound, "C5") == "the return of no run of plain PPO collapsed"


def test_without_plain_ppo_nothing_is_tested():
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed), hparams={"pfo_coef": 1.0}))
    assert set(table["verdict"]) == {"NOT TESTED"}
    assert set(table["note"].iloc[1:4]) == {"no run of plain PPO in this sweep"}


def test_without_diagnostics_runs_or_log_points():
    dataset = sweep(lambda point, seed: run(seed=seed), ({"num_epochs": 4}, {"num_epochs": 32}))
    bare = evaluate_claims(dataset[["return_mean", "status"]])
    assert bare.query("part == 'the return falls with it'")["verdict"].tolist() == ["SUPPORTED"]
    assert claim(bare, "C1")[0] == "INCONCLUSIVE"
    odd = dataset.assign(policy_rank=dataset["policy_rank"].isel(log=0))
    assert "policy_rank has no values" in note(evaluate_claims(odd), "C1", 2)
    for empty in (dataset.isel(run=slice(0, 0)), dataset.isel(log=slice(0, 0)), dataset.isel(log=slice(0, 1))):
        assert "SUPPORTED" not in set(evaluate_claims(empty)["verdict"])
        format_claims(evaluate_claims(empty))


def test_three_seeds_are_too_few():
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}, {"pfo_coef": 0.0, "learning_rate": 1.0})[:2]
    table = evaluate_claims(sweep(lambda point, seed: run(point["pfo_coef"] == 0, seed=seed), points, seeds=3))
    assert set(table["verdict"]) == {"INCONCLUSIVE", "NOT TESTED"}
    assert note(table, "C1") == "only 3 of the 4 seeds that it needs"
    assert note(table, "C6") == "only 3 of the 4 seeds that it needs"
    # Many settings do not make up for it: they share their seeds.
    rates = [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)]
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed), rates, seeds=3))
    assert claim(table, "C1")[0] == "INCONCLUSIVE"


def test_runs_that_diverged_count_with_what_they_measured():
    """Healthy until it diverges, a run has lost its return: it is left with its lowest."""

    def make(point, seed):
        metrics = run(False, seed=seed)
        if point["pfo_coef"] == 0:
            metrics = {name: np.where(np.arange(L) < 50, values, np.nan) for name, values in metrics.items()}
        return metrics

    dataset = sweep(make, ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}), status=[51] * 8 + [0] * 8)
    table = evaluate_claims(dataset)
    assert note(table, "C1", 0) == "8 runs of plain PPO, 8 of them diverged"
    assert claim(table, "C1") == ("CONTRADICTED", ["CONTRADICTED", "CONTRADICTED", "SUPPORTED"])
    row = table.query("part == 'pfo_coef=1: higher return'").iloc[0]
    np.testing.assert_allclose(row["effect"], 1, atol=0.06)
    # Divergence is no collapse whose aftermath could be seen.
    assert claim(table, "C5")[0] == "NOT TESTED"


@pytest.mark.parametrize("last", [0, 2])
def test_runs_of_an_intervention_that_diverge_early_speak_against_it(last):
    """Before any log point, or with the high rank of the beginning: they must not drop out, nor count as healthy."""

    def make(point, seed):
        metrics = run(True, seed=seed) if point["pfo_coef"] == 0 else run(False, seed=seed)
        if point["pfo_coef"] and seed < 4:
            metrics = {name: np.where(np.arange(L) < last, values, np.nan) for name, values in metrics.items()}
        return metrics

    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0})
    table = evaluate_claims(sweep(make, points, status=[0] * 8 + [last + 1] * 4 + [0] * 4))
    verdict, parts = claim(table, "C6")
    assert "SUPPORTED" not in (verdict, *parts)
    assert rows(table, "C6", "runs") == [0, 8, 8]
    assert note(table, "C6", 0) == "diverged: 4 of 8 runs of pfo_coef=1"


@pytest.mark.parametrize(("claim_name", "axis"), [("C6", {"pfo_coef": 1.0}), ("C2", {"num_epochs": 16})])
def test_runs_at_different_steps_are_not_compared(claim_name, axis):
    """Groups run one after the other: half of the way through a sweep one is ahead of the other."""
    name = next(iter(axis))

    def make(point, seed):
        metrics = run(True, seed=seed)
        if point[name] == axis[name]:
            metrics = {name: np.where(np.arange(L) < 25, values, np.nan) for name, values in metrics.items()}
        return metrics

    base = {"pfo_coef": {"pfo_coef": 0.0}, "num_epochs": {"num_epochs": 4}}[name]
    table = evaluate_claims(sweep(make, (base, axis)))
    assert claim(table, claim_name)[0] == "NOT TESTED"
    assert note(table, claim_name).startswith("runs are at different steps, 25000 to 100000")


def test_a_sweep_that_still_runs_says_how_far_it_is():
    dataset = sweep(lambda point, seed: run(seed=seed))
    for name in ("return_mean", "policy_rank", "policy_variance", "policy_dead_neurons"):
        dataset[name][0, 60:] = np.nan
    assert note(evaluate_claims(dataset), "C1", 0).endswith("they have come to between 60000 and 100000 steps")


@pytest.mark.parametrize(
    "text", [None, "", "{", "[1]", '"x"', "3", "{}", '{"config": [], "hparams": {}}', '{"config": {}}']
)
def test_results_of_an_unknown_sweep_are_refused(text):
    dataset = sweep(lambda point, seed: run(seed=seed), seeds=1)
    dataset.attrs.pop("sweep")
    if text is not None:
        dataset.attrs["sweep"] = text
    with pytest.raises(ConfigError, match="attribute sweep is missing or damaged"):
        evaluate_claims(dataset)


@pytest.mark.parametrize(
    ("field", "value"), [("share_trunk", "no"), ("pfo_coef", "1"), ("pfo_mode", 3), ("pfo_coef", None)]
)
def test_fields_of_the_wrong_kind_are_refused(field, value):
    dataset = sweep(lambda point, seed: run(seed=seed), seeds=1)
    dataset.attrs["sweep"] = json.dumps({"config": {field: value}, "hparams": {}})
    with pytest.raises(ConfigError, match=f"^{field} is {value!r} in these results, but must be like"):
        evaluate_claims(dataset)


def test_results_without_seeds_are_refused():
    with pytest.raises(ConfigError, match="no coordinates seed and env_steps"):
        evaluate_claims(sweep(lambda point, seed: run(), seeds=1).drop_vars("seed"))


def test_a_field_that_an_older_version_did_not_know_has_its_default():
    dataset = sweep(lambda point, seed: run(seed=seed), seeds=1)
    known = json.loads(dataset.attrs["sweep"])
    del known["hparams"]["feature_spectral_coef"]
    dataset.attrs["sweep"] = json.dumps(known)
    assert setups(dataset)[0].interventions == ""


# --- The table


def test_the_text_is_aligned_and_the_csv_holds_the_numbers(tmp_path):
    points = (
        {"num_epochs": 4, "pfo_coef": 0.0},
        {"num_epochs": 32, "pfo_coef": 0.0},
        {"num_epochs": 4, "pfo_coef": 1.0},
    )
    dataset = sweep(lambda point, seed: run(point["pfo_coef"] == 0, point["num_epochs"] == 32, seed), points)
    table = evaluate_claims(dataset)
    pd.testing.assert_frame_equal(evaluate_claims(load(save(dataset, tmp_path / "r.nc"))), table)
    text = format_claims(table)
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "claim verdict what the paper says effect [95 % interval] needs runs"
    assert max(len(line) for line in lines) <= 120
    parts = [line for line in lines if " - " in line[:25]]
    assert len(parts) == 3 + 3 + 2 + 2 + 3 + 2
    assert len({line.index(" > ") for line in parts}) == 1
    assert [line.split()[0] for line in lines if line.startswith("C")] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    found = pd.read_csv(io.StringIO(table.to_csv(index=False)), keep_default_na=False, na_values={"effect": ""})
    assert found["verdict"].tolist() == table["verdict"].tolist()
    np.testing.assert_allclose(found["effect"], table["effect"])
