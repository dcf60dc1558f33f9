"""The command line, `purejaxppo --help`. The only file that imports tyro.

Nothing here imports JAX before a command that needs it has been chosen and its input checked.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

import tyro

from purejaxppo import __version__, own
from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError, RunError, Stopped
from purejaxppo.hyperparams import HyperParams
from purejaxppo.presets import preset
from purejaxppo.sweep.plan import Sweep, check_effects, describe, import_modules, make_groups, parse_seeds
from purejaxppo.sweep.terminal import guard_streams, usual_arguments

# What `purejaxppo[trainer]` brings; everything that reads results does without.
TRAINER = ("optax", "gymnax", "brax", "chex", "distrax", "tensorboardX", "PIL", "tqdm")
Flat = tyro.conf.OmitArgPrefixes
Directories = Annotated[tuple[Path, ...], tyro.conf.Positional]
Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compute; nothing here changes what is computed."""

    memory: str | None = None
    """Memory for the runs computed at once, such as 4GiB; what is free by default."""
    force: bool = False
    """Continue a sweep although versions or devices have changed."""
    tensorboard: bool = False
    """Write TensorBoard files while it runs, to DIR/tensorboard."""
    deterministic: bool = False
    """Ask a GPU for deterministic kernels; a CPU's are in any case."""
    quiet: bool = False
    """Show no progress."""
    keep: bool = True
    """Keep final states, from which `extend --total-steps` goes on."""
    coordinator: str | None = None
    """Address, host:port, of process 0 where several processes share the sweep."""
    num_processes: int | None = None
    """Number of those processes."""
    process_index: int | None = None
    """Number of this process, from 0."""


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
    del preset  # has chosen the defaults of config and hparams already, see `main`
    own.before_first_import.append(lambda: _prepare(options))
    folder = os.getcwd()
    named = {"imports": import_modules(list(imports), folder), "folder": folder}
    sweep = Sweep(name="train", seeds=parse_seeds(seeds), config=config, hparams=hparams, **named)
    make_groups(sweep)
    check_effects(sweep)
    _run(sweep, out, options, plan_only, dry_run)


