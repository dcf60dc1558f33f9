"""Commands that play with trained policies: evaluate, rediagnose, render."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from purejaxppo import own
from purejaxppo.commands.arguments import Directory
from purejaxppo.commands.output import place, print_and_keep, save_parts


def evaluate(
    directory: Directory,
    episodes: int = 32,
    seed: int = 0,
    deterministic: bool = False,
    snapshots: bool = False,
    format: str = "text",
    out: Path | None = None,
) -> None:
    """Play fresh episodes with the final policy of every run; raw returns with 95 % intervals.

    Args:
        directory: Directory of a finished sweep.
        episodes: Episodes of each policy.
        seed: Seed of the episodes; they are never those of training.
        deterministic: Take the most likely action instead of a sample.
        snapshots: Play with the policies kept along training (num_snapshots), and draw their returns.
        format: text, markdown or latex.
        out: CSV file to write; DIR/evaluation.csv or DIR/evaluation_snapshots.csv by default.
    """
    from purejaxppo.evaluate import along_training, evaluate, format_evaluation
    from purejaxppo.statistics.tables import check_format
    from purejaxppo.sweep.devices import check_platform, use_cache

    check_format(format)
    use_cache()
    check_platform()
    table = evaluate(directory, episodes=episodes, seed=seed, is_deterministic=deterministic, snapshots=snapshots)
    path = place(out, (directory,), f"evaluation{'_snapshots' * snapshots}.csv")
    print_and_keep(format_evaluation(table, format), table, path)
    if not snapshots:
        return
    from purejaxppo.plots.curves import curves

    def draw(part: Any) -> Any:
        return curves(part, ["evaluation_return_mean"])

    stem = path.with_suffix("").name
    print(save_parts(along_training(directory, table), (directory,), stem, draw, path.with_suffix(".png"), True))


def rediagnose(
    directory: Directory,
    runs: tuple[int, ...] = (),
    snapshots: tuple[int, ...] = (),
    diagnostics: tuple[str, ...] = (),
    format: str = "text",
    out: Path | None = None,
) -> None:
    """Compute the diagnostics of the networks kept along training (num_snapshots) anew, and write them as a table.

    Args:
        directory: Directory of a sweep, finished or still running.
        runs: Numbers of runs, as in the dataset's run_index; all by default.
        snapshots: Numbers of snapshots, 0 of the initial networks; all by default.
        diagnostics: Your own, module:name, computed beside ours; modules may be in the working directory.
        format: text, markdown or latex.
        out: CSV file to write; DIR/rediagnosed.csv by default.
    """
    from purejaxppo.rediagnosis import rediagnose
    from purejaxppo.statistics.tables import FORMATS, check_format, format_number
    from purejaxppo.sweep.devices import check_platform, use_cache

    check_format(format)
    use_cache()
    check_platform()
    own.look_in(os.getcwd())
    table = rediagnose(directory, runs=runs or None, snapshots=snapshots or None, diagnostics=diagnostics)
    columns = {name: table[name].map(str) for name in ("run", "snapshot", "env_steps")}
    columns |= {
        name: table[name].map(format_number) for name in ("policy_rank", "policy_dead_neurons") if name in table
    }
    text = FORMATS[format](list(columns), list(zip(*columns.values(), strict=True)))
    print_and_keep(text, table, place(out, (directory,), "rediagnosed.csv"))


def render(
    directory: Directory,
    run: int,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["--path"])] = None,
    seed: int = 0,
    max_steps: int = 500,
) -> None:
    """Draw one episode of a run's final policy: a GIF for gymnax, HTML for brax.

    Args:
        directory: Directory of a finished sweep.
        run: Number of the run, as in the dataset's run_index.
        out: File to write; DIR/run_K.gif or .html by default.
        seed: Seed of the episode.
        max_steps: Longest episode drawn.
    """
    from purejaxppo.render import render
    from purejaxppo.sweep.devices import check_platform, use_cache

    use_cache()
    check_platform()
    path = render(directory, run, out, seed=seed, max_steps=max_steps)
    note = " (to show it, a browser fetches brax's viewer from the network)" if path.suffix == ".html" else ""
    print(f"Episode: {path}{note}")
