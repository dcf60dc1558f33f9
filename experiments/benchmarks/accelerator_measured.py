"""What accelerator.py predicts beside what an H100 took: the programs of results/gpu_first_h100.json.

    aot/bin/python experiments/benchmarks/accelerator_measured.py

Compiles today's programs at the sizes that were measured, networks in TF32 as then; what was measured is an earlier
tree's, under a later jax. Targets' constants were fitted to one row, Breakout without diagnostics, so that its
prediction is no evidence; the others are of the same card on the same day. Writes "measured" into
results/accelerator.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from accelerator import RESULTS, account, described_arguments, on, program_for
from accelerator_tables import measured
from hlo import parse
from settings import SWEEPS
from targets import TARGETS

MEASURED = RESULTS.with_name("gpu_first_h100.json")
FITTED = ("breakout", False)  # setting, with diagnostics: what the constants were fitted to


def main() -> None:
    """Compile, print, write."""
    rows = [row for one in json.loads(MEASURED.read_text())["rows"] if "ms_per_update" in one for row in compare(one)]
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(found | {"measured": rows}, indent=1) + "\n")
    print(measured(rows))


def compare(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A segment, and a measurement of the plasticity loss where there was one: seconds measured and predicted."""
    config, hparams = SWEEPS[row["setting"]]
    updates, is_diagnosed = row["updates_a_segment"], row.get("diagnostics", True)
    config = dataclasses.replace(config, matmul_precision="default", diagnostics=is_diagnosed)
    config = dataclasses.replace(config, total_steps=config.num_log_points * updates * config.batch_size)
    seconds = {"segment": row["seconds_a_segment"]}
    if "seconds_a_segment_with_plasticity" in row:
        seconds["plasticity"] = row["seconds_a_segment_with_plasticity"] - row["seconds_a_segment"]
    target = TARGETS["h100"]
    for name, took in seconds.items():
        with on(target):
            program = program_for(config, hparams, row["runs"], target)
            compiled = program.lower(name, described_arguments(program)).compile()
        found = account(parse(compiled.as_text()), row["runs"], target)
        yield {
            "setting": row["setting"],
            "runs": row["runs"],
            "of": f"{updates} updates{', diagnosed' * is_diagnosed}" if name == "segment" else "a plasticity point",
            "is_fitted": name == "segment" and (row["setting"], is_diagnosed) == FITTED,
            "measured": took,
            "predicted": found["seconds"],
            "launches_measured": row["launches_a_segment"] if name == "segment" else None,
            "launches": found["launches"],
        }


if __name__ == "__main__":
    main()
