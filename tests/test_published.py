"""What is published: pages say what their files say, and the files what the runs did."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import purejaxppo as pjp
from purejaxppo.interventions import INTERVENTIONS

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import publish  # noqa: E402
import tables  # noqa: E402

RESULTS = EXPERIMENTS / "results"
KEPT = sorted(path.parent.name for path in RESULTS.glob("*/drawn.nc"))
FACTORIALS = sorted(path.parent.name for path in RESULTS.glob("*/factorial.csv"))
STUDY = "stress_acrobot"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with the table of one study, in a tree that has what the table is made of."""
    for folder in (f"results/{STUDY}", "configs"):
        (tmp_path / folder).mkdir(parents=True)
    for path in (RESULTS / STUDY).glob("*.csv"):
        shutil.copy(path, tmp_path / "results" / STUDY)
    shutil.copy(EXPERIMENTS / "configs" / f"{STUDY}.toml", tmp_path / "configs")
    path = tmp_path / "README.md"
    sweep = tmp_path / "configs" / f"{STUDY}.toml"
    sweep.write_text("# Seen in other runs: 0.777\n" + sweep.read_text())
    path.write_text(f"## A study\n\n<!-- table: study {STUDY} -->\n<!-- end of table -->\n\nThat was the table.\n")
    monkeypatch.setattr(tables, "HERE", tmp_path)
    monkeypatch.setattr(tables, "PAGES", (path,))
    assert run(monkeypatch) == 0
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tables.py", *arguments])
    with pytest.raises(SystemExit) as end:
        tables.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.parent.name)
def test_every_table_is_that_of_its_files_and_sentences_only_quote(path):
    text = path.read_text(encoding="utf-8")
    assert tables.BLOCK.search(text)
    assert tables.with_tables(text) == text
    assert tables.unsupported(text) == []


def test_a_table_of_no_file_is_found(page, monkeypatch):
    assert tables.handmade((EXPERIMENTS / "README.md").read_text(encoding="utf-8")) == []
    page.write_text(page.read_text() + "\n| a | b |\n|---|---:|\n| 1 | 2 |\n")
    assert tables.handmade(page.read_text()) == ["| a | b |"]
    assert run(monkeypatch, "--check") == 1


def test_a_broken_number_on_the_page_is_found(page, monkeypatch, capsys):
    assert run(monkeypatch, "--check") == 0
    text = page.read_text()
    assert text.count("-327.9") == 1
    page.write_text(text.replace("-327.9", "-327.8"))
    assert run(monkeypatch, "--check") == 1
    assert "writes its tables anew" in capsys.readouterr().out
    assert run(monkeypatch) == 0
    assert page.read_text() == text


@pytest.mark.parametrize("file", ["summary", "compare_return_mean", "compare_policy_rank", "finals"])
def test_a_broken_number_in_a_file_is_found(file, page, monkeypatch):
    path = page.parent / "results" / STUDY / f"{file}.csv"
    table = pd.read_csv(path)
    if file == "finals":
        table.loc[0, "rank_collapse_step"] = np.nan
    elif file == "summary":
        table.loc[0, "policy_rank"] += 1
    elif file == "compare_return_mean":
        table.loc[1, "difference"] += 1
    else:
        table["is_candidate"] = ~table["is_candidate"]
    table.to_csv(path, index=False)
    assert run(monkeypatch, "--check") == 1


@pytest.mark.parametrize(
    ("sentence", "is_found"),
    [
        ("Lost in 5 of 8 [24 %, 91 %] runs, return -327.9 [-498.7, -128.1], p = 0.003, at 4 epochs.", False),
        ("Lost in 6 of 8 [24 %, 91 %] runs.", True),
        ("A return of -327.9 [-498.7, -128.2].", True),
        ("A return of -328.", True),
        ("As its head says, 0.777.", True),
        ("p = 0.03.", True),  # the beginning of 0.003 is not that number
        ("At eps 0.1 and rate 4e-2, `results/stress_acrobot`.", False),  # as its file says
    ],
)
def test_a_sentence_that_does_not_quote_is_found(sentence, is_found, page, monkeypatch):
    link = f"(`{STUDY}`, [numbers](results/{STUDY}))"
    page.write_text(page.read_text().replace("That was the table.", f"{sentence} {link}"))
    assert run(monkeypatch, "--check") == int(is_found)


