"""Programs of sweeps compiled for a GPU or a TPU that is not there: memory, launches, library calls, predicted time.

    python experiments/benchmarks/accelerator.py --target h100 --settings breakout cartpole
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from hlo import Module, Step, launches, parse
from settings import SETTINGS as PEER_SETTINGS
from settings import group_of
from targets import TARGETS, Target

from purejaxppo import HyperParams, Sweep, TrainConfig, preset
from purejaxppo.sweep.memory import estimate_run, needed_memory
from purejaxppo.sweep.plan import Group, make_groups
from purejaxppo.sweep.program import GroupProgram

GIB = 2**30


def setting(name: str, num_runs: int, **changes: Any) -> Group:
    changes = {"total_steps": 1_000_000, **changes}
    if name == "hopper":
        config, hparams = preset("paper_mujoco", **changes)
        return make_groups(Sweep(name=name, seeds=tuple(range(num_runs)), config=config, hparams=hparams))[0]
    return group_of(PEER_SETTINGS[name], num_runs, **changes)


@contextmanager
def on(target: Target) -> Iterator[None]:
    """Programs are built as on a machine that has the target."""
    with mock.patch.object(jax, "default_backend", lambda: target.backend):
        yield


def lowered(program: GroupProgram) -> dict[str, Any]:
    def arguments() -> tuple[Any, ...]:
        runs = program.arguments()
        return runs.hparams, runs.keys, runs.choices, runs.num_epochs

    hparams, keys, choices, epochs = jax.eval_shape(arguments)
    hparams, keys, choices = program._on_devices((hparams, keys, choices))
    state = program._on_devices(jax.eval_shape(program._init, hparams, keys, choices))
    yield "segment", program._segment.lower(hparams, state, epochs)
    if program.group.config.measures_plasticity:
        tasks = program._on_devices(jax.eval_shape(program._tasks, keys, choices))
        yield "plasticity", program._plasticity.lower(hparams, state, tasks)
    yield "init", program._init.lower(hparams, keys, choices)
    if program.group.config.measures_plasticity:
        yield "tasks", program._tasks.lower(keys, choices)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", choices=list(TARGETS), required=True)
    parser.add_argument("--settings", nargs="+", default=["cartpole", "breakout"])
    parser.add_argument("--runs", type=int, nargs="+", default=[300])
    parser.add_argument("--programs", nargs="+", default=["segment"])
    parser.add_argument("--text", type=Path, help="folder to write the compiled programs' texts to")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", dest="changes")
    args = parser.parse_args()
    import ast

    changes = {k: ast.literal_eval(v) for k, v in (x.split("=", 1) for x in args.changes)}
    target = TARGETS[args.target]
    for name in args.settings:
        for num_runs in args.runs:
            with on(target):
                program = GroupProgram(setting(name, num_runs, **changes), devices=target.devices())
                for kind, low in lowered(program):
                    if kind not in args.programs:
                        continue
                    begin = time.perf_counter()
                    compiled = low.compile()
                    seconds = time.perf_counter() - begin
                    text = compiled.as_text()
                    if args.text:
                        args.text.mkdir(parents=True, exist_ok=True)
                        (args.text / f"{args.target}_{name}_{num_runs}_{kind}.txt").write_text(text)
                    report(name, kind, num_runs, program.group, compiled, text, seconds)


def report(name: str, kind: str, num_runs: int, group: Group, compiled: Any, text: str, seconds: float) -> None:
    module = parse(text)
    steps = module.steps()
    memory = compiled.memory_analysis()
    print(f"\n== {name}, {num_runs} runs, {kind}: compiled in {seconds:.0f} s")
    total = needed_memory(compiled, 1)
    print(
        f"memory {total / GIB:.2f} GiB: arguments {memory.argument_size_in_bytes / GIB:.3f}, temporaries"
        f" {memory.temp_size_in_bytes / GIB:.2f}; {total / num_runs / 2**20:.2f} MiB a run, memory.py estimates"
        f" {estimate_run(group) / 2**20:.2f}"
    )
    print(f"launches {launches(steps):,}, in the program's text {sum(s.instruction.is_launch for s in steps)}")
    show(module, steps, ())
    for step in steps:
        i = step.instruction
        if i.target and i.is_launch:
            print(f"library call {i.target} x {step.times}: {i.results[0].dtype}{list(i.results[0].sizes)}, in {module.function(i)}")


def show(module: Module, steps: list[Step], path: tuple, indent: int = 1) -> None:
    """The tree of loops, each with what one pass launches."""
    for step in steps:
        i = step.instruction
        if step.loops == path and i.opcode == "conditional":
            sizes = [launches(list(module._steps(x, 1, (), 1))) for x in i.branches]
            print(f"{'  ' * indent}condition in {module.function(i)}: branches launch {sizes}; the host looks at its predicate")
        if step.loops == path and i.opcode == "while":
            body = list(module._steps(i.called("body")[0], 1, (), 1))
            own = sum(s.instruction.is_launch for s in body if not s.loops)
            kinds = Counter(s.instruction.opcode for s in body if not s.loops and s.instruction.is_launch)
            print(
                f"{'  ' * indent}loop in {module.function(i)}: {i.trips or 'UNKNOWN'} passes, each launches {launches(body)}"
                f" ({own} itself: {dict(kinds)})"
            )
            show(module, body, (), indent + 1)


if __name__ == "__main__":
    main()
