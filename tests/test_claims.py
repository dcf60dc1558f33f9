"""Claims: each one on made-up sweeps in which it is true, false, undecided, or yet to be seen; and who is compared."""

import dataclasses
import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from purejaxppo import HyperParams, OwnHyperParams, TrainConfig
from purejaxppo.claims.effects import change_at
from purejaxppo.claims.environment import student
from purejaxppo.claims.interventions import DEFAULTS, has_dense_reward, paper_steps, setups
from purejaxppo.claims.table import format_claims
from purejaxppo.claims.verdicts import evaluate_claims
from purejaxppo.envs.names import all_names
from purejaxppo.errors import ConfigError
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.results.dataset import GroupResult, load, save, to_dataset
from purejaxppo.statistics.estimates import exact_interval, probability_of_improvement
from purejaxppo.sweep.plan import Sweep, to_json

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
    simulation = importlib.import_module("verdicts_simulation")
    del sys.modules["verdicts_simulation"]

L = 100
WIDTH = 64
TIME = np.arange(L) / (L - 1)
CONSTANT, FRESH = 0.002, 0.001


def run(is_true=True, is_severe=False, seed=0):
    """Metrics [L] of a run in which the paper is right (things collapse at some time), or in which it is wrong."""
    rng = np.random.default_rng(seed)
    jitter = 1 + 0.02 * rng.normal(size=L)
    begin = (0.4 if is_severe else 0.6) + 0.001 * seed
    gone = np.clip((TIME - begin) / 0.1, 0, 1)  # 0 before the collapse, 1 after it
    metrics = {
        "policy_preactivation_norm": 10 * 2 ** ((4 if is_severe else 2) * TIME) * jitter,
        "policy_rank": np.round((30 * (1 - gone) + (1 if is_severe else 3) * gone) * (1 + 0.1 * rng.random())),
        "return_mean": 100 * np.minimum(1, 5 * TIME) * (1 - gone) * jitter,
        "ratio_below_mean": 0.7 * 0.1**gone * jitter,
        "policy_variance": 0.2 * 0.01**gone * jitter,
        "policy_dead_neurons": np.round(10 + 54 * gone),
        "policy_loss": -0.01 * 0.01**gone * jitter,
    }
    if not is_true:
        metrics |= {
            "policy_preactivation_norm": 10 * 2 ** (-2 * TIME) * jitter,
            "policy_rank": np.round(10 + 30 * TIME + 2 * rng.random()),
            "return_mean": 100 * TIME * jitter,
        }
    return metrics | plasticity(FRESH + (CONSTANT - FRESH) * gone * jitter)


def other_way(metrics, names):
    """Metrics that rise where they fell, and the other way round."""
    return {name: np.nanmax(metrics[name]) + np.nanmin(metrics[name]) - metrics[name] for name in names}


def plasticity(loss):
    """The excesses of a loss [L] at every fourth log point."""
    loss = np.where(np.arange(L) % 4 == 3, loss, np.nan)
    others = {"constant": CONSTANT, "fresh": FRESH}
    return {f"policy_plasticity_excess_over_{name}": loss - other for name, other in others.items()}


