"""Write the tables of experiments/README.md and README.md anew, each from the files that it shows.

python experiments/tables.py           # after publish.py, or after editing what a table is made of
python experiments/tables.py --check   # exits 1 and says what differs

A table stands between `<!-- table: KIND NAME -->` and `<!-- end of table -->`; KIND is one of `TABLES`. Where a section
has a table of a study, its sentences only quote: a number with an interval, a count with its share, a number with
decimals or a sign must be in a table of the section, or set in the files of the sweeps that it names (`unsupported`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from benchmark_tables import (
    accelerator_table,
    brax_table,
    device_table,
    floor_table,
    parity_table,
    peers_table,
    simulations_table,
    size_table,
)

from purejaxppo.claims.environment import (
    CONTRADICTED,
    INCONCLUSIVE,
    NO_DIFFERENCE,
    NOT_OBSERVED,
    NOT_TESTED,
    SUPPORTED,
)
from purejaxppo.claims.interventions import DEFAULTS
from purejaxppo.claims.table import HEADER, cells, filled
from purejaxppo.envs.suites import SUITES
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.plots.channels import bundled_fields, point_names, varying_fields
from purejaxppo.presets import PRESETS
from purejaxppo.statistics.estimates import bootstrap_interval, exact_interval, iqm
from purejaxppo.statistics.tables import (
    compact,
    count_cells,
    estimate_cells,
    format_count,
    format_interval,
    format_number,
    format_p,
    format_percent,
    format_value,
    markdown,
)
from purejaxppo.sweep.plan import Sweep, make_groups

HERE = Path(__file__).parent
PAGES = (HERE / "README.md", HERE.parent / "README.md")
BLOCK = re.compile(r"(<!-- table: (\w+) ?([\w-]*) -->\n).*?(<!-- end of table -->)", re.DOTALL)
METRICS = {"policy_rank": "policy rank", "policy_preactivation_norm": "norm", "policy_dead_neurons": "dead of {width}"}
ORDER = (SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE, NOT_OBSERVED, NOT_TESTED)
FACTORIAL = {
    "return_mean": "return",
    "policy_rank": "policy rank, doublings",
    "policy_preactivation_norm": "norm, doublings",
}

# Studies whose sweeps were deleted before log points were kept (`drawn.nc`), and that were not run again: commit of
# their numbers and pictures, day, minutes that the sweep took, seeds.
BEFORE = {
    "gradual_breakout_conv": ("eb2d25f", "2026-11-24", 69, "200 to 215"),
}
STUDIES = (
    *("quickstart", "stress_acrobot", "stress_interventions", "trust_regions_acrobot", "trust_regions_pendulum"),
    *("pfo_strength_acrobot", "pfo_strength_pendulum", "pfo_ablation_acrobot", "pfo_ablation_pendulum"),
    *("proximal_family_acrobot", "proximal_family_breakout"),
    *("head_to_head_acrobot", "head_to_head_breakout", "head_to_head_pendulum"),
    *("gradual_acrobot", "gradual_breakout", "gradual_breakout_conv", "gradual_breakout_paper_rate"),
    *("gradual_spaceinvaders", "figure1_brax_hundredth", "figure1_minatar_hundredth", "normalization_hopper"),
)


def study_table(name: str) -> str:
    """One row per point: in how many runs rank and return are lost, the return, its contrast, the representation.

    Bold: cannot be told from the best of its block (`compare`). What a study's files do not have has no column.
    """
    tables = ("summary", "compare_return_mean", "compare_policy_rank")
    summary, returns, ranks = (read(name, table) for table in tables)
    is_compared = "p_holm" in returns
    if is_compared:  # in whose order the plain points of a block come first
        summary = returns[fields_of(returns)].merge(summary)
    columns = labels(summary)
    if "collapsed" in summary:
        columns += [("rank lost", ranks_lost(name, summary)), *count_cells(summary)]
    columns.append(("return", bold(estimates(summary, "return_mean"), returns)))
    if is_compared:
        rows = returns.to_dict("records")
        shown = [format_interval(row["difference"], row["difference_low"], row["difference_high"]) for row in rows]
        columns += [("difference", shown), ("p (Holm)", [format_p(row["p_holm"]) for row in rows])]
    width = read_sweep(name).config.hidden_sizes[-1]
    for metric, header in METRICS.items():
        cells = estimates(summary, metric)
        columns.append((header.format(width=width), bold(cells, ranks) if metric == "policy_rank" else cells))
    header, lines = zip(*columns, strict=True)
    return markdown(header, list(zip(*lines, strict=True)))


def factorial_table(name: str) -> str:
    """What each choice adds to return, rank and norm, and each product of choices; bold: told from 0 after Holm."""
    table, columns = read(name, "factorial"), []
    for metric, header in FACTORIAL.items():
        rows = table[table["metric"] == metric].to_dict("records")
        cells = [format_interval(row["value"], row["low"], row["high"]) for row in rows]
        marked = [f"**{cell}**" if row["p_holm"] < 0.05 else cell for cell, row in zip(cells, rows, strict=True)]
        columns += [(header, marked), ("p (Holm)", [format_p(row["p_holm"]) for row in rows])]
    effects = [" x ".join(f"`{part}`" for part in effect.split(" x ")) for effect in table["effect"].unique()]
    header, lines = zip(("effect", effects), *columns, strict=True)
    return markdown(header, list(zip(*lines, strict=True)))


def moves_table(name: str) -> str:
    """How far the policy moves by updates, and by its observation statistics between them: IQM over seeds, nat."""
    with xr.open_dataset(HERE / "results" / name / "drawn.nc") as drawn:
        is_running = drawn["normalize_observations"].values == "running"
        at = [1, 2, 3, 4, 5, 10]
        updates, moves = (drawn[metric].values[:, at].astype(np.float64) for metric in ("kl", "statistics_kl"))
    values = {
        "the update, fixed statistics": updates[~is_running],
        "the update, running statistics": updates[is_running],
        "the statistics' own moves": moves[is_running],
        "that, over the same update's": moves[is_running] / updates[is_running],
    }
    rows = []
    for told, runs in values.items():
        cells = [(float(iqm(x)), *map(float, bootstrap_interval(x))) for x in runs.T]
        rows.append([told, *(format_interval(*cell) for cell in cells)])
    return markdown(["KL of the policy by", *(f"update {number}" for number in at)], rows)


def ranks_lost(name: str, summary: pd.DataFrame) -> list[str]:
    """In how many runs of each point the policy's rank is lost."""
    fields, finals = fields_of(summary), read(name, "finals")
    finals["is_lost"] = finals["rank_collapse_step"].notna()
    counts = finals.groupby(fields, as_index=False)["is_lost"].agg(["sum", "count"])
    rows = zip(*(summary[fields].merge(counts, how="left")[column] for column in ("sum", "count")), strict=True)
    return [format_count(int(k), int(n), *exact_interval(int(k), int(n))) for k, n in rows]


