"""The command line: `purejaxppo train | sweep | plot | summary | envs | metrics`. The only file that imports tyro.

Nothing here imports JAX before a command that needs it has been chosen and its input checked.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.presets import preset
from purejaxppo.sweep.plan import Sweep, describe, make_groups, parse_seeds

Flat = tyro.conf.OmitArgPrefixes


def train(
    config: Annotated[TrainConfig, Flat],
    hparams: Annotated[HyperParams, Flat],
    seeds: int = 1,
    preset: str | None = None,
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Train one configuration with several seeds, in one compiled program.

    Args:
        config: What is static: environment, sizes, networks.
        hparams: What is traced: learning rate, coefficients.
        seeds: Number of runs, with seeds 0, 1, ...
        preset: Start from the settings of the paper: paper_atari or paper_mujoco.
        out: New directory for the results; runs/train by default.
        dry_run: Print the plan and stop.
    """
    del preset  # has chosen the defaults of config and hparams already, see `main`
    _run(Sweep(name="train", seeds=parse_seeds(seeds), config=config, hparams=hparams), out, dry_run)


def sweep(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Run a sweep file: every point with every seed, one compiled program per static configuration.

    Args:
        file: The sweep, a TOML file.
        out: New directory for the results; runs/NAME by default.
        dry_run: Print the plan and stop.
    """
    _run(Sweep.from_toml(file), out, dry_run)


def plot(directory: Annotated[Path, tyro.conf.Positional]) -> None:
    """Draw the overview figure of a sweep's directory, finished or still running.

    Args:
        directory: Directory of a sweep.
    """
    from purejaxppo.sweep.store import load_results

    print(f"Figure: {_draw(load_results(directory), directory)}")


def summary(directory: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print the summary table of a sweep's directory: IQM over seeds with 95 % bootstrap intervals.

    Args:
        directory: Directory of a sweep.
    """
    from purejaxppo.sweep.store import load_results

    print(_tabulate(load_results(directory), directory))


def envs() -> None:
    """List the environments."""
    from purejaxppo.envs import list_environments

    print("\n".join(list_environments()))


def metrics() -> None:
    """List every metric with its unit and definition."""
    from purejaxppo.diagnostics.registry import METRICS

    for metric in METRICS.values():
        unit = f" [{metric.units}]" if metric.units else ""
        print(f"{metric.name}{unit}: {metric.definition}")


COMMANDS = {"train": train, "sweep": sweep, "plot": plot, "summary": summary, "envs": envs, "metrics": metrics}


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            _with_preset(COMMANDS, sys.argv[1:]),
            prog="purejaxppo",
            description="PPO with representation diagnostics: whole sweeps in one compiled program.",
        )
    except ConfigError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_preset(commands: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The commands, with `train`'s defaults taken from the preset that the arguments name, if any."""
    names = [b for a, b in itertools.pairwise(arguments) if a == "--preset"]
    names += [a.removeprefix("--preset=") for a in arguments if a.startswith("--preset=")]
    config, hparams = preset(names[-1]) if names else (TrainConfig(), HyperParams())

    def train_with_defaults(
        config: Annotated[TrainConfig, Flat] = config,
        hparams: Annotated[HyperParams, Flat] = hparams,
        seeds: int = 1,
        preset: str | None = None,
        out: Path | None = None,
        dry_run: bool = False,
    ) -> None:
        train(config, hparams, seeds, preset, out, dry_run)

    train_with_defaults.__doc__ = train.__doc__
    return commands | {"train": train_with_defaults}


def _run(sweep: Sweep, out: Path | None, is_dry_run: bool) -> None:
    groups = make_groups(sweep)
    if is_dry_run:
        print(describe(sweep, groups))
        return
    out = Path("runs", sweep.name) if out is None else out
    from purejaxppo.sweep.engine import run_sweep, use_cpu_cores

    use_cpu_cores()
    dataset = run_sweep(sweep, out)
    print(_tabulate(dataset, out))
    print(f"Figure: {_draw(dataset, out)}\nDataset: {out / 'results.nc'}")


def _tabulate(dataset: Any, directory: Path) -> str:
    from purejaxppo.analysis.summary import format_table, summary_table

    table = summary_table(dataset)
    table.to_csv(directory / "summary.csv")
    return format_table(table)


def _draw(dataset: Any, directory: Path) -> Path:
    from purejaxppo.analysis.plotting import overview, save_figure

    path = directory / "overview.png"
    save_figure(overview(dataset), path)
    return path


if __name__ == "__main__":
    main()
