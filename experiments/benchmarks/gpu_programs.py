"""Compiled programs of sweeps, timed: rates, a whole sweep, diagnostics, deterministic kernels, a profile.

Pieces of gpu.py, which writes the rows that they yield.
"""

from __future__ import annotations

import dataclasses
import gc
import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hlo
import jax
import numpy as np
from jax.profiler import ProfileData, ProfileOptions
from settings import SWEEPS

from purejaxppo import HyperParams, Sweep, TrainConfig, run_sweep
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import make_groups
from purejaxppo.sweep.program import GroupProgram

RUNS = {"cartpole": (1, 16, 256, 2048), "hopper": (64, 1024)}
OTHER_RUNS = (1, 16, 64, 256, 1024)
LONGEST_SEGMENT = 60.0  # seconds; a program whose first segment takes longer is timed once
ENOUGH = 3.0  # seconds of timed segments
PUBLISHED_SECONDS_A_RUN = 0.2  # rejax, 300 runs x 1M steps of Breakout on an A100
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # what `purejaxppo sweep --deterministic` adds to XLA_FLAGS

Specification = tuple[TrainConfig, HyperParams, int]
"""What a program is of, and of how many runs."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure. `budget` seconds after `start` a piece begins nothing more; `updates` are those of a segment."""

    out: Path
    is_tiny: bool = False
    budget: float = 300.0
    runs: tuple[int, ...] | None = None
    updates: int | None = None
    start: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.perf_counter() - self.start)

    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.left() <= 0


def setting(name: str, options: Options) -> tuple[TrainConfig, HyperParams]:
    """Configuration and hyper-parameters of a setting, small with --tiny, with the updates a segment of --updates."""
    config, hparams = SWEEPS[name]
    if options.is_tiny:
        sizes = {"num_envs": 2, "num_steps": 8, "minibatch_size": 8, "hidden_sizes": (8,), "num_epochs": 2}
        config = dataclasses.replace(config, **sizes, total_steps=64, num_log_points=2)
    if options.updates:
        total_steps = config.num_log_points * options.updates * config.batch_size
        config = dataclasses.replace(config, total_steps=total_steps)
    return config, hparams


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device refused for lack of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


class Program:
    """A compiled sweep of `num_runs` seeds as `run_sweep` computes it; its segments are timed one by one.

    Nothing of it runs before `start`, so that others can be timed while it is compiled.
    """

    def __init__(self, config: TrainConfig, hparams: HyperParams, num_runs: int):
        self.config, self.num_runs = config, num_runs
        sweep = Sweep(name="gpu", seeds=tuple(range(num_runs)), config=config, hparams=hparams)
        self.program = GroupProgram(make_groups(sweep)[0])
        self.runs = self.program.arguments()
        begin = time.perf_counter()
        self.program.compile(self.runs)
        self.compile_seconds = time.perf_counter() - begin

    def compile_small(self) -> float:
        """Seconds to compile what computes initial states and tasks; `start` finds it in JAX's cache on disk."""
        begin = time.perf_counter()
        for name in ("init", "tasks") if self.config.measures_plasticity else ("init",):
            self.program.lower(name, self.runs).compile()
        return time.perf_counter() - begin

    def start(self) -> Program:
        """Initial states and plasticity tasks on the device."""
        begin = time.perf_counter()
        self.state = jax.block_until_ready(self.program.init(self.runs))
        self.tasks = jax.block_until_ready(self.program.tasks(self.runs)) if self.config.measures_plasticity else None
        self.init_seconds = time.perf_counter() - begin
        return self

    def segment(self, is_plasticity_point: bool = False) -> float:
        """Seconds to the next log point, with the measurement of the plasticity loss where it is one of those."""
        begin = time.perf_counter()
        self.state, metrics = self.program.segment(self.runs, self.state)
        if is_plasticity_point:
            assert self.tasks is not None
            metrics = metrics.joined(self.program.plasticity(self.runs, self.state, self.tasks))
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - begin

    def train(self) -> tuple[float, dict[str, list[float]]]:
        """Seconds of a whole run from its start, measurements of the plasticity loss included; nothing is written.

        And of its segments, plain ones and those with such a measurement.
        """
        begin = time.perf_counter()
        self.state = self.program.init(self.runs)
        seconds: dict[str, list[float]] = {"plain": [], "plasticity": []}
        for log_point in range(1, self.config.num_logs + 1):
            is_measured = self.config.is_plasticity_point(log_point)
            seconds["plasticity" if is_measured else "plain"].append(self.segment(is_measured))
        return time.perf_counter() - begin, seconds

    def operations(self) -> dict[str, int]:
        """Operations in the compiled segment; on a CPU its loop over epochs is one of unknown length."""
        return hlo.counts(self.program._compiled["segment"].as_text(), self.config.num_epochs)

    def checksum(self) -> str:
        """Short hash of the bits of all runs' parameters."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(self.state.params):
            found.update(np.asarray(leaf).tobytes())
        return found.hexdigest()[:16]

    @property
    def plasticity_share(self) -> float:
        """Share of a run's log points that measure the plasticity loss."""
        return statistics.mean(self.config.is_plasticity_point(log) for log in range(1, self.config.num_logs + 1))