def sweep(make, points=({},), seeds=8, config=None, hparams=None, status=None, steps=1000):
    """Results of a sweep: `make(point, seed)` gives the metrics [L] of a run; `steps` from a log point to the next."""
    plan = Sweep(
        name="made-up",
        seeds=tuple(range(seeds)),
        config=TrainConfig(**(config or {})),
        hparams=OwnHyperParams(**(hparams or {})),
        points=tuple(points),
    )
    pairs = [(point, seed) for point in points for seed in plan.seeds]
    runs = [make(point, seed) for point, seed in pairs]
    metrics = {name: np.stack([metrics[name] for metrics in runs]) for name in (runs[0] if runs else run())}
    num_logs = next(iter(metrics.values())).shape[1]
    metrics["policy_singular_values"] = np.ones((len(pairs), num_logs, WIDTH))
    group = GroupResult(
        metrics=metrics,
        env_steps=steps * np.arange(1, num_logs + 1),
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


def part(table, text, **where):
    """The row of a part."""
    found = table[table["part"] == text]
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1
    return found.iloc[0]


# --- The arithmetic


def test_a_change_is_measured_where_it_happens_and_a_trend_is_none():
    at = np.arange(100.0)
    step = 3.0 * (at >= 60)
    assert change_at(step, 60) == 3
    assert change_at(0.05 * at, 60) == pytest.approx(0, abs=1e-12)
    assert change_at(step + 0.05 * at, 60) == pytest.approx(3)
    # What rises at first and no more is no loss to the collapse that comes later.
    assert change_at(np.minimum(at, 20), 70) == 0
    # By hand: 60 to 69 less 40 to 49, less the middle one of the same 20 to 30 log points before and after.
    parabola = at**2
    expected = np.mean(parabola[60:70]) - np.mean(parabola[40:50])
    nearby = [
        np.mean(parabola[i : i + 10]) - np.mean(parabola[i - 20 : i - 10]) for i in (*range(30, 41), *range(80, 91))
    ]
    assert change_at(parabola, 60) == pytest.approx(expected - np.median(nearby))


def test_a_change_is_measured_with_gaps_at_the_ends_and_not_without_anything():
    step = np.where(np.arange(100) % 4 == 3, 3.0 * (np.arange(100) >= 60), np.nan)
    assert change_at(step, 60) == 3
    late = 3.0 * (np.arange(100) >= 97)
    assert change_at(late, 97) == 3
    early = 3.0 * (np.arange(100) >= 12)
    assert change_at(early, 12) == 3
    assert np.isnan(change_at(early, 5))  # nothing before it
    assert np.isnan(change_at(step * np.nan, 60))


def test_student_is_student():
    x = np.random.default_rng(0).normal(0.8, size=9)
    mean, low, high, p = student(x, 0.0)
    test = stats.ttest_1samp(x, 0.0)
    np.testing.assert_allclose([mean, low, high, p], [x.mean(), *test.confidence_interval(0.95), test.pvalue])
    greater = stats.ttest_1samp(x, 0.3, alternative="greater").pvalue
    assert student(x, 0.3)[3] == pytest.approx(2 * greater)
    assert student(-x, 0.3)[3] == pytest.approx(2 * greater)
    assert student(x, 5.0)[3] == 1
    assert student(np.full(4, 2.0), 1.0)[:3] == pytest.approx((2, 2, 2))
    assert np.isnan(student(x[:1], 0.0)[1:]).all()


# --- Each claim

# Whether the paper is right in a run of this seed.
WORLDS = {
    "SUPPORTED": lambda seed: True,
    "CONTRADICTED": lambda seed: False,
    "INCONCLUSIVE": lambda seed: seed % 2 == 0,
}


@pytest.mark.parametrize("verdict", WORLDS)
def test_representation_and_return_are_lost(verdict):
    """False: the norm shrinks, rank and return go on to grow. That may yet come, and contradicts nothing."""
    table = evaluate_claims(sweep(lambda point, seed: run(WORLDS[verdict](seed), seed=seed)))
    if verdict == "CONTRADICTED":
        assert claim(table, "C1") == ("NOT OBSERVED", ["NOT OBSERVED"] * 3)
        assert rows(table, "C1", "count")[1:] == [0, 0, 0]
    else:
        # In the mixed world the return of all four runs whose rank collapsed has collapsed, but four are few.
        assert claim(table, "C1") == (verdict, [verdict] * 3)
        found = table.iloc[1]
        assert (found["count"], found["runs"], found["seeds"]) == ((8, 8, 8) if verdict == "SUPPORTED" else (4, 8, 8))
        assert (found["low"], found["high"]) == exact_interval(found["count"], 8)


@pytest.mark.parametrize("verdict", WORLDS)
@pytest.mark.parametrize(
    ("name", "metrics", "at"),
    [
        ("C3", ("policy_plasticity_excess_over_constant", "policy_plasticity_excess_over_fresh"), 0),
        ("C3", ("policy_dead_neurons",), 1),
        ("C4", ("ratio_below_mean",), 0),
    ],
)
def test_plasticity_is_lost_and_clipping_stops_protecting(name, metrics, at, verdict):
    """False: when the rank falls, networks fit better than before, units come alive, the ratios rise."""

    def make(point, seed):
        told = run(seed=seed)
        return told if WORLDS[verdict](seed) else told | other_way(told, metrics)

    found, parts = claim(evaluate_claims(sweep(make)), name)
    assert parts[at] == verdict
    assert found == verdict


@pytest.mark.parametrize("verdict", WORLDS)
def test_a_collapsed_policy(verdict):
    """False: where the return collapses, there is more of everything."""

    def make(point, seed):
        metrics = run(seed=seed)
        names = ("policy_variance", "policy_dead_neurons", "policy_loss")
        return metrics if WORLDS[verdict](seed) else metrics | other_way(metrics, names)

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


def test_one_collapse_among_sixteen_is_no_doubt_but_rare():
    table = evaluate_claims(sweep(lambda point, seed: run(seed == 3, seed=seed), seeds=16))
    assert part(table, "the rank collapses")["verdict"] == "NOT OBSERVED"
    assert part(table, "the rank collapses")["high"] < 0.5


def test_what_is_contradicted_in_full_length_is_not_hidden_by_what_is_not_observed():
    def make(point, seed):
        metrics = run(False, seed=seed)
        norm = 10 * (1 + (point["num_epochs"] == 4)) * (1 + 0.01 * seed)
        return metrics | {"policy_preactivation_norm": np.full(L, norm)}

    table = evaluate_claims(sweep(make, ({"num_epochs": 4}, {"num_epochs": 32}), steps=50_000))
    assert claim(table, "C2") == ("CONTRADICTED", ["CONTRADICTED", "NOT OBSERVED", "NOT OBSERVED"])


@pytest.mark.parametrize(("steps", "verdict"), [(700, "NOT OBSERVED"), (800, "CONTRADICTED")])
def test_in_a_hundredth_of_the_papers_length_nothing_contradicts(steps, verdict):
    """All ranks have collapsed, and the norm is larger with fewer epochs."""

    def make(point, seed):
        norm = 10 * (1 + (point["num_epochs"] == 4)) * (1 + 0.01 * seed)
        return run(seed=seed) | {"policy_preactivation_norm": np.full(L, norm)}

    table = evaluate_claims(sweep(make, ({"num_epochs": 4}, {"num_epochs": 32}), steps=steps))
    assert part(table, "larger norm of pre-activations")["verdict"] == verdict


def test_a_collapse_that_few_epochs_do_not_have_is_a_collapse():
    points = ({"num_epochs": 32}, {"num_epochs": 4})
    table = evaluate_claims(sweep(lambda point, seed: run(point["num_epochs"] == 32, False, seed), points))
    assert claim(table, "C2") == ("SUPPORTED", ["SUPPORTED"] * 3)


HELPS = ({"pfo_coef": 1.0}, {"share_trunk": True}, {"reset_optimizer": True}, {"adam_beta2": 0.9})
PLAIN = {"adam_beta2": 0.999, "pfo_coef": 0.0, "share_trunk": False, "reset_optimizer": False}


@pytest.mark.parametrize("verdict", [*WORLDS, "NOT OBSERVED"])
@pytest.mark.parametrize("point", HELPS)
def test_interventions_help(point, verdict):
    """False: plain PPO is sound to the end, and the intervention collapses. Not yet: so far it is sound."""
    plain = {field: PLAIN[field] for field in point}
    is_true = WORLDS.get(verdict, WORLDS["CONTRADICTED"])
    steps = 1000 if verdict == "NOT OBSERVED" else 50_000
    dataset = sweep(lambda here, seed: run((here != point) == is_true(seed), False, seed), (plain, point), steps=steps)
    table = evaluate_claims(dataset)
    assert claim(table, "C6") == (verdict, [verdict] * 2)
    assert all(next(iter(point)) in name for name in rows(table, "C6", "intervention"))
    if verdict == "NOT OBSERVED":
        assert note(table, "C6") == (
            "the rank collapsed in 0 of 8 runs by 100,000 steps, 2 % of the paper's length [0 %, 37 %]"
        )


def test_every_intervention_has_a_verdict_of_its_own():
    """One that helps is not contradicted by one that does harm."""
    points = [PLAIN, *(PLAIN | point for point in HELPS)]

    def make(point, seed):
        is_bad = point["reset_optimizer"] or point["adam_beta2"] == 0.9
        return run(is_true=is_bad or point == PLAIN, is_severe=is_bad, seed=seed)

    table = evaluate_claims(sweep(make, points, seeds=16))
    heads = table[(table["claim"] == "C6") & (table["part"] == "")].set_index("intervention")["verdict"]
    assert heads["pfo_coef=1"] == heads["share_trunk=True"] == "SUPPORTED"
    assert heads["reset_optimizer=True"] == heads["adam_beta2=0.9"] == "CONTRADICTED"


def test_effects_are_in_the_units_they_name():
    at = np.arange(L)
    units = {
        "policy_rank": np.where(at < 60, 16.0, 2.0),
        "policy_dead_neurons": np.where(at < 60, 32.0, 60.0),
        "ratio_below_mean": np.where(at < 60, 0.8, 0.1),
    }
    loss = {"return_mean": np.where(at < 60, 100.0, 0.0) * (at > 3), "policy_variance": np.where(at < 60, 0.4, 0.025)}
    fitted = plasticity(np.where(at < 60, 0.0012, 0.0017))
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | units | loss | fitted))
    for text, effect, unit in (
        ("the policy fits new targets worse", 0.5, "of a fresh fit"),  # 80 to 30 % of the way from constant to fresh
        ("and its units die", 3, "halvings"),  # 32 to 4 live ones
        ("the mean ratio below 1 - eps falls", 3, "halvings"),
        ("the policy variance goes to 0", 4, "halvings"),
    ):
        found = part(table, text)
        np.testing.assert_allclose(found[["effect", "low", "high"]].tolist(), [effect] * 3, rtol=1e-6, err_msg=text)
        assert found["unit"] == unit
    assert part(table, "the policy variance goes to 0")["threshold"] == pytest.approx(np.log2(10))


