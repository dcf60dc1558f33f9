"""Commands that compute sweeps: train, sweep, resume, extend."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from pathlib import Path
from typing import Annotated

from purejaxppo import own
from purejaxppo.commands.arguments import Directory, Flat, Imports, Options
from purejaxppo.commands.output import save_figures, tabulate
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.sweep.plan import Sweep, check_effects, describe, import_modules, make_groups, parse_seeds

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def train(
    config: Annotated[TrainConfig, Flat],
    hparams: Annotated[HyperParams, Flat],
    seeds: int = 1,
    preset: str | None = None,
    out: Path | None = None,
    plan_only: bool = False,
    dry_run: bool = False,
    imports: Imports = (),
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Train one configuration with several seeds, in one compiled program.

    Args:
        config: What is static: environment, sizes, networks.
        hparams: What is traced: learning rate, coefficients.
        seeds: Number of runs, with seeds 0, 1, ...
        preset: Start from the settings of the paper, paper_atari or paper_mujoco, or of others: cleanrl_continuous,
            purejaxrl_minatar or brax_ant.
        out: Directory for the results, new or holding this very sweep; runs/train by default.
        plan_only: Print the plan and stop; nothing is compiled.
        dry_run: Print the plan, compile, time single updates, print memory, time and what takes it, and stop.
        imports: Modules of your own to import first, such as lab.setup, which registers environments.
        options: How to compute.
    """
    own.before_first_import.append(lambda: _prepare(options))
    folder = os.getcwd()
    named = {"imports": import_modules(list(imports), folder), "folder": folder}
    sweep = Sweep(name="train", seeds=parse_seeds(seeds), config=config, hparams=hparams, **named)
    make_groups(sweep)
    # The preset has chosen the defaults of config and hparams already, see `main`.
    check_effects(sweep, presets=() if preset is None else (preset,))
    _run(sweep, out, options, plan_only, dry_run)


def sweep(
    file: Directory,
    out: Path | None = None,
    plan_only: bool = False,
    dry_run: bool = False,
    imports: Imports = (),
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Run a sweep file: every point with every seed, one compiled program per static configuration.

    Args:
        file: The sweep, a TOML file.
        out: Directory for the results, new or holding this very sweep (it goes on then); runs/NAME by default.
        plan_only: Print the plan and stop; nothing is compiled.
        dry_run: Print the plan, compile, time single updates, print memory, time and what takes it, and stop.
        imports: Modules of your own to import first, found beside the file too; `import` in the file says the same.
        options: How to compute.
    """
    own.before_first_import.append(lambda: _prepare(options))
    _run(Sweep.from_toml(file, imports=imports), out, options, plan_only, dry_run)


def resume(
    directory: Directory,
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Continue a sweep that was stopped or killed, from its last checkpoint, to the same bits.

    Args:
        directory: Directory of the sweep.
        options: How to compute.
    """
    from purejaxppo.sweep.store import BEGUN, EXTENSION, is_extending, is_started, read_sweep

    options = _as_begun(directory, options)
    own.before_first_import.append(lambda: _prepare(options))
    if is_extending(directory):
        folder = directory / EXTENSION
        _run(read_sweep(folder if is_started(folder) else directory), directory, options, is_extended=True)
    elif os.path.isdir(directory / BEGUN):
        raise ConfigError(
            f"directory {directory} was to be extended, which was stopped before anything was computed; extend it "
            f"again, or delete {directory / BEGUN}."
        )
    else:
        _run(read_sweep(directory), directory, options)


def extend(
    directory: Directory,
    seeds: int | None = None,
    total_steps: int | None = None,
    add: tuple[str, ...] = (),
    plan_only: bool = False,
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Compute what a finished sweep lacks: more seeds, more points, or more steps from its final states.

    Args:
        directory: Directory of a finished sweep.
        seeds: Each point is to have seeds 0 to N - 1 (and keeps those that it has).
        total_steps: Environment steps that every run is to have; alone.
        add: Values of fields, FIELD=VALUE or FIELD=VALUE,VALUE, each at all points of the other fields.
        plan_only: Print the plan of the larger sweep and what is missing of it, and stop.
        options: How to compute.
    """
    from purejaxppo.sweep.extended import parse_additions, planned, what_is_missing
    from purejaxppo.sweep.store import is_extending, read_sweep

    options = _as_begun(directory, options)
    own.before_first_import.append(lambda: _prepare(options))
    if is_extending(directory):
        raise ConfigError(
            f"directory {directory} is being extended already; finish that with: purejaxppo resume {directory}"
        )
    sweep = planned(read_sweep(directory), seeds=seeds, total_steps=total_steps, add=parse_additions(add))
    told = what_is_missing(directory, sweep)
    if plan_only:
        print(f"{describe(sweep, make_groups(sweep))}\n{told}")
        return
    print(told, file=sys.stderr)
    _run(sweep, directory, options, is_extended=True)


def _run(
    sweep: Sweep,
    out: Path | None,
    options: Options,
    is_plan_only: bool = False,
    is_dry_run: bool = False,
    *,
    is_extended: bool = False,
) -> None:
    groups = make_groups(sweep)
    out = Path("runs", sweep.name) if out is None else out
    if is_plan_only or is_dry_run:
        print(describe(sweep, groups), flush=True)
    if is_plan_only:
        return
    from purejaxppo.sweep.engine import run_sweep
    from purejaxppo.sweep.extend import grow
    from purejaxppo.sweep.interrupt import watch_signals
    from purejaxppo.sweep.memory import parse_memory

    memory = None if options.memory is None else parse_memory(options.memory)
    _prepare(options)
    own.before_first_import.clear()

    if is_dry_run:
        from purejaxppo.sweep.estimate import estimate

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        print(estimate(sweep, memory, (lambda line: None) if options.quiet else say))
        return
    watch_signals()
    dataset = (grow if is_extended else run_sweep)(
        sweep,
        out,
        memory=memory,
        is_forced=options.force,
        tensorboard=options.tensorboard,
        is_quiet=options.quiet,
        is_kept=options.keep,
    )
    if (options.process_index or 0) > 0:  # process 0 reports for all
        return
    tabulate(dataset, (out,))
    print(f"{save_figures(dataset, (out,))}\nDataset: {out / 'results.nc'}")


def _as_begun(directory: Path, options: Options) -> Options:
    """The options of a sweep that goes on: its kernels are as deterministic as those that it was begun with."""
    from purejaxppo.sweep.store import read_provenance

    known = read_provenance(directory)
    flags = (known.get("continued") or [known])[-1].get("xla_flags", "")
    return dataclasses.replace(options, deterministic=options.deterministic or _DETERMINISTIC in flags)


@functools.cache
def _prepare(options: Options) -> None:
    """What a process sets up before JAX computes anything."""
    flags = os.environ.get("XLA_FLAGS", "")
    if options.deterministic and _DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
    from purejaxppo.sweep.devices import check_platform, join_processes, use_cache, use_cpu_cores

    use_cache()
    use_cpu_cores()
    join_processes(options.coordinator, options.num_processes, options.process_index)
    check_platform()