def sweep(
    file: Annotated[Path, tyro.conf.Positional],
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
    directory: Annotated[Path, tyro.conf.Positional],
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Continue a sweep that was stopped or killed, from its last checkpoint, to the same bits.

    Args:
        directory: Directory of the sweep.
        options: How to compute.
    """
    from purejaxppo.sweep.store import EXTENSION, is_extending, is_started, read_sweep

    own.before_first_import.append(lambda: _prepare(options))
    if is_extending(directory):
        folder = directory / EXTENSION
        _run(read_sweep(folder if is_started(folder) else directory), directory, options, is_extended=True)
    else:
        _run(read_sweep(directory), directory, options)


def extend(
    directory: Annotated[Path, tyro.conf.Positional],
    seeds: int | None = None,
    total_steps: int | None = None,
    add: tuple[str, ...] = (),
    plan_only: bool = False,
    options: Annotated[Options, Flat] = Options(),
) -> None:
    """Compute what a finished sweep lacks: more seeds, more points, or more steps from its final states.

    Args:
        directory: Directory of a finished sweep.
        seeds: Number of seeds that each point is to have, 0, 1, ...
        total_steps: Environment steps that every run is to have; alone.
        add: Values of fields, FIELD=VALUE or FIELD=VALUE,VALUE, each at all points of the other fields.
        plan_only: Print the plan of the larger sweep and what is missing of it, and stop.
        options: How to compute.
    """
    from purejaxppo.sweep.extended import parse_additions, planned, what_is_missing
    from purejaxppo.sweep.store import is_extending, read_sweep

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


def merge(directory: Directories, out: Path) -> None:
    """Make one sweep's directory of several finished ones; what they differ in becomes an axis.

    Args:
        directory: Directories of finished sweeps, which stay as they are.
        out: Directory of the merged sweep, new or empty.
    """
    from purejaxppo.sweep.merge import merge

    dataset = merge(directory, out)
    _tabulate(dataset, (out,))
    print(f"{_draw(dataset, (out,))}\nDataset: {out / 'results.nc'}")


def plot(
    directory: Directories,
    figure: str | None = None,
    metric: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
    facet: str | None = None,
    where: tuple[str, ...] = (),
    paper: bool = False,
    out: Path | None = None,
) -> None:
    """Draw a figure of a sweep's directory, finished or still running, as PNG and PDF; one per environment.

    Args:
        directory: Directory of a sweep, or several: fields in which they differ, or else their names, are axes.
        figure: 1 to 7 for the paper's figures, overview (the default), spectrum, survival, sensitivity or factorial.
        metric: Any metrics over training (with figure sensitivity: at its end), in place of a figure of the paper.
        by: With metric: swept fields whose combinations make the lines, all by default; other runs are pooled.
        facet: With metric: a swept field with panels of its own for each value.
        where: Only runs with these values, FIELD=VALUE or FIELD=VALUE,VALUE.
        paper: For a paper: 5.5 inches wide, without title, as PDF and SVG, its caption in a text file.
        out: File to write, in place of one in the directory named after what it shows.
    """
    from purejaxppo.plots.conditions import check_options, parse_where, select
    from purejaxppo.plots.figures import check_figure
    from purejaxppo.plots.sheets import PAPER, SCREEN
    from purejaxppo.sweep.store import load_several

    check_options(figure, metric, by, facet)
    name = check_figure("overview" if figure is None else figure)
    conditions = parse_where(where)
    dataset = select(load_several(directory), conditions)
    sheet = PAPER if paper else SCREEN
    if not metric:
        print(_draw(dataset, directory, name, sheet, out))
        return
    from purejaxppo.plots.curves import curves
    from purejaxppo.plots.sensitivity import sensitivity

    def draw(part: Any) -> Any:
        if figure == "sensitivity":
            return sensitivity(part, metric, sheet=sheet)
        return curves(part, metric, by or None, facet, sheet=sheet)

    stem = "_".join(([figure] if figure else []) + [*metric])[:80]
    print(_draw_parts(dataset, directory, stem, draw, out, is_apart=facet != "env" and "env" not in by))


def summary(directory: Directories, format: str = "text", out: Path | None = None) -> None:
    """Print the summary table of a sweep's directory: IQM over seeds with 95 % intervals, and how many runs collapsed.

    Args:
        directory: Directory of a sweep, or several: fields in which they differ, or else their names, are axes.
        format: text, markdown or latex.
        out: CSV file to write; DIR/summary.csv by default.
    """
    from purejaxppo.statistics.tables import check_format
    from purejaxppo.sweep.store import load_several

    check_format(format)
    _tabulate(load_several(directory), directory, format, out)


def claims(directory: Directories, format: str = "text", out: Path | None = None) -> None:
    """Hold the paper's claims C1 to C6 against a sweep's results: supported, contradicted, or not to be told yet.

    Args:
        directory: Directory of a sweep, or several: fields in which they differ, or else their names, are axes.
        format: text, markdown or latex.
        out: CSV file to write; DIR/claims.csv by default.
    """
    from purejaxppo.claims.table import format_claims
    from purejaxppo.claims.verdicts import evaluate_claims
    from purejaxppo.statistics.tables import check_format
    from purejaxppo.sweep.store import load_several

    check_format(format)
    table = evaluate_claims(load_several(directory))
    _print_and_keep(format_claims(table, format), table, out or _folder(*directory) / "claims.csv")


def compare(
    directory: Directories,
    metric: str = "return_mean",
    lowest: bool = False,
    against: str | None = None,
    within: tuple[str, ...] = (),
    format: str = "text",
    out: Path | None = None,
) -> None:
    """Which point of a sweep is selected as the best, from what, and how far each is from another, with p-values.

    Args:
        directory: Directory of a sweep, or several: fields in which they differ, or else their names, are axes.
        metric: What to compare, at the end of the runs.
        lowest: Whether the lowest value is the best one.
        against: Point that the others are compared against, such as pfo_coef=0 (or a=1,b=2); the first by default.
        within: Fields at whose values to compare, each by itself, such as num_epochs.
        format: text, markdown or latex.
        out: CSV file to write; DIR/compare_METRIC.csv by default.
    """
    from purejaxppo.statistics.comparison import comparison_table, format_comparison
    from purejaxppo.statistics.tables import check_format
    from purejaxppo.sweep.store import load_several

    check_format(format)
    table = comparison_table(load_several(directory), metric, lowest, against, within)
    text = format_comparison(table, metric, lowest, format)
    _print_and_keep(text, table, out or _folder(*directory) / f"compare_{metric}.csv")


def report(directory: Directories, out: Path | None = None) -> None:
    """Write one self-contained HTML page about a sweep's directory.

    Args:
        directory: Directory of a sweep, finished or still running, or several.
        out: File to write; DIR/report.html by default.
    """
    from purejaxppo.report import html_report
    from purejaxppo.sweep.store import load_several, write_atomically

    page = html_report(load_several(directory)).encode()
    path = out or _folder(*directory) / "report.html"
    print(f"Report: {_write(lambda path: write_atomically(path, lambda file: file.write(page)), path)}")


def toy(out: Path = Path("figure5.png"), learning_rate: float = 0.05, steps: int = 60) -> None:
    """Draw the paper's figure 5: two states with collinear features, clipped steps on each in turn; trains nothing.

    Args:
        out: File to write, as PNG and PDF.
        learning_rate: Size of the gradient steps.
        steps: Number of gradient steps, on both states together.
    """
    from purejaxppo.plots.toy import describe_toy, toy_figure

    figure = toy_figure(learning_rate, steps)
    print(f"Last probability ratios:\n{describe_toy(learning_rate, steps)}\nFigure: {_save(figure, out)}")


def envs() -> None:
    """List the environments."""
    from purejaxppo.envs import list_environments

    print("\n".join(list_environments()))


def metrics() -> None:
    """List every metric with its unit and definition."""
    from purejaxppo.results.registry import METRICS

    for metric in METRICS.values():
        unit = f" [{metric.units}]" if metric.units else ""
        print(f"{metric.name}{unit}: {metric.definition}")


def evaluate(
    directory: Annotated[Path, tyro.conf.Positional],
    episodes: int = 32,
    seed: int = 0,
    deterministic: bool = False,
    snapshots: bool = False,
    out: Path | None = None,
) -> None:
    """Play fresh episodes with the final policy of every run; raw returns with 95 % intervals.

    Args:
        directory: Directory of a finished sweep.
        episodes: Episodes of each policy.
        seed: Seed of the episodes; they are never those of training.
        deterministic: Take the most likely action instead of a sample.
        snapshots: Play with the policies kept along training (num_snapshots), and draw their returns.
        out: CSV file to write; DIR/evaluation.csv or DIR/evaluation_snapshots.csv by default.
    """
    from purejaxppo.evaluate import along_training, evaluate, format_evaluation
    from purejaxppo.sweep.devices import check_platform

    check_platform()
    table = evaluate(directory, episodes=episodes, seed=seed, is_deterministic=deterministic, snapshots=snapshots)
    path = out or directory / f"evaluation{'_snapshots' * snapshots}.csv"
    _print_and_keep(format_evaluation(table), table, path)
    if not snapshots:
        return
    from purejaxppo.plots.curves import curves

    def draw(part: Any) -> Any:
        return curves(part, ["evaluation_return_mean"])

    stem = path.with_suffix("").name
    print(_draw_parts(along_training(directory, table), (directory,), stem, draw, path.with_suffix(".png"), True))


def rediagnose(
    directory: Annotated[Path, tyro.conf.Positional],
    runs: tuple[int, ...] = (),
    snapshots: tuple[int, ...] = (),
    diagnostics: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Compute the diagnostics of the networks kept along training (num_snapshots) anew, and write them as a table.

    Args:
        directory: Directory of a sweep, finished or still running.
        runs: Numbers of runs, as in the dataset's run_index; all by default.
        snapshots: Numbers of snapshots, 0 of the initial networks; all by default.
        diagnostics: Your own, module:name, computed beside ours; modules may be in the working directory.
        out: CSV file to write; DIR/rediagnosed.csv by default.
    """
    from purejaxppo.rediagnosis import rediagnose
    from purejaxppo.sweep.devices import check_platform

    check_platform()
    own.look_in(os.getcwd())
    table = rediagnose(directory, runs=runs or None, snapshots=snapshots or None, diagnostics=diagnostics)
    shown = ["run", "snapshot", "env_steps", *(x for x in ("policy_rank", "policy_dead_neurons") if x in table)]
    _print_and_keep(table[shown].to_string(index=False), table, out or directory / "rediagnosed.csv")


def render(
    directory: Annotated[Path, tyro.conf.Positional],
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
    from purejaxppo.sweep.devices import check_platform

    check_platform()
    path = render(directory, run, out, seed=seed, max_steps=max_steps)
    note = " (to show it, a browser fetches brax's viewer from the network)" if path.suffix == ".html" else ""
    print(f"Episode: {path}{note}")


def export(
    directory: Annotated[Path, tyro.conf.Positional],
    to: Literal["tensorboard", "wandb", "csv", "parquet"],
    out: Path | None = None,
) -> None:
    """Write a sweep's results for other tools, below DIR/export.

    Args:
        directory: Directory of a sweep, finished or still running.
        to: The tool.
        out: Folder in place of DIR, in which a folder export is made.
    """
    from purejaxppo.results.export import export
    from purejaxppo.sweep.store import load_results

    path = export(load_results(directory), out or _folder(directory), to)
    print(f"Exported: {path}")
    if list(path.glob("offline-run-*")):
        print(f"Upload: wandb login; wandb sync {path}/offline-run-*")


COMMANDS = {
    "train": train,
    "sweep": sweep,
    "resume": resume,
    "extend": extend,
    "merge": merge,
    "plot": plot,
    "summary": summary,
    "claims": claims,
    "compare": compare,
    "report": report,
    "toy": toy,
    "evaluate": evaluate,
    "rediagnose": rediagnose,
    "render": render,
    "export": export,
    "envs": envs,
    "metrics": metrics,
}


WHOLE = [
    f"--{name.replace('_', '-')}" for name, hint in get_type_hints(TrainConfig).items() if hint in (int, int | None)
]
WHOLE += ["--seeds", "--episodes", "--steps", "--max-steps"]


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2, bad weather in one and 1."""
    guard_streams()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, inherited from it, may not exist here; nothing opens a window
    if sys.argv[1:] == ["--version"]:
        print(f"purejaxppo {__version__}")
        return
    try:
        _call(sys.argv[1:])
        sys.stdout.flush()
    except ConfigError as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, 1)
    except Stopped as error:
        _fail(error, 130)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAINER:
            raise
        _fail(f"{package} is not installed, but training needs it: pip install 'purejaxppo[trainer]'", 2)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # the ordinary end of the interpreter would wait for what the devices compute
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(arguments: list[str]) -> None:
    arguments = usual_arguments(_with_flags(arguments), WHOLE)
    tyro.extras.subcommand_cli_from_dict(
        _with_preset(COMMANDS, arguments),
        prog="purejaxppo",
        description="PPO with representation diagnostics: whole sweeps in one compiled program.",
        args=arguments,
    )


def _fail(sentence: object, code: int) -> NoReturn:
    print(f"purejaxppo: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _with_flags(arguments: list[str]) -> list[str]:
    """`--diagnostics` and `--no-diagnostics` as before it could also be a list, for which tyro makes no flags."""
    found = []
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        if argument in ("--no-diagnostics", "--no_diagnostics"):
            found += ["--diagnostics", "False"]
        elif argument == "--diagnostics" and after.startswith("--"):
            found += [argument, "True"]
        else:
            found.append(argument)
    return found


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
        plan_only: bool = False,
        dry_run: bool = False,
        imports: Imports = (),
        options: Annotated[Options, Flat] = Options(),
    ) -> None:
        train(config, hparams, seeds, preset, out, plan_only, dry_run, imports, options)

    train_with_defaults.__doc__ = train.__doc__
    return commands | {"train": train_with_defaults}


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
    _tabulate(dataset, (out,))
    print(f"{_draw(dataset, (out,))}\nDataset: {out / 'results.nc'}")


@functools.cache
def _prepare(options: Options) -> None:
    """What a process sets up before JAX computes anything."""
    if options.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    from purejaxppo.sweep.devices import check_platform, join_processes, use_cache, use_cpu_cores

    use_cache()
    use_cpu_cores()
    join_processes(options.coordinator, options.num_processes, options.process_index)
    check_platform()


def _tabulate(dataset: Any, directories: Sequence[Path], format: str = "text", out: Path | None = None) -> None:
    from purejaxppo.results.runs import progress_sentence
    from purejaxppo.statistics.summary import format_csv, format_latex, format_markdown, format_table, summary_table

    table = summary_table(dataset)
    print({"text": format_table, "markdown": format_markdown, "latex": format_latex}[format](table))
    if sentence := progress_sentence(dataset):
        print(sentence, flush=True)
    path = out or _folder(*directories) / "summary.csv"
    _write(lambda path: path.write_text(format_csv(table), encoding="utf-8"), path)


def _print_and_keep(text: str, table: Any, path: Path) -> None:
    """Print first: what was computed must not be lost where a folder cannot be written."""
    print(text, flush=True)
    print(f"Table: {_write(lambda path: table.to_csv(path, index=False), path)}")


def _draw(
    dataset: Any,
    directories: Sequence[Path],
    figure: str = "overview",
    sheet: Any = None,
    out: Path | None = None,
) -> str:
    """Save a figure of the paper or of ours, of several environments one each; and say where."""
    from purejaxppo.plots.figures import draw_figure, file_name
    from purejaxppo.plots.sheets import SCREEN

    def draw(part: Any) -> Any:
        return draw_figure(part, figure, sheet or SCREEN)

    is_apart = figure != "5"  # which is of no results
    return _draw_parts(dataset, directories, file_name(figure), draw, out, is_apart)


def _draw_parts(
    dataset: Any, directories: Sequence[Path], stem: str, draw: Callable[[Any], Any], out: Path | None, is_apart: bool
) -> str:
    """Save a figure, of several environments one each if they are to be apart; and say where."""
    from purejaxppo.plots.figures import with_environment
    from purejaxppo.results.dataset import by_environment

    base = _folder(*directories) / f"{stem}.png" if out is None else out
    parts = by_environment(dataset) if is_apart else {"": dataset}
    paths = {base.with_name(with_environment(base.name, env)): part for env, part in parts.items()}
    return "\n".join(f"Figure: {_save(draw(part), path)}" for path, part in paths.items())


def _save(figure: Any, path: Path) -> Path:
    """Write the figure's files; the first of them."""
    from purejaxppo.plots.files import save_figure

    written: list[Path] = []
    _write(lambda path: written.extend(save_figure(figure, path)), path)
    return written[0]


def _folder(first: Path, *others: Path) -> Path:
    """Where to write what belongs to a sweep's directory or results.nc; of several, a folder beside the first."""
    folder = first.parent if first.is_file() else first
    if not others:
        return folder
    from purejaxppo.sweep.store import names_of

    names = [name.replace("/", "-") for name in names_of([first, *others])]
    name = "+".join(names)
    return folder.parent / (name if len(name) <= 100 else f"{names[0]}+{len(others)}")


def _write(write: Callable[[Path], Any], path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise RunError(f"file {path} cannot be written: {error.strerror or error}; --out writes elsewhere.") from error
    return path


if __name__ == "__main__":
    main()