def test_a_size_must_be_reached():
    """A ratio that surely falls, but by less than a half, is neither what the paper says nor nothing."""

    def make(point, seed):
        metrics = run(seed=seed)
        return metrics | {"ratio_below_mean": metrics["ratio_below_mean"] ** 0.25}

    assert claim(evaluate_claims(sweep(make)), "C4") == ("INCONCLUSIVE", ["INCONCLUSIVE"])


def test_half_of_the_ability_to_fit_and_a_norm_of_twice_the_size():
    """90 to 20 % of a fresh network's fit is more than half; 1.5 times the norm is not twice."""

    def make(point, seed):
        metrics = run(seed=seed)
        lost = plasticity(np.where(metrics["policy_rank"] > 8, 0.0011, 0.0018))
        return metrics | lost | {"policy_preactivation_norm": np.linspace(10, 15, L)}

    table = evaluate_claims(sweep(make))
    assert part(table, "the policy fits new targets worse")["verdict"] == "SUPPORTED"
    assert part(table, "the policy fits new targets worse")["effect"] == pytest.approx(0.7)
    assert part(table, "the norm of pre-activations doubles")["count"] == 0


def test_a_return_that_collapses_without_the_rank_is_not_asked():
    rank = {"policy_rank": np.full(L, 30.0)}
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | (rank if seed > 5 else {})))
    found = part(table, "the return collapses with it")
    assert (found["count"], found["runs"]) == (6, 6)


def test_one_contradicted_part_contradicts_the_claim():
    """Units come alive, while the network fits worse."""

    def make(point, seed):
        metrics = run(seed=seed)
        return metrics | {"policy_dead_neurons": 74 - metrics["policy_dead_neurons"]}

    assert claim(evaluate_claims(sweep(make)), "C3") == ("CONTRADICTED", ["SUPPORTED", "CONTRADICTED"])