def test_another_sections_table_is_no_source(page, monkeypatch):
    other = page.read_text().replace("A study", "Another").replace("That was", "-84.2 was")
    page.write_text(page.read_text() + "\n" + other)
    assert run(monkeypatch, "--check") == 0
    page.write_text(page.read_text().replace("| **-84.2 [-85.8, -82.6]** |", "| |", 1))
    assert len(tables.unsupported(page.read_text())) == 0
    page.write_text(page.read_text().replace("| **-84.2 [-85.8, -82.6]** |", "| |"))
    assert len(tables.unsupported(page.read_text())) == 1


def test_studies_without_log_points_are_those_that_are_said_to_be():
    studies = {path.name for path in RESULTS.iterdir()}
    assert studies == set(tables.STUDIES)
    assert studies - set(KEPT) == set(tables.BEFORE)


@pytest.mark.parametrize("name", KEPT)
def test_final_values_are_means_over_the_last_log_points(name):
    """By numpy from what is drawn: the last twentieth of the log points after the start, of every run."""
    finals = pd.read_csv(RESULTS / name / "finals.csv")
    with xr.open_dataset(RESULTS / name / "drawn.nc") as drawn:
        count = math.ceil(0.05 * int(np.sum(drawn["env_steps"].values > 0)))
        for metric in ("return_mean", "policy_rank", "critic_rank", "policy_preactivation_norm"):
            expected = np.nanmean(drawn[metric].values[:, -count:].astype(np.float64), axis=1)
            np.testing.assert_allclose(finals[metric], expected, rtol=1e-5)
        np.testing.assert_array_equal(finals["seed"], drawn["seed"].values)
        np.testing.assert_array_equal(finals["status"], drawn["status"].values)
        assert np.all(finals["env_steps"] == drawn["env_steps"].values[-1])
        assert "--out" not in drawn.attrs["command"]
    assert finals["policy_dead_share"].between(0, 1).all()
    assert not finals["return_collapse_step"].notna()[~finals["has_learned"] & (finals["status"] == 0)].any()


@pytest.mark.parametrize("name", KEPT)
def test_tables_of_settings_are_made_of_the_runs_final_values(name):
    """The interquartile mean by scipy, counts by hand; no run of these has diverged."""
    summary, finals = (pd.read_csv(RESULTS / name / f"{table}.csv") for table in ("summary", "finals"))
    fields = tables.fields_of(summary)
    assert not finals["status"].any()
    for row in summary.to_dict("records"):
        runs = finals[np.all([finals[field] == row[field] for field in fields], axis=0)]
        assert len(runs) == row["runs"]
        assert runs["return_collapse_step"].notna().sum() == row["collapsed"]
        for metric in ("return_mean", "policy_rank", "policy_preactivation_norm"):
            assert row[metric] == pytest.approx(stats.trim_mean(runs[metric], 0.25), rel=1e-5)


@pytest.mark.parametrize("name", FACTORIALS)
def test_effects_of_a_factorial_are_contrasts_of_the_runs_final_values(name):
    """By the definition: each seed's signed sum over its eight runs, and scipy's t-test over seeds."""
    finals, effects = (pd.read_csv(RESULTS / name / f"{table}.csv") for table in ("finals", "factorial"))
    finals = finals[finals["pfo_coef"] > 0]
    assert len(effects) == 3 * 7
    assert set(finals.groupby("seed").size()) == {8}
    for row in effects.to_dict("records"):
        values = finals[row["metric"]] if row["metric"] == "return_mean" else np.log2(finals[row["metric"]])
        for part in row["effect"].split(" x "):
            field, level = part.split(",")[0].split("=")
            values = values * np.where(finals[field] == level, 1, -1)
        each = values.groupby(finals["seed"]).sum() / 4
        test = stats.ttest_1samp(each, 0)
        expected = [each.mean(), *test.confidence_interval(), test.pvalue]
        np.testing.assert_allclose([row[x] for x in ("value", "low", "high", "p")], expected, rtol=1e-3, atol=1e-5)
    assert np.all(effects["p_holm"] >= effects["p"])