def read(name: str, table: str) -> pd.DataFrame:
    """A table of a study; empty where it has none."""
    path = HERE / "results" / name / f"{table}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def fields_of(table: pd.DataFrame) -> list[str]:
    """The swept fields, which stand before the counts of runs."""
    return [str(field) for field in table.columns[: list(table.columns).index("runs")]]


def labels(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """What tells the rows apart: a column for each axis, and of a list of settings one with what each changes."""
    points = [{str(field): value for field, value in row.items()} for row in table[fields_of(table)].to_dict("records")]
    bundle = bundled_fields(points)
    axes = [field for field in varying_fields(points) if field not in bundle]
    columns = [(f"`{field}`", [format_value(point[field]) for point in points]) for field in axes]
    if bundle:
        names = point_names([{field: point[field] for field in bundle} for point in points])
        columns.append(("setting", ["plain PPO" if name == "defaults" else f"`{name}`" for name in names]))
    return columns


def estimates(table: pd.DataFrame, metric: str) -> list[str]:
    """Cells of a metric; old tables do not have the single values of a few runs."""
    return estimate_cells(table if f"{metric}_runs" in table else table.assign(**{f"{metric}_runs": np.nan}), metric)


def bold(cells: Sequence[str], compared: pd.DataFrame) -> list[str]:
    """Cells in bold where `compare` cannot tell the point from the best."""
    marks = compared["is_candidate"] if "is_candidate" in compared else [False] * len(cells)
    return [f"**{compact(cell)}**" if is_bold else cell for cell, is_bold in zip(cells, marks, strict=True)]


def claims_of(name: str) -> pd.DataFrame:
    texts = ("env", "claim", "intervention", "part", "verdict", "unit", "note")
    table = pd.read_csv(HERE / "results" / name / "claims.csv")
    return table.assign(**{column: table[column].fillna("") for column in texts})


def claims_table(name: str) -> str:
    """All parts of the claims about plain PPO, as `purejaxppo claims` writes them."""
    table = claims_of(name)
    rows = [filled(cells(row)) for row in table[table["intervention"] == ""].to_dict("records")]
    return markdown(HEADER, rows)


def verdicts_table() -> str:
    """Verdicts of all studies that have some by the present rules: a row for each study and environment."""
    rows = []
    for name in STUDIES:
        if not (HERE / "results" / name / "claims.csv").exists():
            continue
        heads = claims_of(name).query("part == '' and env != 'all environments'")
        for env, own in heads.groupby("env", sort=False):
            plain = own[own["intervention"] == ""].set_index("claim")["verdict"]
            done = own[own["intervention"] != ""]
            (pfo,) = done["verdict"][done["intervention"] == "pfo_coef=1"]
            counts = done["verdict"].value_counts()
            said = ", ".join(f"{verdict} {counts[verdict]}" for verdict in ORDER if verdict in counts)
            others = f"[{said}](results/{name}/claims.csv)"
            of = f", {str(env).split('/')[1]}" * (heads["env"].nunique() > 1)
            told = (plain[f"C{number}"] for number in range(1, 6))
            rows.append([study_link(name) + of, format_percent(own["length"].max()), *told, pfo, others])
    return markdown(["study", "length", "C1", "C2", "C3", "C4", "C5", "C6, PFO 1", "all interventions"], rows)


def study_link(name: str) -> str:
    return f"[{name}](results/{name})"


def studies_table() -> str:
    """What was run, and of which commit."""
    rows = []
    for name in STUDIES:
        summary = read(name, "summary")
        environments = sorted({group.config.env.split("/")[1] for group in make_groups(read_sweep(name))})
        commit, day, minutes, seeds = BEFORE.get(name) or provenance(name)
        size = f"{summary['runs'].sum()} x {summary['env_steps'].max():,}"
        rows.append([study_link(name), ", ".join(environments), size, seeds, f"{minutes:.0f}", day, f"`{commit}`"])
    return markdown(["study", "environment", "runs x steps", "seeds", "minutes", "day", "commit"], rows)


def interventions_table() -> str:
    """Every intervention of the package: where it acts, what it does, its fields, switch first, its cost, source."""
    costs = json.loads((HERE / "benchmarks" / "results" / "intervention_costs.json").read_text())["rows"]
    told = {name: f"{found['ratio']:.2f}" for name, found in costs.items()}
    numbers = {name: x for name, x in DEFAULTS.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    named = {name: f"`{name}` {format_value(x)}" for name, x in numbers.items()}
    rows = [
        [
            x.name,
            x.acts,
            f"`{x.formula}`",
            ", ".join(named.get(field, f"`{field}`") for field in x.fields),
            told.get(x.name, ""),
            x.source,
        ]
        for x in sorted(INTERVENTIONS, key=lambda x: x.acts)
    ]
    return markdown(["what", "acts on", "what it does", "fields, defaults", "time", "source"], rows).replace(
        " ---: ", " --- "
    )


def suites_table() -> str:
    """Suites of environments that are extras, and how many environments of each there are."""
    told = pd.read_csv(HERE / "suites.csv", dtype=str)
    told.insert(4, "environments", [str(len(SUITES[suite].names)) for suite in told["suite"]])
    return markdown(list(told.columns), [[f"`{suite}/`", *rest] for suite, *rest in told.to_numpy().tolist()])


def presets_table() -> str:
    """Returns that peers have published with the settings of our presets, and what those give here."""
    told = pd.read_csv(HERE / "peers_returns.csv", dtype=str).fillna("")
    files = [f"`{file}`" if file else "" for file in told["file"]]
    return markdown(list(told.columns), told.assign(file=files).to_numpy().tolist()).replace(" ---: ", " --- ")


def read_sweep(name: str) -> Sweep:
    return Sweep.from_toml(HERE / "configs" / f"{name}.toml")


def provenance(name: str) -> tuple[str, str, float, str]:
    """Commit, day, minutes and seeds of a sweep, as its results record them."""
    with xr.open_dataset(HERE / "results" / name / "drawn.nc") as dataset:
        attrs, seeds = dataset.attrs, dataset["seed"].values
        minutes = float(attrs["seconds_total"]) / 60
        return attrs["git_commit"][:7], attrs["created"][:10], minutes, f"{seeds.min()} to {seeds.max()}"


def plans_table() -> str:
    """The sweeps at the paper's settings, as planned."""
    rows = []
    for path in sorted((HERE / "configs").glob("*_brax.toml")) + sorted((HERE / "configs").glob("*_minatar.toml")):
        if path.stem in PRESETS:  # the settings of a peer, not the paper's
            continue
        sweep = read_sweep(path.stem)
        groups, points = make_groups(sweep), list(sweep.points)
        bundle = bundled_fields(points)
        sizes = {field: len({str(point[field]) for point in points}) for field in sweep.swept if field not in bundle}
        rest = len(points) // int(np.prod(list(sizes.values())))
        parts = [f"{count} `{field}`" for field, count in sizes.items()] + [f"{rest} settings"] * (rest > 1)
        steps = format_number(sum(group.env_steps for group in groups) / 1e9, 2)
        what = " x ".join([*parts, f"{len(sweep.seeds)} seeds"])
        rows.append([f"`{path.stem}`", what, str(sweep.num_runs), str(len(groups)), steps])
    return markdown(["file", "what", "runs", "programs", "steps, 1e9"], rows)


TABLES: dict[str, Callable[..., str]] = {
    "study": study_table,
    "factorial": factorial_table,
    "moves": moves_table,
    "claims": claims_table,
    "verdicts": verdicts_table,
    "studies": studies_table,
    "interventions": interventions_table,
    "suites": suites_table,
    "presets": presets_table,
    "plans": plans_table,
    "peers": peers_table,
    "brax": brax_table,
    "floor": floor_table,
    "device": device_table,
    "size": size_table,
    "simulations": simulations_table,
    "parity": parity_table,
    "accelerator": accelerator_table,
}


def with_tables(text: str) -> str:
    """A page with its tables as the files have them now."""

    def anew(found: re.Match[str]) -> str:
        return f"{found[1]}{TABLES[found[2]](*filter(None, [found[3]]))}\n{found[4]}"

    return BLOCK.sub(anew, text)


def handmade(text: str) -> list[str]:
    """First lines of the tables of a page that no file is behind."""
    return re.findall(r"(?:^|\n)(\|.*)\n\|[-: |]+\n", BLOCK.sub("", text))


QUOTES = re.compile(
    r"-?\d[\d.]*(?: of \d+)? \[[^\]]*\d[^\]]*\](?!\()"  # 22.2 [19.9, 28.2]; 5 of 8 [24 %, 91 %]
    r"|(?<![\w./-])-?\d+\.\d+(?:e[-+]?\d+)?"  # 0.015
    r"|(?<![\w.)-])-\d+"  # -500
)


def unsupported(text: str) -> list[str]:
    """What sentences of a page say of numbers that no table of their section has."""
    missing = []
    for section in re.split(r"\n(?=#{2,} )", text):
        tables = "\n".join(line for line in section.splitlines() if line.startswith("|"))
        if not {"study", "factorial", "claims"} & {found[2] for found in BLOCK.finditer(section)}:
            continue
        names = set(re.findall(r"(?:results/|configs/|<!-- table: \w+ )(\w+)", section))
        paths = [HERE / "configs" / f"{name}.toml" for name in sorted(names)]
        settings = [re.sub("#.*", "", path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        known = "\n".join([tables, *settings])
        prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->", "", BLOCK.sub("", section), flags=re.DOTALL)
        prose = " ".join(line for line in prose.splitlines() if not line.startswith("|"))
        title = section.splitlines()[0]
        missing += [f"{title}: {quote}" for quote in QUOTES.findall(prose) if not is_there(quote, known)]
    return missing


def is_there(quote: str, known: str) -> bool:
    """Whether a number, or a number with its interval, stands somewhere as it is, and is not a part of another one."""
    return re.search(rf"(?<![\d.-]){re.escape(quote)}(?![\d]|\.\d)", known) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where something differs")
    is_check = parser.parse_args().check
    faults: list[str] = []
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = with_tables(before)
        if path.parent == HERE:  # the other page may have a table of its own
            faults += [f"{path.name} has a table of no file: {line}" for line in handmade(after)]
        faults += [f"{path.name}, {fault}, but no table of the section has that." for fault in unsupported(after)]
        if is_check and after != before:
            faults.append(f"{path} is not what the files say; python experiments/tables.py writes its tables anew.")
        elif after != before:
            path.write_text(after, encoding="utf-8")
    print("\n".join(faults) or "All tables are those of their files.")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