def test_runs_that_never_learned_have_no_return_to_lose():
    noise = {"return_mean": np.random.default_rng(0).normal(size=L)}
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed) | (noise if seed > 4 else {})))
    assert table["runs"].iloc[1:4].tolist() == [8, 8, 5]


# --- What is no evidence


@pytest.mark.parametrize("rises", [False, True])
def test_not_yet_is_not_contradicted(rises):
    """Runs that do what the paper says, seen for 60 % of the time, the rank growing all the while."""

    def make(point, seed):
        metrics = run(seed=seed)
        metrics["policy_rank"] = metrics["policy_rank"] * (0.3 + rises * TIME)
        return {name: values[:58] for name, values in metrics.items()}

    table = evaluate_claims(sweep(make, ({"num_epochs": 4}, {"num_epochs": 32}), steps=50_000))
    assert claim(table, "C1") == ("NOT OBSERVED", ["SUPPORTED", "NOT OBSERVED", "NOT OBSERVED"])
    for name in ("C2", "C3", "C4", "C5"):
        assert claim(table, name)[0] == "NOT OBSERVED"
    told = "16 runs by 2,900,000 steps, 58 % of the paper's length [0 %, 37 %]"
    assert note(table, "C1", 2) == f"0 of {told}"
    assert note(table, "C4") == f"the rank collapsed in 0 of {told}"
    assert note(table, "C5") == f"the return collapsed in 0 of {told}"
    assert set(table["length"]) == {0.58}


def test_a_collapse_in_three_seeds_is_not_observed_yet():
    """Three are too few to tell what comes with it."""
    table = evaluate_claims(sweep(lambda point, seed: run(seed < 3, seed=seed)))
    assert claim(table, "C4") == ("NOT OBSERVED", ["NOT OBSERVED"])
    assert note(table, "C4").startswith("the rank collapsed in 3 of 8 runs by 100,000 steps")


def test_trends_are_no_evidence():
    """The rank falls in a moment; all else is lost all the time, in every run, but not then."""

    def make(point, seed):
        metrics, lost = run(seed=seed), TIME * (1 + 0.1 * seed / 8)
        metrics |= {
            "policy_dead_neurons": np.round(60 - 50 * 0.2**lost),
            "ratio_below_mean": 0.7 * 0.1**lost,
            "policy_variance": 0.2 * 0.01**lost,
            "policy_loss": -0.01 * 0.01**lost,
        }
        return metrics | plasticity(FRESH + 0.9 * (CONSTANT - FRESH) * lost)

    table = evaluate_claims(sweep(make))
    assert claim(table, "C1")[0] == "SUPPORTED"
    for name in ("C3", "C4", "C5"):
        assert not {"SUPPORTED", "CONTRADICTED"} & set(rows(table, name, "verdict")), name
    assert part(table, "the mean ratio below 1 - eps falls")["verdict"] == "NO DIFFERENCE"


def test_a_confident_policy_is_no_loss_of_plasticity():
    """So far from the targets that the loss falls when it dies; it fitted no better than a constant before."""

    def make(point, seed):
        metrics = run(seed=seed)
        return metrics | plasticity(np.where(metrics["policy_rank"] > 8, 100.0 + seed, 0.04))

    found = part(evaluate_claims(sweep(make)), "the policy fits new targets worse")
    assert found["effect"] == 0
    assert found["verdict"] == "NO DIFFERENCE"


def test_without_a_fresh_network_that_fits_nothing_can_be_lost():
    def make(point, seed):
        metrics = run(seed=seed)
        over_constant = metrics["policy_plasticity_excess_over_constant"]
        return metrics | {"policy_plasticity_excess_over_fresh": over_constant - 0.001}

    assert claim(evaluate_claims(sweep(make)), "C3") == ("INCONCLUSIVE", ["NOT TESTED", "SUPPORTED"])


def test_a_collapsed_policy_without_ratios_outside_has_none_outside():
    """Where it has collapsed, no sample is below 1 - eps: that must not drop out and leave the one that is."""

    def make(point, seed):
        metrics = run(seed=seed)
        has_collapsed = metrics["policy_rank"] <= 8
        metrics["ratio_below_mean"] = np.where(has_collapsed, np.nan, 0.7)
        metrics["ratio_below_mean"][np.flatnonzero(has_collapsed)[4]] = 0.01
        return metrics

    for how in ({"hparams": {"clip_eps": 0.3}}, {"points": ({"clip_eps": 0.3},)}):
        found = part(evaluate_claims(sweep(make, **how)), "the mean ratio below 1 - eps falls")
        assert found["verdict"] == "INCONCLUSIVE"
        assert found["effect"] == pytest.approx(np.log2(70) / 10, rel=0.2)


def test_a_difference_within_the_margin_is_none():
    """Sure to be above 0, and too small to matter; with a larger one the same spread is SUPPORTED."""
    for gain, verdict in ((0.1, "NO DIFFERENCE"), (0.5, "SUPPORTED")):
        points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0})

        def make(point, seed, gain=gain):
            rank = 20 * 2 ** ((gain + 0.005 * seed) * (point["pfo_coef"] > 0))
            return run(False, seed=seed) | {"policy_rank": np.full(L, rank), "return_mean": 100 * TIME}

        table = evaluate_claims(sweep(make, points))
        assert part(table, "higher rank")["verdict"] == verdict
        assert part(table, "higher return")["verdict"] == "NO DIFFERENCE"


