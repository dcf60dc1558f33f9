"""Programs of sweeps compiled for a GPU or a TPU on a machine that has neither: memory, launches, predicted time.

    python3 -m venv aot && aot/bin/pip install -e '.[aot-cuda]'
    aot/bin/python experiments/benchmarks/accelerator.py --target h100
    python3 -m venv aot && aot/bin/pip install -e '.[aot-tpu]'
    aot/bin/python experiments/benchmarks/accelerator.py --target tpu-v5e

    ... --target h100 --settings breakout --set 'hidden_sizes=(512,)' --no-rejax --out /tmp/it.json --text /tmp/texts
    ... --target h100 --check       # small programs against the committed figures; fails when one is worse

XLA's compiler takes a description of its target, so what would run there can be read here: nothing runs. Compiled are
the programs of `GroupProgram`, those that `run_sweep` runs: a segment (up to the next log point), the same without
diagnostics, a measurement of the plasticity loss, initial states, plasticity tasks. Memory is for as many runs as were
compiled, and for others, marked ~, as many times that as memory.py estimates. rejax is compiled in an environment of
its own (peers/), made when missing; it has no diagnostics.

Launches are kernels, copies and library calls: what a library launches itself counts as one. Of a condition the branch
that launches less is counted (the other one computes the metrics of a few of an update's minibatches). On a GPU the
host looks at every condition and at every pass of a loop of unknown length before it can go on: a round trip each.

Predicted seconds: every launch takes a fixed time, and beside it the longer of its bytes (operands and results, of
slices and updates in place the part) at a share of the vendor's bandwidth and of its matrix products at a share of the
vendor's rate; a round trip and a looped library call take a fixed time each, a batched one its operations at a smaller
share. targets.py has the numbers, and what they were fitted to. Nothing is kept in a cache, nothing overlaps, XLA's
command buffers gain nothing. accelerator_measured.py sets predictions beside what was measured.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else JAX looks for the device whose compiler it finds

import jax
from accelerator_tables import RUNS, predicted_of_ours, tables
from hlo import Module, Step, launches, moved_bytes, multiplied, parse
from libraries import PARALLEL, library_call, row_of, verdict
from passes import per_pass
from peer_processes import HERE, PeerError, python_of, run_worker
from settings import SWEEPS
from targets import TARGETS, Target

from purejaxppo import HyperParams, Sweep, TrainConfig, products
from purejaxppo.sweep.memory import estimate_run
from purejaxppo.sweep.plan import Group, make_groups
from purejaxppo.sweep.program import Arguments, GroupProgram
from purejaxppo.sweep.provenance import provenance

RESULTS = HERE / "results" / "accelerator.json"
COMPILED_RUNS = {
    "h100": (300,),
    "h200": (300,),
    "tpu-v5e": (64,),
}  # all is told of the last
SETTINGS = ["cartpole", "breakout_128", "breakout_conv", "hopper"]
# What --check compiles. A GPU's compiler has refused to join the metrics of either, in turn.
_CHECKED = {"cartpole": dataclasses.replace(SWEEPS["cartpole"][0], hidden_sizes=(128,))}
_CHECKED_ON_GPU = _CHECKED | {"breakout_conv": SWEEPS["breakout_conv"][0]}
_CHECK_RUNS = 16
_LONGEST = 8  # steps of a program that are named with their time
_GROWTH = 1.1  # of an update's launches, that --check lets pass


def main() -> None:
    """Compile, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", choices=list(TARGETS), required=True)
    parser.add_argument("--settings", nargs="+", choices=list(SWEEPS), default=SETTINGS)
    parser.add_argument("--runs", type=int, nargs="+", help="numbers of runs to compile for, the one to tell of last")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of TrainConfig to change")
    parser.add_argument("--no-rejax", action="store_true", help="keep what is known of rejax")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true", help="with --check: its figures become the committed ones")
    parser.add_argument("--text", type=Path, help="a folder for the compiled programs' texts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    target = TARGETS[args.target]
    try:
        target.devices()
    except Exception as error:  # whatever a missing or a wrong plugin raises
        sys.exit(f"nothing compiles for {args.target} here: install .[{target.extra}] ({str(error).splitlines()[0]})")
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if args.check:
        sys.exit(check(args.target, found, args.out if args.write else None))
    changes = {name: ast.literal_eval(value) for name, value in (item.split("=", 1) for item in args.set)}
    for name in args.settings:
        config, hparams = SWEEPS[name]
        runs = args.runs or COMPILED_RUNS[args.target]
        config, rows = dataclasses.replace(config, **changes), found.setdefault(args.target, {})
        with ThreadPoolExecutor() as pool:  # rejax in its process beside ours, as each keeps about one core busy
            peer = None if args.no_rejax else pool.submit(rejax, config, runs[-1], args.target)
            row = measure(config, hparams, runs, target, args.text)
        if known := peer.result() if peer else rows.get(name, {}).get("rejax"):
            row["rejax"] = known
        rows[name] = {"provenance": provenance(), **row}
        print(f"{name}: compiled in {sum(row['compile_seconds'].values()):.0f} s", flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(args.target, found[args.target]))


@contextmanager
def on(target: Target) -> Iterator[None]:
    """Programs are built as on a machine that has the target."""
    is_gpu = target.backend == "gpu"
    with (
        mock.patch.object(jax, "default_backend", return_value=target.backend),
        mock.patch.object(products, "has_quick_units", return_value=is_gpu),
    ):
        yield


def runs_of(config: TrainConfig, hparams: HyperParams, num_runs: int) -> Group:
    """`num_runs` seeds of one setting."""
    return make_groups(Sweep(name="accelerator", seeds=tuple(range(num_runs)), config=config, hparams=hparams))[0]


def program_for(config: TrainConfig, hparams: HyperParams, num_runs: int, target: Target) -> GroupProgram:
    """A sweep's program of `num_runs` seeds on a described device; to be called `on` it."""
    return GroupProgram(runs_of(config, hparams, num_runs), devices=target.devices())


def described_arguments(program: GroupProgram) -> Arguments:
    """The shapes of what the program takes, on its devices."""
    shapes = jax.eval_shape(lambda: vars(program.arguments()))
    return Arguments(**program._on_devices(shapes))


def measure(
    config: TrainConfig, hparams: HyperParams, runs: list[int], target: Target, folder: Path | None
) -> dict[str, Any]:
    """Everything that is told of one setting: a row of the results."""
    memory, seconds = {}, {}
    with on(target):
        for num_runs in runs:
            program = program_for(config, hparams, num_runs, target)
            arguments = described_arguments(program)
            begin = time.perf_counter()
            program.compile(arguments)
            seconds["segment and plasticity"] = time.perf_counter() - begin
            memory[num_runs] = program.needed_memory
        compiled = dict(program._compiled)
        bare = program_for(dataclasses.replace(config, diagnostics=False), hparams, runs[-1], target)
        lowered = {"bare": (bare, "segment"), "init": (program, "init"), "tasks": (program, "tasks")}
        for name, (owner, kind) in lowered.items():
            begin = time.perf_counter()
            compiled[name] = owner.lower(kind, described_arguments(owner)).compile()
            seconds[name] = time.perf_counter() - begin
        estimated = {n: n * estimate_run(runs_of(config, hparams, n)) for n in sorted({*RUNS, *runs})}
    programs, modules = {}, {}
    for name, executable in compiled.items():
        text = executable.as_text()
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.txt").write_text(text)
        modules[name] = parse(text)
        programs[name] = account(modules[name], runs[-1], target)
    return {
        "config": dataclasses.asdict(config),
        "runs": runs[-1],
        "compile_seconds": seconds,
        "memory": {str(num_runs): size for num_runs, size in memory.items()},
        "estimated": {str(num_runs): size for num_runs, size in estimated.items()},
        "programs": programs,
        "launches": launches_of_ours(modules["bare"], programs, config),
        "predicted": predicted_of_ours(programs, config),
    }


def account(module: Module, num_runs: int, target: Target) -> dict[str, Any]:
    """What one call of a program does on the target."""
    steps = module.steps()
    seconds: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    moved = 0
    taken = []
    for step in steps:
        own = target.seconds(module, step, num_runs)
        seconds.update(own)
        taken.append((sum(own.values()), step))
        if step.instruction.is_launch:
            moved += step.times * moved_bytes(module, step.instruction)
            for dtype, count in multiplied(module, step.instruction):
                operations[dtype] += step.times * count
    unknown = [step for step in steps if step.instruction.opcode == "while" and module.trips(step.instruction) is None]
    return {
        "launches": launches(steps),
        "conditions": sum(step.times for step in steps if step.instruction.opcode == "conditional"),
        "loops_of_unknown_length": [" in ".join(module.functions(step.instruction)[:2]) for step in unknown],
        "bytes": moved,
        "operations": dict(operations),
        "library_calls": list(library_calls(module, steps, num_runs, target)),
        "seconds": sum(seconds.values()),
        "seconds_by": dict(seconds),
        "longest": [longest(module, *item) for item in sorted(taken, key=lambda item: -item[0])[:_LONGEST]],
    }


def longest(module: Module, seconds: float, step: Step) -> dict[str, Any]:
    """One of the steps that are predicted to take longest."""
    instruction = step.instruction
    return {
        "seconds": seconds,
        "times": step.times,
        "of": " in ".join(module.functions(instruction)[:2]),
        "name": instruction.name,
        "results": [f"{array.dtype}{list(array.sizes)}" for array in instruction.results[:4]],
    }


def library_calls(module: Module, steps: list[Step], num_runs: int, target: Target) -> Iterator[dict[str, Any]]:
    """Library calls of a program, with how many matrices each gets, and whether it is one call for all of them."""
    for step in steps:
        if call := library_call(module, step.instruction):
            row = row_of(call)
            yield {
                "target": call.target,
                "of": " in ".join(module.functions(step.instruction)[:2]),
                "times": step.times,
                "matrices": call.matrices,
                "rows": call.rows,
                "columns": call.columns,
                "dtype": call.dtype,
                "verdict": verdict(call, num_runs, target.backend, is_in_loop=bool(step.loops)),
                "batched_where": row.rule if row else "",
                "source": row.source if row else "",
            }


def check(name: str, found: dict[str, Any], out: Path | None) -> str | None:
    """Compile small segments, compare them with committed figures, say what is wrong if anything is.

    Wrong are a library call made matrix by matrix, launches of an update more than a tenth above the committed ones,
    and on a GPU a loop of unknown length. With `out` their figures become the committed ones.
    """
    target, committed = TARGETS[name], found.setdefault("check", {}).setdefault(name, {})
    wrong = []
    for setting, config in (_CHECKED_ON_GPU if target.backend == "gpu" else _CHECKED).items():
        with on(target):
            program = program_for(config, HyperParams(), _CHECK_RUNS, target)
            compiled = program.lower("segment", described_arguments(program)).compile()
        module = parse(compiled.as_text())
        now = per_pass(module, config.num_steps, config.num_epochs * config.num_minibatches)
        program_now = account(module, _CHECK_RUNS, target)
        figures = committed.setdefault(setting, {})
        known = figures.get(jax.__version__) or next(reversed(figures.values()), None)
        launched = f"launches {now}, in a segment {program_now['launches']}"
        print(f"{name}, {setting}, {_CHECK_RUNS} runs: {launched}; committed: {known}", flush=True)
        if not known:
            print("no figures are committed: launches are not compared")
        wrong += [f"{setting}: {what}" for what in faults(now, known, program_now, target)]
        figures[jax.__version__] = now
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    return f"{name}: " + "; ".join(wrong) if wrong else None


def faults(now: dict[str, float], known: dict[str, float] | None, program: dict[str, Any], target: Target) -> list[str]:
    """What `check` does not let pass."""
    wrong = worse(now, known) if known else []
    wrong += [
        f"{call['target']} of {call['matrices']} matrices, of {call['of']}, is {call['verdict']}"
        for call in program["library_calls"]
        if call["verdict"] not in PARALLEL
    ]
    if target.backend == "gpu":
        wrong += [f"the loop of {loop} is of unknown length" for loop in program["loops_of_unknown_length"]]
    return wrong


def worse(now: dict[str, float], known: dict[str, float]) -> list[str]:
    """What of an update's launches grew by more than a tenth."""
    return [
        f"an update launches {now['update']:.0f} operations, before {known['update']:.0f}"
        for _ in range(now["update"] > _GROWTH * known["update"])
    ]


def launches_of_ours(bare: Module, programs: dict[str, Any], config: TrainConfig) -> dict[str, float]:
    """Launches by what they are for; those of a log point are what diagnostics add to its segment."""
    return per_pass(bare, config.num_steps, config.num_epochs * config.num_minibatches) | {
        "log_point": programs["segment"]["launches"] - programs["bare"]["launches"],
        "plasticity_point": programs["plasticity"]["launches"] if "plasticity" in programs else 0,
        "conditions_an_update": programs["bare"]["conditions"] / config.updates_per_log,
    }


def rejax(settings: TrainConfig, num_runs: int, target: str) -> dict[str, Any]:
    """The same of rejax at the same sizes, or why not."""
    config = dataclasses.asdict(settings)
    names = ("env", "num_envs", "num_steps", "num_epochs", "hidden_sizes", "torso", "activation", "brax_backend")
    batch = config["num_envs"] * config["num_steps"]
    minibatches = batch // config["minibatch_size"]
    setting = {name: config[name] for name in names} | {"num_minibatches": minibatches, "runs": num_runs}
    with tempfile.NamedTemporaryFile(suffix=".txt") as text:
        try:
            python = python_of(f"rejax_{TARGETS[target].extra}")
            answer = run_worker(python, "rejax_compile.py", setting | {"target": target, "text": text.name})
        except PeerError as error:
            return {"stopped": str(error)}
        module = parse(Path(text.name).read_text())
    found = account(module, num_runs, TARGETS[target])
    updates = answer.pop("updates")
    num_updates = -(-config["total_steps"] // batch)
    return {
        **answer,
        "launches": per_pass(module, config["num_steps"], config["num_epochs"] * minibatches),
        "predicted": {
            "update": found["seconds"] / updates,
            "update_by": {name: value / updates for name, value in found["seconds_by"].items()},
            "sweep": found["seconds"] / updates * num_updates,
        },
        "program": found,
    }


if __name__ == "__main__":
    main()
