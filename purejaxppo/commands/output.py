"""What commands print and write: tables, figures, and the sentence where a disk refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from purejaxppo.errors import RunError


def tabulate(dataset: Any, directories: Sequence[Path], format: str = "text", out: Path | None = None) -> None:
    """Print the summary table, and write it."""
    from purejaxppo.results.runs import progress_sentence
    from purejaxppo.statistics.summary import format_csv, format_latex, format_markdown, format_table, summary_table

    table = summary_table(dataset)
    print({"text": format_table, "markdown": format_markdown, "latex": format_latex}[format](table))
    if sentence := progress_sentence(dataset):
        print(sentence, flush=True)
    path = place(out, directories, "summary.csv")
    write(lambda path: path.write_text(format_csv(table), encoding="utf-8"), path)


def print_and_keep(text: str, table: Any, path: Path) -> None:
    """Print first: what was computed must not be lost where a folder cannot be written."""
    print(text, flush=True)
    print(f"Table: {write(lambda path: table.to_csv(path, index=False), path)}")


def save_figures(
    dataset: Any,
    directories: Sequence[Path],
    figure: str = "overview",
    sheet: Any = None,
    out: Path | None = None,
    suffix: str = "",
) -> str:
    """Save a figure of the paper or of ours, of several environments one each; and say where."""
    from purejaxppo.plots.figures import draw_figure, file_name
    from purejaxppo.plots.sheets import SCREEN

    def draw(part: Any) -> Any:
        return draw_figure(part, figure, sheet or SCREEN)

    is_apart = figure != "5"  # which is of no results
    return save_parts(dataset, directories, file_name(figure) + suffix, draw, out, is_apart)


def save_parts(
    dataset: Any, directories: Sequence[Path], stem: str, draw: Callable[[Any], Any], out: Path | None, is_apart: bool
) -> str:
    """Save a figure, of several environments one each if they are to be apart; and say where."""
    from purejaxppo.plots.figures import with_environment
    from purejaxppo.results.dataset import by_environment

    base = place(out, directories, f"{stem}.png")
    parts = by_environment(dataset) if is_apart else {"": dataset}
    paths = {base.with_name(with_environment(base.name, env)): part for env, part in parts.items()}
    return "\n".join(f"Figure: {save(draw(part), path)}" for path, part in paths.items())


def save(figure: Any, path: Path) -> Path:
    """Write the figure's files; the first of them."""
    from purejaxppo.plots.files import save_figure

    written: list[Path] = []
    write(lambda path: written.extend(save_figure(figure, path)), path)
    return written[0]


def place(out: Path | None, directories: Sequence[Path], name: str) -> Path:
    """The file to write: `out`; under its own name in `out` where that is a folder, else beside the results."""
    if out is None:
        return folder_of(*directories) / name
    return out / name if out.is_dir() else out


def folder_of(first: Path, *others: Path) -> Path:
    """Where to write what belongs to a sweep's directory or results.nc; of several, a folder beside the first."""
    folder = first.parent if first.is_file() else first
    if not others:
        return folder
    from purejaxppo.sweep.store import names_of

    names = [name.replace("/", "-") for name in names_of([first, *others])]
    name = "+".join(names)
    return folder.parent / (name if len(name) <= 100 else f"{names[0]}+{len(others)}")


def write(write: Callable[[Path], Any], path: Path) -> Path:
    """The path, once it is written; raises RunError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise RunError(f"file {path} cannot be written: {error.strerror or error}; --out writes elsewhere.") from error
    return path