def test_verdicts_share_their_level():
    """The same effect beside nine others that are none: what one could say alone is not said in a crowd."""
    rng = np.random.default_rng(5)
    gain = 0.5 + 0.4 * rng.normal(size=8)
    others = rng.normal(size=(9, 8))

    def make(point, seed):
        at = COEFS.index(point["pfo_coef"])
        more = 0.0 if at == 0 else gain[seed] if at == 1 else others[at - 2][seed]
        return run(False, seed=seed) | {"policy_rank": np.full(L, 2 ** (5 + more))}

    COEFS = [0.0, *range(1, 11)]
    found = [
        part(
            evaluate_claims(sweep(make, [{"pfo_coef": float(c)} for c in coefs])),
            "higher rank",
            intervention="pfo_coef=1",
        )
        for coefs in (COEFS[:2], COEFS)
    ]
    assert [row["verdict"] for row in found] == ["SUPPORTED", "INCONCLUSIVE"]
    assert found[0]["effect"] == found[1]["effect"]
    assert found[1]["p"] > found[0]["p"]


def test_one_bad_run_does_not_stretch_the_range():
    """All gain 100, or 150 with the intervention; one of them, as bad as one likes, is a failure like any other."""
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0})

    def effect(depth):
        def make(point, seed):
            is_lost = point["pfo_coef"] == 0 and seed == 3
            gain = 100 if point["pfo_coef"] == 0 else 150
            return run(False, seed=seed) | {"return_mean": -depth * TIME if is_lost else gain * TIME}

        return part(evaluate_claims(sweep(make, points)), "higher return")[["effect", "low", "high"]].tolist()

    np.testing.assert_allclose(effect(1e3), effect(1e9))
    assert effect(1e9)[0] == pytest.approx((7 * 1 / 3 + 1) / 8, abs=0.02)