def test_a_row_has_the_numbers_of_its_own_point():
    """Each cell looked up by hand in the file that it comes from."""
    fields = ["num_epochs", "pfo_coef"]
    finals, summary, returns = (
        pd.read_csv(RESULTS / STUDY / f"{name}.csv") for name in ("finals", "summary", "compare_return_mean")
    )
    lost = finals.groupby(fields)[["rank_collapse_step", "return_collapse_step"]].count()
    summary, returns = summary.set_index(fields), returns.set_index(fields)
    header, _, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in tables.study_table(STUDY).splitlines()
    )
    assert len(rows) == 9
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        point = (int(cells["`num_epochs`"]), float(cells["`pfo_coef`"]))
        rank, gone = lost.loc[point]
        value, dead = summary.loc[point, ["return_mean", "policy_dead_neurons"]]
        difference, is_best = returns.loc[point, ["difference", "is_candidate"]]
        assert cells["rank lost"].startswith(f"{rank} of 8 [")
        assert cells["collapsed"].startswith(f"{gone} of 8 [")
        assert cells["return"].startswith(f"{'**' if is_best else ''}{value:.1f} [")
        assert float(cells["dead of 64"].split()[0]) == pytest.approx(dead, abs=0.06)
        if point[1] == 0:
            assert cells["difference"] == "-"
        else:
            assert float(cells["difference"].split()[0]) == pytest.approx(difference, rel=0.01)


def test_returns_of_presets_are_those_of_the_files_heads():
    """Ours stand in the head of the file that gives them, with the same environment and number of steps."""
    told = pd.read_csv(EXPERIMENTS / "peers_returns.csv", dtype=str)
    assert set(told["preset"]) >= {"cleanrl_continuous", "purejaxrl_minatar", "brax_ant"}
    assert told["published in"].notna().all()
    for row in told[told["file"].notna()].to_dict("records"):
        path = EXPERIMENTS / "configs" / f"{row['file']}.toml"
        assert row["return here"] in path.read_text(encoding="utf-8")
        config = tables.read_sweep(row["file"]).config
        assert (config.env, f"{config.total_steps / 1e6:g}M") == (row["environment here"], row["steps here"])
    assert set(told["return here"][told["file"].isna()]) == {"not run"}


@pytest.mark.parametrize("name", KEPT)
def test_no_plasticity_loss_stands_without_what_it_is_read_against(name):
    columns = pd.read_csv(RESULTS / name / "finals.csv", nrows=0).columns
    assert "policy_plasticity_loss" not in columns or "policy_plasticity_excess_over_constant" in columns


def test_a_run_that_diverged_has_its_status_and_no_final_values():
    dataset = pjp.load_results(RESULTS / STUDY / "drawn.nc").isel(run=slice(0, 3)).load()
    dataset["status"][1] = 7
    finals = publish.finals_table(dataset)
    assert finals["status"].tolist() == [0, 7, 0]
    assert finals["return_mean"].isna().tolist() == [False, True, False]
    assert finals["return_collapse_step"].notna().tolist() == [False, True, False]
    assert "policy_plasticity_loss" in finals
    bare = dataset.drop_vars("policy_plasticity_excess_over_constant")
    assert "policy_plasticity_loss" not in publish.finals_table(bare)


def test_every_intervention_has_a_cost() -> None:
    """Measured by experiments/benchmarks/intervention_costs.py, which takes --only for a new one."""
    path = EXPERIMENTS / "benchmarks" / "results" / "intervention_costs.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert rows.keys() == {intervention.name for intervention in INTERVENTIONS}
    assert all(0.3 < row["low"] <= row["ratio"] <= row["high"] < 5 for row in rows.values())
