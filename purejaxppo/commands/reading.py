"""Commands that read results, and lists: no JAX and no trainer is needed for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from purejaxppo.commands.arguments import Directories, Directory
from purejaxppo.commands.output import folder_of, place, print_and_keep, save, save_figures, save_parts, tabulate, write


def merge(directory: Directories, out: Path) -> None:
    """Make one sweep's directory of several finished ones; what they differ in becomes an axis.

    Args:
        directory: Directories of finished sweeps, which stay as they are.
        out: Directory of the merged sweep, new or empty.
    """
    from purejaxppo.sweep.merge import merge

    dataset = merge(directory, out)
    tabulate(dataset, (out,))
    print(f"{save_figures(dataset, (out,))}\nDataset: {out / 'results.nc'}")


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
        where: Only runs with these values, FIELD=VALUE or FIELD=VALUE,VALUE; they become part of the file's name.
        paper: For a paper: 5.5 inches wide, without title, as PDF and SVG, its caption in a text file.
        out: File or folder to write to, in place of the directory.
    """
    from purejaxppo.plots.conditions import check_options, conditions_suffix, parse_where, select
    from purejaxppo.plots.figures import check_figure
    from purejaxppo.plots.sheets import PAPER, SCREEN
    from purejaxppo.sweep.store import load_several

    check_options(figure, metric, by, facet)
    name = check_figure("overview" if figure is None else figure)
    conditions = parse_where(where)
    suffix = conditions_suffix(conditions)
    dataset = select(load_several(directory), conditions)
    sheet = PAPER if paper else SCREEN
    if not metric:
        print(save_figures(dataset, directory, name, sheet, out, suffix))
        return
    from purejaxppo.plots.curves import curves
    from purejaxppo.plots.sensitivity import sensitivity

    def draw(part: Any) -> Any:
        if figure == "sensitivity":
            return sensitivity(part, metric, sheet=sheet)
        return curves(part, metric, by or None, facet, sheet=sheet)

    stem = "_".join(([figure] if figure else []) + [*metric])[:80] + suffix
    print(save_parts(dataset, directory, stem, draw, out, is_apart=facet != "env" and "env" not in by))


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
    tabulate(load_several(directory), directory, format, out)


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
    print_and_keep(format_claims(table, format), table, place(out, directory, "claims.csv"))


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
    print_and_keep(text, table, place(out, directory, f"compare_{metric}.csv"))


def report(directory: Directories, out: Path | None = None) -> None:
    """Write one self-contained HTML page about a sweep's directory.

    Args:
        directory: Directory of a sweep, finished or still running, or several.
        out: File to write; DIR/report.html by default.
    """
    from purejaxppo.report import html_report
    from purejaxppo.sweep.store import load_several, write_atomically

    page = html_report(load_several(directory)).encode()
    path = place(out, directory, "report.html")
    print(f"Report: {write(lambda path: write_atomically(path, lambda file: file.write(page)), path)}")


def toy(out: Path = Path("figure5.png"), learning_rate: float = 0.05, steps: int = 60) -> None:
    """Draw the paper's figure 5: two states with collinear features, clipped steps on each in turn; trains nothing.

    Args:
        out: File to write, as PNG and PDF, or a folder.
        learning_rate: Size of the gradient steps.
        steps: Number of gradient steps, on both states together.
    """
    from purejaxppo.plots.toy import describe_toy, toy_figure

    print(f"Last probability ratios:\n{describe_toy(learning_rate, steps)}")
    print(f"Figure: {save(toy_figure(learning_rate, steps), place(out, (), 'figure5.png'))}")


def export(
    directory: Directory,
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

    path = export(load_results(directory), out or folder_of(directory), to)
    print(f"Exported: {path}")
    if list(path.glob("offline-run-*")):
        print(f"Upload: wandb login; wandb sync {path}/offline-run-*")


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
