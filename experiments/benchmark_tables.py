"""Tables of benchmarks for experiments/README.md, from benchmarks/results. No command: tables.py writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from purejaxppo.statistics.estimates import exact_interval
from purejaxppo.statistics.tables import format_count, format_interval, format_number, markdown

BENCHMARKS = Path(__file__).parent / "benchmarks"
RESULTS = BENCHMARKS / "results"
sys.path.append(str(BENCHMARKS))  # at the end: its statistics.py is not Python's


def peers_table(name: str) -> str:
    """Steps a second of ours and rejax's, all runs together, and the ratios with and without diagnostics."""
    rows = []
    for found in read(name).values():
        if "rejax" not in found["ratios"]:
            continue
        setting, ratios = found["setting"], found["ratios"]
        convolution = " convolution" * (setting["torso"] != "mlp")
        environment = setting["env"].split("/")[1].removesuffix("-MinAtar").removesuffix("-v1")
        label = f"{environment}{convolution}, {setting['runs']} runs x {setting['num_envs']} envs"
        speeds = [speed(found, who) for who in ("ours", "ours_bare", "rejax", "rejax_split")]
        shares = [ratio(ratios[peer][who]) for peer in ("rejax", "rejax_split") for who in ("ours", "ours_bare")]
        rows.append([label, *speeds, f"**{shares[0]}**", *shares[1:]])
    ours, split = ("ours", "ours, no diagnostics"), ("rejax", "rejax, split")
    return markdown(["", *ours, *split, "ours / rejax", "without", "ours / split", "without"], rows)


def brax_table(name: str) -> str:
    """Steps a second of four runs and of one of ours, and of brax's own PPO."""
    rows = []
    for found in read(name).values():
        if "brax" not in found["ratios"]:
            continue
        setting, ratios = found["setting"], found["ratios"]
        speeds = [speed(found, who) for who in ("ours_4", "ours_1", "brax", "brax_split")]
        shares = [ratio(ratios[peer][who]) for peer in ("brax", "brax_split") for who in ("ours_4", "ours_1")]
        label = f"{setting['env'].split('/')[1]}, {setting['num_envs']} envs"
        rows.append([label, *speeds, f"**{shares[0]}**", *shares[1:]])
    ours, split = ("ours, 4 runs", "ours, 1 run"), ("brax", "brax, split")
    return markdown(["", *ours, *split, "4 runs / brax", "1 run", "4 runs / split", "1 run"], rows)


def floor_table(name: str) -> str:
    """Seconds of training beside those of its parts alone."""
    parts = ("ours", "diagnostics", "environments", "networks", "over_floor", "over_arithmetic")
    rows = []
    for setting, found in read(name)["settings"].items():
        label = f"{setting.replace('_', ' ')}, {found['runs']} runs x {found['updates']} updates".replace(
            " 1 updates", " 1 update"
        )
        rows.append([label, *(format_number(found[part]) for part in parts)])
    head = ["seconds", "no diagnostics", "with diagnostics", "environments", "networks"]
    return markdown([*head, "time / floor", "over bare arithmetic"], rows)


def device_table(name: str) -> str:
    """Programs on one accelerator: speed, and what an update, a diagnosis and a plasticity point take."""
    found = [row for row in read(name)["rows"] if "seconds_a_segment" in row]
    bare = {row["setting"]: row["seconds_a_segment"] for row in found if not row["diagnostics"]}
    rows = []
    for row in found:
        seconds, is_diagnosed = row["seconds_a_segment"], row["diagnostics"]
        has_bare = is_diagnosed and row["setting"] in bare
        diagnosis = format_number(seconds - bare[row["setting"]], 2) if has_bare else ""
        plasticity = format_number(row["seconds_a_segment_with_plasticity"] - seconds, 3) if is_diagnosed else ""
        label = f"{row['runs']} runs of {row['setting']}, {'' if is_diagnosed else 'not '}diagnosed"
        speeds = [f"{row['steps_per_second'] / 1e6:.1f}", format_number(row["ms_per_update"])]
        rows.append(
            [label, str(row["updates_a_segment"]), *speeds, diagnosis, plasticity, f"{row['compile_seconds']:.0f}"]
        )
    head = ["", "updates a log point", "1e6 steps/s", "ms an update", "s a diagnosis", "s a plasticity point"]
    return markdown([*head, "s compiling"], rows)


def size_table(name: str) -> str:
    """CPU seconds and memory of what happens to large results."""
    from results_size import table

    return table(read(name))


def parity_table(name: str) -> str:
    """Final returns of ours and rejax's, and how many of ours and of theirs ended at 0."""
    rows = []
    for setting, found in read(name).items():
        sides = [found[who] for who in ("ours", "rejax")]
        returns = [format_interval(side["iqm"], side["low"], side["high"]) for side in sides]
        lost = [(sum(x == 0 for x in side["returns"]), len(side["returns"])) for side in sides]
        counts = [format_count(k, n, *exact_interval(k, n)) for k, n in lost]
        settings = f"{found['hparams']['learning_rate']:g}", f"{found['total_steps']:,}"
        rows.append([setting, *settings, *returns, *counts])
    return markdown(["", "learning rate", "steps", "ours", "rejax", "ours at 0", "rejax's at 0"], rows)


# Of each simulation the columns that are shares of samples or sweeps, in the words of its rows.
SHARES = {
    "intervals": ("expanded", "plain"),
    "survival": ("followed", "censored", "greenwood"),
    "shares": ("beyond level", "all candidates"),
    "contrasts": ("p <= 0.05", "interval holds 0"),
    "improvement": ("holds",),
    "collapse": (),
    "verdicts": ("false",),
}


def simulations_table(name: str) -> str:
    """What `statistics.py` simulated and found, over all its rows, and the seconds of one core."""
    found, rows = read(name), []
    for part, about in found.items():
        ends = {column: [row[column] for row in about["rows"]] for column in SHARES[part]}
        shares = [f"{column} {100 * min(x):.0f} to {100 * max(x):.0f} %" for column, x in ends.items()]
        rows.append([f"`{part}`", about["what"], ", ".join(shares), f"{about['seconds']:.0f}"])
    rows.append(["together", "", "", f"{sum(about['seconds'] for about in found.values()):.0f}"])
    return markdown(["part", "what", "lowest and highest", "s"], rows).replace(
        "| ---: | ---: | ---:", "| --- | --- | ---"
    )


def accelerator_table(target: str) -> str:
    """What was compiled for a device that was not there; library calls are left to `accelerator.py`.

    "measured", "measured_TARGET" in place of a target: what was measured beside what is predicted.
    """
    from accelerator_tables import measured, tables

    if target.startswith("measured"):
        return measured(read("accelerator")[target])
    return tables(target, read("accelerator")[target]).split(f"**{target}: library calls**")[0].strip()


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def speed(found: dict[str, Any], who: str) -> str:
    return f"{found['contestants'][who]['steps_per_second']:,.0f}"


def ratio(value: float) -> str:
    return format_number(value, 2 if value < 10 else 0)