def test_the_range_spans_both_sides():
    """Without the intervention from 0 to 50, with it from 50 to 100: half of the range apart."""
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0})

    def make(point, seed):
        return run(False, seed=seed) | {"return_mean": 50 * (point["pfo_coef"] + np.repeat([0.0, 1.0], L // 2))}

    np.testing.assert_allclose(part(evaluate_claims(sweep(make, points)), "higher return")["effect"], 0.5)


@pytest.mark.parametrize(("env", "is_asked"), [("gymnax/CartPole-v1", True), ("gymnax/Acrobot-v1", False)])
def test_a_shared_trunk_is_to_help_the_return_where_reward_is_dense(env, is_asked):
    points = ({"share_trunk": False}, {"share_trunk": True})
    table = evaluate_claims(
        sweep(lambda point, seed: run(not point["share_trunk"], seed=seed), points, config={"env": env})
    )
    assert claim(table, "C6") == ("SUPPORTED", ["SUPPORTED"] * (1 + is_asked))
    assert ("reward is not known to be dense" in note(table, "C6", 0)) == (not is_asked)


def test_environments_with_dense_reward_exist_and_have_a_length():
    known = [name for name in all_names() if has_dense_reward(name)]
    assert len([name for name in known if name.startswith("gymnax/")]) == 8
    assert "brax/hopper" in known
    assert paper_steps("gymnax/Breakout-MinAtar") == paper_steps("jaxtari/phoenix") == 25_000_000
    assert paper_steps("brax/hopper") == paper_steps("gymnax/Acrobot-v1") == 5_000_000


# --- Several environments


ENVS = ("gymnax/CartPole-v1", "gymnax/Acrobot-v1")


def in_two_environments(point, seed):
    """PFO helps CartPole; on Acrobot, where returns are a thousand times larger, nothing happens with or without it."""
    is_cartpole = "CartPole" in point["env"]
    metrics = run(is_cartpole and point["pfo_coef"] == 0, seed=seed)
    return metrics if is_cartpole else metrics | {"return_mean": 1000 * metrics["return_mean"]}


def test_environments_are_never_averaged():
    points = [{"env": env, "pfo_coef": coef} for env in ENVS for coef in (0.0, 1.0)]
    both = evaluate_claims(sweep(in_two_environments, points))
    for env in ENVS:
        alone = evaluate_claims(sweep(in_two_environments, [point for point in points if point["env"] == env]))
        columns = ["env", "claim", "part", "effect", "low", "high", "runs", "seeds", "length"]
        pd.testing.assert_frame_equal(both.loc[both["env"] == env, columns].reset_index(drop=True), alone[columns])
    assert both.groupby("env", sort=False)["verdict"].first().tolist() == ["SUPPORTED", "NOT OBSERVED", ""]


def test_a_stratified_summary_stands_below_several_environments():
    points = [{"env": env, "pfo_coef": coef} for env in ENVS for coef in (0.0, 1.0)]
    dataset = sweep(in_two_environments, points)
    table = evaluate_claims(dataset)
    found = table[table["env"] == "all environments"]
    assert found["note"].iloc[0] == "SUPPORTED in 1, NOT OBSERVED in 1 of 2 environments"
    better = part(found, "higher rank")
    assert better["effect"] == pytest.approx((1 + 0.5) / 2, abs=0.15)
    ends = dataset["policy_rank"].values[:, -5:].mean(axis=1).reshape(2, 2, 8)
    labels = np.repeat(ENVS, 8)
    expected = probability_of_improvement(ends[:, 1].ravel(), ends[:, 0].ravel(), (labels, labels))
    assert (better["effect"], better["low"], better["high"]) == (expected.value, expected.low, expected.high)
    assert set(found["verdict"]) == {""}
    assert (better["runs"], better["seeds"]) == (16, 8)
    assert "all environments" in format_claims(table)


def test_settings_of_an_environment_share_their_seeds_and_are_one_sample_each():
    points = [{"env": env, "learning_rate": r, "pfo_coef": x} for env in ENVS for r in (0.1, 0.2) for x in (0.0, 1.0)]
    table = evaluate_claims(sweep(in_two_environments, points))
    better = part(table[table["env"] == "all environments"], "higher rank")
    assert (better["runs"], better["seeds"]) == (16, 8)


# --- Who is compared with whom


def test_comparisons_are_paired_over_seeds():
    """Seeds differ a hundredfold, the intervention raises the rank of each by a third of a doubling or so."""
    luck = 2 ** np.random.default_rng(1).uniform(0, 7, size=8)
    gain = 0.3 + 0.01 * np.arange(8)

    def make(point, seed):
        rank = luck[seed] * 2 ** (gain[seed] * (point["pfo_coef"] > 0))
        return run(seed=seed) | {"policy_rank": np.full(L, rank)}

    dataset = sweep(make, ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}))
    row = part(evaluate_claims(dataset), "higher rank")
    assert row["verdict"] == "SUPPORTED"
    interval = stats.ttest_1samp(gain, 0).confidence_interval()
    np.testing.assert_allclose(row[["effect", "low", "high"]].tolist(), [gain.mean(), *interval])
    dataset["seed"][:8] = np.roll(np.arange(8), 3)
    assert part(evaluate_claims(dataset), "higher rank")["verdict"] == "INCONCLUSIVE"


def test_only_equal_settings_are_compared():
    """The intervention changes nothing, but was tried at the worse of two learning rates alone."""
    points = (
        {"learning_rate": 0.1, "pfo_coef": 0.0},
        {"learning_rate": 1.0, "pfo_coef": 0.0},
        {"learning_rate": 1.0, "pfo_coef": 1.0},
    )
    table = evaluate_claims(sweep(lambda point, seed: run(point["learning_rate"] == 1, seed=seed), points))
    assert claim(table, "C6") == ("NO DIFFERENCE", ["NO DIFFERENCE"] * 2)
    assert rows(table, "C6", "runs") == [0, 8, 8]
    assert rows(table, "C6", "effect")[1:] == [0, 0]


def test_settings_count_the_same_and_are_no_further_seeds():
    """Two settings, one with returns a thousand times larger: the effect is in shares of each one's range."""
    points = [{"learning_rate": rate, "pfo_coef": coef} for rate in (0.1, 0.2) for coef in (0.0, 1.0)]

    def make(point, seed):
        metrics = run(point["pfo_coef"] == 0, seed=seed)
        scale = 1000 if point["learning_rate"] == 0.2 else 1
        return metrics | {"return_mean": scale * metrics["return_mean"]}

    both, one = (evaluate_claims(sweep(make, some)) for some in (points, points[:2]))
    found = [part(table, "higher return") for table in (both, one)]
    assert [row["runs"] for row in found] == [16, 8]
    np.testing.assert_allclose(*(row[["effect", "low", "high"]].tolist() for row in found))
    for text in ("the rank collapses", "the return collapses with it"):
        found = [part(table, text) for table in (both, one)]
        assert [(row["count"], row["runs"], row["seeds"]) for row in found] == [(16, 16, 8), (8, 8, 8)]
        assert found[0][["low", "high"]].tolist() == found[1][["low", "high"]].tolist()


def test_a_share_is_as_sure_as_its_seeds():
    """With one learning rate every rank collapses, with the other none: a half, as if four of eight seeds had."""
    rates = [{"learning_rate": rate} for rate in (0.1, 0.2)]
    table = evaluate_claims(sweep(lambda point, seed: run(point["learning_rate"] == 0.1, seed=seed), rates))
    found = part(table, "the rank collapses")
    assert (found["count"], found["runs"], found["effect"]) == (8, 16, 0.5)
    assert (found["low"], found["high"]) == exact_interval(4, 8)
    # Seven of sixteen: 3.5 of eight seeds, of which the ends are those of three and of four.
    table = evaluate_claims(
        sweep(lambda point, seed: run(point["learning_rate"] == 0.1 and seed > 0, seed=seed), rates)
    )
    found = part(table, "the rank collapses")
    assert (found["low"], found["high"]) == (exact_interval(3, 8)[0], exact_interval(4, 8)[1])


def test_copies_of_plain_ppo_are_no_further_evidence():
    """pfo_layers means nothing without PFO: two points of plain PPO are one setting."""
    points = [{"pfo_layers": layers, "pfo_coef": coef} for layers in ("last", "all") for coef in (0.0, 1.0)]
    dataset = sweep(lambda point, seed: run(point["pfo_coef"] == 0, seed=seed), points)
    table = evaluate_claims(dataset)
    assert (table["runs"].iloc[1], table["seeds"].iloc[1]) == (16, 8)
    assert note(table, "C1", 0) == "16 runs of plain PPO, 0 of them diverged"
    assert set(rows(table, "C6", "intervention")) == {"pfo_coef=1", "pfo_coef=1, pfo_layers=all"}
    assert set(rows(table, "C6", "runs")) == {0, 8}


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


def test_with_an_intervention_of_ones_own_a_run_is_no_plain_ppo():
    """A penalty is on where its coefficient is not 0, an operation after a step wherever it is named."""
    penalty, operation = {"interventions": ("lab.tricks:mine",)}, {"interventions": ("lab.tricks:shrink",)}
    points = tuple({"mine_coef": coef, "pfo_coef": pfo} for coef in (0.0, 2.0) for pfo in (0.0, 1.0))
    expected = [("", False), ("pfo_coef=1", True), ("mine_coef=2", False), ("pfo_coef=1, mine_coef=2", False)]
    assert described(penalty, {"strengths": {"margin": 1.0}}, points) == expected
    found = setups(sweep(lambda point, seed: run(), points, 1, penalty, {"strengths": {"margin": 1.0}}))
    assert [setup.setting for setup in found] == [()] * 4
    assert described(operation, {"strengths": {"shrinkage": 0.1}}) == [("shrink", False)]
    axis = ({"interventions": ""}, {"interventions": "lab.tricks:shrink-lab.tricks:mine"})
    strengths = {"strengths": {"shrinkage": 0.1, "mine_coef": 3.0}}
    assert described({}, strengths, axis) == [("", False), ("shrink, mine_coef=3", False)]


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
    row = part(table, "higher rank", intervention="adam_beta2=0.9")
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


@pytest.mark.parametrize("intervention", INTERVENTIONS, ids=lambda x: x.fields[0])
def test_an_intervention_is_on_where_the_table_says_so_and_is_the_only_one(intervention):
    """Plain PPO has none; what a row says switches it on is a field of it, and switches on no other."""
    assert not intervention.is_on(DEFAULTS)
    assert intervention.on.keys() <= set(intervention.fields)
    on = [other.name for other in INTERVENTIONS if other.is_on(DEFAULTS | dict(intervention.on))]
    assert on == [intervention.name]


def test_what_the_paper_does_not_name_has_no_part_in_its_claim():
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0}, {"pfo_coef": 100.0})
    table = evaluate_claims(sweep(lambda point, seed: run(point["pfo_coef"] != 1, seed=seed), points))
    assert claim(table, "C6") == ("SUPPORTED", ["SUPPORTED"] * 2)
    assert claim(table, "more") == ("NO DIFFERENCE", ["NO DIFFERENCE"] * 2)
    assert set(rows(table, "more", "intervention")) == {"pfo_coef=100"}
    assert "more   NO DIFFERENCE  pfo_coef=100" in format_claims(table)


