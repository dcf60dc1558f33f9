"""One piece of the GPU benchmark; gpu.sh runs all of them.

    python experiments/benchmarks/gpu.py rates_breakout --out runs/gpu
    python experiments/benchmarks/gpu.py singular_values --tiny        # sizes for a CPU, to see that it works

Prints a table and writes OUT/gpu_PIECE.json: machine, versions and every raw number. While a piece runs, its rows so
far are in OUT/gpu_PIECE.json.part. A rate is aggregate environment steps a second of a whole run with diagnostics at
its (up to) 100 log points and plasticity measurements at 40, without compilation.

rates_*          rate, memory and operations for more and more runs: CartPole (4 environments x 128 steps, MLP 64-64),
                 Breakout (64 x 128, flat, MLP 64-64), Breakout with the paper's settings and a convolution, brax's
                 hopper with the paper's settings; rates_hopper_graphs is for XLA_FLAGS that make loops CUDA graphs
breakout_300     a sweep of 300 Breakout runs of 1M steps, from nothing (but compiled programs) to the result file
breakout_300_training   the training of those runs alone: with diagnostics, without, and with TF32
products         milliseconds and accuracy of products with Boolean observations
singular_values  milliseconds per matrix and accuracy of several routes
diagnostics      what diagnostics and plasticity measurements add to 64 runs
deterministic    what deterministic kernels cost, and whether they give equal bits
profile          a trace of two updates of those 300 runs

With --compile a piece's programs are compiled side by side into JAX_COMPILATION_CACHE_DIR, nothing runs, and
OUT/compiled_PIECE.json says how long that took; compile_seconds of the piece itself are those of reading them, then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gpu_products
import gpu_programs
import gpu_spectra
from gpu_programs import Options
from settings import SWEEPS

from purejaxppo.sweep.provenance import provenance

Row = dict[str, Any]
PIECES: dict[str, Callable[[Options], Iterator[Row]]] = {
    **{f"rates_{name}": partial(gpu_programs.rates, name) for name in SWEEPS},
    "rates_hopper_graphs": partial(gpu_programs.rates, "hopper"),
    "breakout_300": gpu_programs.breakout_300,
    "breakout_300_training": gpu_programs.breakout_300_training,
    "products": gpu_products.piece,
    "singular_values": gpu_spectra.piece,
    "diagnostics": gpu_programs.diagnostics,
    "deterministic": gpu_programs.deterministic,
    "profile": gpu_programs.profile,
}
# What --compile compiles: the programs of those pieces that gpu.sh runs.
PROGRAMS: dict[str, Callable[[Options], Sequence[gpu_programs.Specification]]] = {
    **{f"rates_{name}": partial(gpu_programs.of_rates, name) for name in SWEEPS},
    "rates_hopper_graphs": partial(gpu_programs.of_rates, "hopper"),
    "breakout_300": lambda options: [gpu_programs.of_breakout_300(options)["diagnostics"]],
    "breakout_300_training": lambda options: list(gpu_programs.of_breakout_300(options).values()),
    "profile": lambda options: [gpu_programs.of_profile(options)[1]],
}


def main() -> None:
    """Run the piece named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=list(PIECES))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU and a few seconds")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds after which nothing more is begun")
    parser.add_argument("--runs", type=int, nargs="+", help="numbers of runs in rates_*")
    parser.add_argument("--updates", type=int, help="updates between two log points, in place of the setting's")
    parser.add_argument("--compile", action="store_true", help="only compile its programs")
    args = parser.parse_args()
    runs = tuple(args.runs) if args.runs else None
    options = Options(out=args.out, is_tiny=args.tiny, budget=args.budget, runs=runs, updates=args.updates)
    if args.compile and args.piece not in PROGRAMS:
        return
    print(f"written: {run_piece(args.piece, options, is_compiling=args.compile)}")


def run_piece(name: str, options: Options, *, is_compiling: bool = False) -> Path:
    """Run or compile a piece, print its rows as they come, and write them; returns the file."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{'compiled' if is_compiling else 'gpu'}_{name}.json"
    part = path.with_name(f"{path.name}.part")
    rows: list[Row] = []
    header: list[str] = []
    found = gpu_programs.compilations(PROGRAMS[name](options)) if is_compiling else PIECES[name](options)
    for row in found:
        rows.append(row)
        part.write_text(json.dumps({"piece": name, "rows": rows}, indent=1) + "\n")
        header = print_row(row, header)
    result = {"piece": name, "is_tiny": options.is_tiny, "provenance": provenance(), "rows": rows}
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    return path


def print_row(row: Row, header: list[str]) -> list[str]:
    """Print the plain values of a row, and their names where they differ from the header above; returns its header."""
    if "stopped" in row:
        print("  ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
        return header
    shown = {name: _format(value) for name, value in row.items() if not isinstance(value, (dict, list))}
    widths = [max(len(name), 10) for name in shown]
    if list(shown) != header:
        print("  ".join(f"{name:>{width}}" for name, width in zip(shown, widths, strict=True)))
    print("  ".join(f"{value:>{width}}" for value, width in zip(shown.values(), widths, strict=True)), flush=True)
    return list(shown)


def _format(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
