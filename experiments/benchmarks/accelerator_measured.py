"""What accelerator.py predicts beside what a GPU took.

    aot/bin/python experiments/benchmarks/accelerator_measured.py            # results/gpu_first_h100.json
    aot/bin/python experiments/benchmarks/accelerator_measured.py runs/gpu   # what gpu.sh has written there

Compiles today's programs at the sizes and with the precision that were measured. What the first file has is an earlier
tree's, under a later jax, networks in TF32. Targets' constants were fitted to one row of it, Breakout without
diagnostics, so that its prediction is no evidence; the others are of the same card on the same day. Writes "measured",
or "measured_TARGET" of a folder, into results/accelerator.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerator import RESULTS, account, described_arguments, on, program_for
from accelerator_tables import config_of, measured
from hlo import parse
from settings import SWEEPS
from targets import TARGETS

from purejaxppo import HyperParams

FIRST = RESULTS.with_name("gpu_first_h100.json")
FITTED = ("breakout", False)  # setting, with diagnostics: what the constants were fitted to

Row = dict[str, Any]
"""A measurement: setting, target, runs, config, hparams, seconds of a segment and of a plasticity point, launches."""


def main() -> None:
    """Compile, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="what gpu.sh has written")
    folder = parser.parse_args().folder
    measurements = list(measured_in(folder) if folder else first_measured())
    if unknown := [row["setting"] for row in measurements if row["target"] is None]:
        parser.error(f"{', '.join(unknown)}: measured on none of {', '.join(TARGETS)}")
    rows = [row for one in measurements for row in compare(one)]
    name = f"measured_{measurements[0]['target']}" if folder else "measured"
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(found | {name: rows}, indent=1) + "\n")
    print(measured(rows))


def first_measured() -> Iterator[Row]:
    """The rows of the first script that ran on an H100."""
    for row in json.loads(FIRST.read_text())["rows"]:
        if "ms_per_update" not in row:
            continue
        config, hparams = SWEEPS[row["setting"]]
        config = dataclasses.replace(config, matmul_precision="default", diagnostics=row.get("diagnostics", True))
        total_steps = config.num_log_points * row["updates_a_segment"] * config.batch_size
        seconds = {"segment": row["seconds_a_segment"]}
        if "seconds_a_segment_with_plasticity" in row:
            seconds["plasticity"] = row["seconds_a_segment_with_plasticity"] - row["seconds_a_segment"]
        yield {
            "setting": row["setting"],
            "target": "h100",
            "runs": row["runs"],
            "config": dataclasses.replace(config, total_steps=total_steps),
            "hparams": hparams,
            "seconds": seconds,
            "launches": row["launches_a_segment"],
            "is_fitted": (row["setting"], config.diagnostics) == FITTED,
        }


def measured_in(folder: Path) -> Iterator[Row]:
    """The programs whose segments gpu.sh has timed; target is None on a device that is none of TARGETS."""
    for path in sorted(folder.glob("gpu_*.json")):
        found = json.loads(path.read_text())
        kind = found["provenance"]["device_kind"]
        target = next((name for name in TARGETS if name.upper() in kind), None)
        for row in found["rows"]:
            if "seconds" not in row or "config" not in row or not isinstance(row["seconds"], dict):
                continue
            config = config_of(row["config"])
            plain, plasticity = (row["seconds"][x] for x in ("plain", "plasticity"))
            seconds = {"segment": statistics.median(plain)}
            if config.measures_plasticity:
                seconds["plasticity"] = statistics.median(plasticity) - seconds["segment"]
            setting = row.get("setting", f"{found['piece']}, {row.get('variant')}")
            yield {
                "setting": setting + ", CUDA graphs" * found["piece"].endswith("_graphs"),
                "target": target,
                "runs": row["runs"],
                "config": config,
                "hparams": HyperParams(),
                "seconds": seconds,
                "launches": None,  # its rows have those compiled
                "is_fitted": False,
            }


def compare(row: Row) -> Iterator[dict[str, Any]]:
    """A segment, and a measurement of the plasticity loss where there was one: seconds measured and predicted."""
    target, config = TARGETS[row["target"]], row["config"]
    for name, took in row["seconds"].items():
        with on(target):
            program = program_for(config, row["hparams"], row["runs"], target)
            compiled = program.lower(name, described_arguments(program)).compile()
        found = account(parse(compiled.as_text()), row["runs"], target)
        of = f"{config.updates_per_log} updates{', diagnosed' * config.diagnostics}"
        yield {
            "setting": row["setting"],
            "runs": row["runs"],
            "of": of if name == "segment" else "a plasticity point",
            "is_fitted": name == "segment" and row["is_fitted"],
            "measured": took,
            "predicted": found["seconds"],
            "launches_measured": row["launches"] if name == "segment" else None,
            "launches": found["launches"],
        }


if __name__ == "__main__":
    main()