# --- What cannot be tested, and says why


def test_what_a_sweep_lacks():
    plain = sweep(lambda point, seed: run(seed=seed))
    table = evaluate_claims(plain)
    assert claim(table, "C2") == ("NOT TESTED", ["NOT TESTED"] * 3)
    assert "no axis num_epochs" in note(table, "C2")
    assert claim(table, "C6") == ("NOT TESTED", [])
    assert "no such intervention" in note(table, "C6", 0)
    name = "policy_plasticity_excess_over_fresh"  # results of older versions do not have it
    plain[name] = plain[name] * np.nan
    for dataset in (plain, plain.drop_vars(name)):
        table = evaluate_claims(dataset)
        assert claim(table, "C3") == ("INCONCLUSIVE", ["NOT TESTED", "SUPPORTED"])
        assert note(table, "C3") == f"{name} has no values in these results"


def test_without_plain_ppo_nothing_is_tested():
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed), hparams={"pfo_coef": 1.0}))
    assert set(table["verdict"]) == {"NOT TESTED"}
    assert set(table["note"].iloc[1:4]) == {"no run of plain PPO in this sweep"}


def test_without_diagnostics_runs_or_log_points():
    dataset = sweep(lambda point, seed: run(seed=seed), ({"num_epochs": 4}, {"num_epochs": 32}))
    bare = evaluate_claims(dataset[["return_mean", "status"]])
    assert claim(bare, "C1") == ("NOT TESTED", ["NOT TESTED"] * 3)
    odd = dataset.assign(policy_rank=dataset["policy_rank"].isel(log=0))
    assert "policy_rank has no values" in note(evaluate_claims(odd), "C1", 2)
    for empty in (dataset.isel(run=slice(0, 0)), dataset.isel(log=slice(0, 0)), dataset.isel(log=slice(0, 1))):
        assert "SUPPORTED" not in set(evaluate_claims(empty)["verdict"])
        format_claims(evaluate_claims(empty))


def test_four_seeds_are_too_few():
    points = ({"pfo_coef": 0.0}, {"pfo_coef": 1.0})
    table = evaluate_claims(sweep(lambda point, seed: run(point["pfo_coef"] == 0, seed=seed), points, seeds=4))
    assert set(table["verdict"]) == {"INCONCLUSIVE", "NOT TESTED"}
    assert note(table, "C6") == "only 4 of the 5 seeds that it needs"
    assert note(table, "C1") == "4 of 4 runs by 100,000 steps, 2 % of the paper's length [40 %, 100 %]"
    # Many settings do not make up for it: they share their seeds.
    rates = [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)]
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed), rates, seeds=4))
    assert {claim(table, name)[0] for name in ("C1", "C3", "C4", "C5")} == {"INCONCLUSIVE"}


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
    assert claim(table, "C1") == ("NOT OBSERVED", ["NOT OBSERVED", "SUPPORTED", "SUPPORTED"])
    np.testing.assert_allclose(part(table, "higher return")["effect"], 1, atol=0.06)
    # Divergence is no collapse whose aftermath could be seen.
    assert {claim(table, name)[0] for name in ("C3", "C4", "C5")} == {"NOT TESTED"}