def of_rates(name: str, options: Options) -> list[Specification]:
    """A setting with more and more runs."""
    all_runs = options.runs or ((1, 2) if options.is_tiny else RUNS.get(name, OTHER_RUNS))
    return [(*setting(name, options), num_runs) for num_runs in all_runs]


def rates(name: str, options: Options) -> Iterator[dict[str, Any]]:
    """Environment steps a second, memory and operations, for more and more runs."""
    specifications = of_rates(name, options)
    last, growth = None, 1.0
    for (_, _, num_runs), program in zip(specifications, compiled(specifications), strict=True):
        if last and 3 * growth * last["first_segment_seconds"] > options.left():
            yield {"setting": name, "runs": num_runs, "stopped": "expected to take too long"}
            return
        try:
            row = {"setting": name, "runs": num_runs, **rate(program().start())}
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            yield {"setting": name, "runs": num_runs, "stopped": "out of memory", "message": str(error)[:500]}
            return
        yield row
        if last:
            growth = max(row["first_segment_seconds"] / last["first_segment_seconds"], 1.0)
        last = row
        gc.collect()


def compiled(programs: Sequence[Specification]) -> list[Callable[[], Program]]:
    """Programs, compiled side by side before any is timed; each raises when called for what its compilation raised."""
    with ThreadPoolExecutor(len(programs)) as pool:
        futures = [pool.submit(Program, *program) for program in programs]
        wait(futures)
    return [future.result for future in futures]


def compilations(programs: Sequence[Specification]) -> Iterator[dict[str, Any]]:
    """Compile what a piece runs, and run nothing: seconds of each, side by side, and what it needs."""
    for (config, _, num_runs), program in zip(programs, compiled(programs), strict=True):
        made = program()
        yield {
            "env": config.env,
            "runs": num_runs,
            "diagnostics": config.diagnostics,
            "precision": config.matmul_precision,
            "compile_seconds": made.compile_seconds,
            "small_seconds": made.compile_small(),
            "gib": made.program.needed_memory / 2**30,
        }


def rate(program: Program) -> dict[str, Any]:
    """What one program does: steps a second over a whole run (its share of plasticity points included), and more."""
    config = program.config
    first = program.segment()
    checksum = program.checksum()
    seconds: dict[str, list[float]] = {"plain": [], "plasticity": []}
    if config.measures_plasticity:
        program.segment(True)  # warms up, as the first one does
    while not seconds["plain"] or (first < LONGEST_SEGMENT and sum(map(sum, seconds.values())) < ENOUGH):
        seconds["plain"].append(program.segment(False))
        seconds["plasticity"].append(program.segment(config.measures_plasticity))
    plain, plasticity = (statistics.median(times) for times in seconds.values())
    share = program.plasticity_share
    mean = (1 - share) * plain + share * plasticity
    operations = program.operations()
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        "steps_per_second": program.num_runs * config.steps_per_log / mean,
        "ms_per_update": 1e3 * mean / config.updates_per_log,
        "compile_seconds": program.compile_seconds,
        "mib_per_run": program.program.needed_memory / program.num_runs / 2**20,
        "peak_mib": memory.get("peak_bytes_in_use", 0) / 2**20,
        "launches_per_update": operations["launches"] / config.updates_per_log,
        **{name: operations[name] for name in ("fusions", "custom_calls", "while_loops", "loops_of_unknown_length")},
        "updates_per_log": config.updates_per_log,
        "first_segment_seconds": first,
        "init_seconds": program.init_seconds,
        "checksum": checksum,
        "seconds": seconds,
        "memory_stats": memory,
        "config": dataclasses.asdict(config),
    }