@pytest.mark.parametrize("end", [11, 55])
def test_runs_that_diverge_collapse_no_later_for_it(end):
    """Of 32 epochs all runs diverge, before their rank collapses or after it: sooner than those of 4 collapse."""

    def make(point, seed):
        metrics = run(True, is_severe=point["num_epochs"] == 32, seed=seed)
        if point["num_epochs"] == 32:
            metrics = {name: np.where(np.arange(L) < end, values, np.nan) for name, values in metrics.items()}
        return metrics

    points = ({"num_epochs": 4}, {"num_epochs": 32})
    table = evaluate_claims(sweep(make, points, status=[0] * 8 + [end + 1] * 8))
    sooner = part(table, "earlier collapse")
    assert sooner["verdict"] == "SUPPORTED"
    assert sooner["effect"] > 0.1
    assert part(table, "larger norm of pre-activations")["effect"] > 0  # what diverged has the largest


def test_runs_that_diverge_before_their_first_log_point_are_asked_too():
    """Else the share would be of those that live."""

    def make(point, seed):
        healthy = run(False, seed=seed)
        return {name: np.full(L, np.nan) for name in healthy} if seed < 6 else healthy

    table = evaluate_claims(sweep(make, status=[1] * 6 + [0] * 2))
    lost = part(table, "the rank collapses")
    assert (lost["count"], lost["runs"]) == (6, 8)


def test_seeds_that_agree_are_as_many_equal_signs():
    assert student(np.full(5, 0.3), 0.0)[3] == 2.0**-4
    assert student(np.full(5, 0.3), 0.5)[3] == 1.0


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
    assert note(table, "C6", 0) == "4 of 8 runs diverged"


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
    lines = format_claims(table).splitlines()
    assert lines[0] == "gymnax/CartPole-v1: 100,000 steps, 2 % of the paper's length"
    assert lines[2].split("  ")[0] == "claim"
    assert lines[2].endswith("needs   seeds  length")
    assert max(len(line) for line in lines) <= 120
    parts = [line for line in lines if " - " in line[:25]]
    assert len(parts) == 3 + 3 + 2 + 1 + 3 + 2
    assert len({line.index(" > ") for line in parts}) == 1
    assert all(line.endswith("8      2 %") for line in parts)
    assert [line.split()[0] for line in lines if line.startswith("C")] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    found = pd.read_csv(io.StringIO(table.to_csv(index=False)), keep_default_na=False, na_values={"effect": ""})
    assert found["verdict"].tolist() == table["verdict"].tolist()
    np.testing.assert_allclose(found["effect"], table["effect"])


@pytest.mark.parametrize("kind", ["markdown", "latex"])
def test_the_table_as_markdown_and_latex(kind):
    table = evaluate_claims(sweep(lambda point, seed: run(seed=seed)))
    text = format_claims(table, kind)
    row = {
        "markdown": "| - the rank collapses | 8 of 8 [63 %, 100 %] runs | > 0.5 | 8 | 2 % |",
        "latex": "- the rank collapses & 8 of 8 [63 \\%, 100 \\%] runs & \\textgreater{} 0.5 & 8 & 2 \\% \\\\",
    }[kind]
    assert row in text
    assert "policy_plasticity" not in text


# --- Simulated sweeps, of which the truth is known


def test_simulated_verdicts_are_as_true_as_they_say():
    """Few sweeps here; experiments/benchmarks/results/verdicts_simulation.json has many."""
    for name, num_seeds, num_sweeps in (
        ("nothing happens", 8, 10),
        ("one run in eight fails", 8, 10),
        ("collapse by chance, and unrelated trends", 8, 10),
        ("unrelated trends, rank falling", 8, 10),
        ("the paper's story", 16, 5),
        ("a rank that rises before it falls", 16, 5),
        ("a rank that rises, cut at 60 %", 16, 3),
        ("all at once, after 80 %", 16, 5),
        ("the opposite: plasticity and clipping come back", 16, 3),
    ):
        found = {name: [simulation.rates(simulation.WORLDS[name], num_seeds, num_sweeps)]}
        assert simulation.failures(found) == []


def test_the_simulation_sees_what_is_wrong(monkeypatch):
    """A level of a half finds something where nothing is; and a story that is not told is missed."""
    monkeypatch.setattr("purejaxppo.claims.verdicts.LEVEL", 0.9)
    row = simulation.rates(simulation.WORLDS["nothing happens"], 8, 4)
    assert row["false"] > 0.05
    silent = row | {"false": 0.0, "seeds": 16}
    assert simulation.failures({"nothing happens": [row]})[0].startswith("nothing happens, 8 seeds: false verdicts in ")
    assert "the paper's story, 16 seeds: C1 is SUPPORTED in 0% of sweeps" in simulation.failures(
        {"the paper's story": [silent]}
    )


def test_the_committed_simulation_is_as_it_should_be():
    path = Path(simulation.__file__).parent / "results" / "verdicts_simulation.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found.keys() == simulation.WORLDS.keys()
    assert [row["seeds"] for rows in found.values() for row in rows] == [4, 8, 16] * len(found)
    assert min(row["sweeps"] for name, rows in found.items() for row in rows if simulation.WORLDS[name].untrue) >= 200
    assert simulation.failures(found) == []