def of_breakout_300(options: Options) -> dict[str, Specification]:
    """300 runs with diagnostics, without, and both with quick products (TF32)."""
    config, hparams = setting("breakout", options)
    variants = {
        "diagnostics": config,
        "bare": dataclasses.replace(config, diagnostics=False),
        "diagnostics, default precision": dataclasses.replace(config, matmul_precision="default"),
        "bare, default precision": dataclasses.replace(config, diagnostics=False, matmul_precision="default"),
    }
    return {variant: (config, hparams, 2 if options.is_tiny else 300) for variant, config in variants.items()}


def breakout_300(options: Options) -> Iterator[dict[str, Any]]:
    """Seconds of a whole sweep of 300 runs x 1M steps with all diagnostics, files included, and what is compiled."""
    config, hparams, num_runs = of_breakout_300(options)["diagnostics"]
    sweep = Sweep(name="breakout_300", seeds=tuple(range(num_runs)), config=config, hparams=hparams)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        dataset = run_sweep(sweep, folder, is_quiet=True)
        seconds = time.perf_counter() - begin
        known = store.read_json(Path(folder) / store.PROVENANCE)
        layout = store.read_layout(Path(folder)) or []
    yield {
        "runs": num_runs,
        "seconds": seconds,
        "compile_seconds": known["seconds_compiling"],
        "seconds_per_run": seconds / num_runs,
        "published": PUBLISHED_SECONDS_A_RUN,
        "steps_per_second": num_runs * config.num_updates * config.batch_size / seconds,
        "runs_at_once": max(chunk.width for chunk in layout),
        "final_return": float(dataset["return_mean"].isel(log=-1).mean()),
        "config": dataclasses.asdict(config),
    }


def breakout_300_training(options: Options) -> Iterator[dict[str, Any]]:
    """Seconds of the training of those 300 runs alone: with diagnostics, without, and with quick products (TF32)."""
    specifications = of_breakout_300(options)
    programs = compiled(list(specifications.values()))
    for (variant, (config, _, num_runs)), program in zip(specifications.items(), programs, strict=True):
        if options.is_over():
            yield {"variant": variant, "stopped": "time is up"}
            return
        made = program().start()
        made.segment()
        total, seconds = made.train()
        yield {
            "variant": variant,
            "runs": num_runs,
            "total_seconds": total,
            "compile_seconds": made.compile_seconds,
            "steps_per_second": num_runs * config.num_updates * config.batch_size / total,
            "gib": made.program.needed_memory / 2**30,
            "seconds": seconds,
            "config": dataclasses.asdict(config),
        }


def diagnostics(options: Options) -> Iterator[dict[str, Any]]:
    """Seconds of a segment bare, with diagnostics and with a plasticity measurement, in turn; and what they add."""
    num_runs = 2 if options.is_tiny else 64
    for name in ("cartpole",) if options.is_tiny else ("breakout_conv", "breakout", "cartpole"):
        if options.is_over():
            yield {"setting": name, "stopped": "time is up"}
            return
        config, hparams = setting(name, options)
        bare = Program(dataclasses.replace(config, diagnostics=False), hparams, num_runs).start()
        full = Program(config, hparams, num_runs).start()
        turns = {"bare": (bare, False), "diagnostics": (full, False), "plasticity": (full, True)}
        seconds: dict[str, list[float]] = {variant: [] for variant in turns}
        while sum(map(sum, seconds.values())) < 5 * ENOUGH or len(seconds["bare"]) < 3:
            for variant, (program, is_plasticity_point) in turns.items():
                seconds[variant].append(program.segment(is_plasticity_point))
            if options.is_tiny and len(seconds["bare"]) == 3:
                break
        median = {variant: statistics.median(times[1:]) for variant, times in seconds.items()}
        yield {
            "setting": name,
            "runs": num_runs,
            "updates_per_log": config.updates_per_log,
            **{f"{variant}_seconds": value for variant, value in median.items()},
            "cost_diagnostics": median["diagnostics"] / median["bare"] - 1,
            "cost_plasticity": full.plasticity_share * (median["plasticity"] - median["diagnostics"]) / median["bare"],
            "seconds": seconds,
        }
        del bare, full, program, turns
        gc.collect()


def deterministic(options: Options) -> Iterator[dict[str, Any]]:
    """The same rate with and without deterministic kernels, in processes; whether two equal ones end with equal bits.

    This process computes nothing before they are done: it would take the device's memory.
    """
    name, runs = ("cartpole", 1) if options.is_tiny else ("breakout_conv", 64)
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for is_asked in (False, True, True, False):
        if options.is_over():
            yield {"setting": name, "stopped": "time is up"}
            return
        row = _rate_in_a_process(name, runs, DETERMINISTIC if is_asked else "", options.is_tiny)
        found[is_asked].append(row)
        shown = ("setting", "runs", "steps_per_second", "compile_seconds", "checksum", "seconds")
        yield {"deterministic": is_asked} | {key: row[key] for key in shown}
    best = {is_asked: max(row["steps_per_second"] for row in rows) for is_asked, rows in found.items()}
    yield {
        "setting": name,
        "runs": runs,
        "cost": best[False] / best[True] - 1,
        "equal_bits_without": len({row["checksum"] for row in found[False]}) == 1,
        "equal_bits_with": len({row["checksum"] for row in found[True]}) == 1,
    }


def _rate_in_a_process(name: str, runs: int, flag: str, is_tiny: bool) -> dict[str, Any]:
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
    script = Path(__file__).with_name("gpu.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), f"rates_{name}", "--runs", str(runs), "--out", folder]
        command += ["--tiny"] if is_tiny else ["--updates", "10"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} with {flag!r} failed:\n{done.stderr[-2000:]}")
        row = json.loads((Path(folder) / f"gpu_rates_{name}.json").read_text())["rows"][0]
    if "stopped" in row:
        raise RuntimeError(f"{' '.join(command)} with {flag!r}: {row['stopped']}")
    return row


def of_profile(options: Options) -> tuple[str, Specification]:
    """The setting that is traced, with two updates a segment."""
    name, runs = ("cartpole", 1) if options.is_tiny else ("breakout", 300)
    return name, (*setting(name, dataclasses.replace(options, updates=options.updates or 2)), runs)


def profile(options: Options) -> Iterator[dict[str, Any]]:
    """A trace of one segment of two updates into OUT/profile, and the ten operations that took most of its time."""
    name, (config, hparams, runs) = of_profile(options)
    program = Program(config, hparams, runs).start()
    program.segment()
    trace_options = ProfileOptions()
    trace_options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=trace_options):
            wall = program.segment()
        kept = _keep_trace(Path(folder), options.out / "profile")
    calls, seconds = device_time(ProfileData.from_serialized_xspace(gzip.decompress(kept.read_bytes())))
    busy = sum(seconds.values())
    yield {
        "setting": name,
        "runs": runs,
        "updates": config.updates_per_log,
        "launched_per_update": sum(calls.values()) / config.updates_per_log,
        "counted_per_update": program.operations()["launches"] / config.updates_per_log,
        "segment_seconds": wall,
        "device_seconds": busy,
    }
    for kernel, taken in seconds.most_common(10):
        yield {"share": taken / busy, "ms": 1e3 * taken, "calls": calls[kernel], "kernel": kernel[:200]}


def _keep_trace(source: Path, target: Path) -> Path:
    """Move a trace's files out of their nested folders and the machine's name; returns the one with all events."""
    target.mkdir(parents=True, exist_ok=True)
    kept = target / "xplane.pb.gz"
    kept.write_bytes(gzip.compress(next(source.rglob("*.xplane.pb")).read_bytes()))
    for path in source.rglob("*.trace.json.gz"):
        (target / "trace.json.gz").write_bytes(path.read_bytes())
    return kept


def device_time(trace: Any) -> tuple[Counter[str], Counter[str]]:
    """Calls and seconds by operation: what ran in a GPU's streams, or in the CPU client's threads where there is none.

    On a CPU operations contain each other, so that seconds add up to more than the time that passed.
    """
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    planes = list(trace.planes)
    gpus = [line for plane in planes if plane.name.startswith("/device:GPU") for line in plane.lines]
    cpus = [line for plane in planes if plane.name == "/host:CPU" for line in plane.lines]
    lines = [line for line in gpus if line.name.startswith("Stream")]
    for line in lines or [line for line in cpus if line.name.startswith("tf_XLA")]:
        for event in line.events:
            calls[event.name] += 1
            seconds[event.name] += event.duration_ns / 1e9
    return calls, seconds
