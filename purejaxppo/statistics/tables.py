"""How numbers, intervals and tables are written: the one place that knows.

A number has about three digits, and no exponent from 0.001 to 100,000; the ends of an interval have as many decimals
as the number before them.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from purejaxppo.fields import unknown_name

if TYPE_CHECKING:
    import pandas as pd

MISSING = "-"

ESTIMATES = (
    "Interquartile mean over runs of each run's mean over its last 5 % of log points [95 % bootstrap interval: "
    "expanded percentiles, which hold the truth in 91 to 98 % of samples]; of fewer than 5 runs (their values) instead."
    " A run that diverged counts as the worst value that was measured. Collapsed: the return is lost for good, below "
    "half of what was gained, or the run diverged [exact 95 % interval]; a run that never learned has nothing to lose."
)
"""What is said below every table of estimates."""


def format_value(value: object) -> str:
    """A swept value or a count as a person writes it: 0.00025, 1, 64-64, True."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_number(value: float, decimals: int | None = None) -> str:
    """A measured number, `-88.2`; `decimals` in place of about three digits. `-` for NaN."""
    if math.isnan(value):
        return MISSING
    if decimals is None:
        decimals = _decimals((value,))
    return f"{value:.1e}" if decimals is None or math.isinf(value) else f"{value:.{decimals}f}"


def format_interval(value: float, low: float, high: float, decimals: int | None = None) -> str:
    """A measured number with its interval: `-88.2 [-90.1, -86.4]`; the number alone where there is no interval."""
    return _with_interval(*_triple((value, low, high), decimals))


def format_p(p: float) -> str:
    """A p-value: `0.031`, `<0.001`; `-` for NaN."""
    return "<0.001" if p < 0.0005 else format_number(p, 3)


def format_percent(share: float) -> str:
    """A share as a percentage of two digits, `0.12 %`, `6 %`, `100 %`; nothing for NaN."""
    return "" if math.isnan(share) else f"{100 * share:.{2 if 100 * share < 99.5 else 4}g} %"


def format_shares(low: float, high: float) -> str:
    """The interval of a share: `[9 %, 76 %]`."""
    return f"[{100 * low:.0f} %, {100 * high:.0f} %]"


def format_count(num_events: int, num_runs: int, low: float, high: float) -> str:
    """A count with the interval of its share: `3 of 8 [9 %, 76 %]`; the count alone where there is no run."""
    count = f"{num_events} of {num_runs}"
    return f"{count} {format_shares(low, high)}" if num_runs else count


def format_intervals(
    triples: Sequence[tuple[float, float, float]], singles: Sequence[Sequence[float]] | None = None
) -> list[str]:
    """A column of (number, low, high), as `format_interval` writes each, with the numbers below each other.

    singles: for each number the values that it comes from, to be written in place of an interval where there is none:
    `-299.9 (-499.2, -385.0, -214.0, -115.7)`.
    """
    texts = [_triple(triple) for triple in triples]
    widths = [max((len(text[part]) for text in texts), default=0) for part in range(3)]
    cells = [_with_interval(*(text.rjust(width) for text, width in zip(row, widths, strict=True))) for row in texts]
    for number, values in enumerate(singles or ()):
        if len(values) > 1 and "[" not in cells[number]:
            decimals = _decimals([triples[number][0], *values])
            cells[number] += f" ({', '.join(format_number(value, decimals) for value in values)})"
    return cells


def compact(cell: str) -> str:
    """A cell of `format_intervals` without the blanks that align it."""
    return " ".join(cell.split()).replace("[ ", "[")


def estimate_cells(table: pd.DataFrame, name: str) -> list[str]:
    """Cells of the columns that `estimates.estimate_columns` makes."""
    triples = list(zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True))
    # Read back from a file, a single value is a number.
    singles = [[float(value) for value in str(runs).split()] for runs in table[f"{name}_runs"]]
    return format_intervals(triples, singles)


def count_cells(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Headers and cells of the columns that `collapse.count_columns` makes; without those in which all are 0."""
    columns = []
    if table["collapsed"].isna().to_numpy().any():
        columns.append(("runs", [str(count) for count in table["runs"]]))
    else:
        rows = zip(*(table[name] for name in ("collapsed", "runs", "collapsed_low", "collapsed_high")), strict=True)
        columns.append(("collapsed", [format_count(int(k), int(n), low, high) for k, n, low, high in rows]))
    for name in ("diverged", "never_learned"):
        if np.any(table[name].fillna(0).to_numpy()):
            columns.append((name.replace("_", " "), [str(int(count)) for count in table[name]]))
    return columns


def align(lines: Sequence[Sequence[str]], sides: str = "") -> list[str]:
    """Lines of cells as text, two blanks between columns; the first line is the header.

    sides: `<` or `>` for each column, left or right; left where it says nothing. A line may have fewer cells than the
    longest one: its last cell then runs on over the columns that it lacks.
    """
    count = max(map(len, lines), default=0)
    sides = sides.ljust(count, "<")
    widths = [max(len(line[i]) for line in lines if len(line) > i + 1 or len(line) == count) for i in range(count)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=False)).rstrip()
        for line in lines
    ]


def with_rule(lines: Sequence[str]) -> str:
    """Aligned lines with a rule below the header."""
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def sides_of(columns: Sequence[Sequence[str]]) -> str:
    """Sides for `align`: numbers go right; words, and cells with brackets, left, below each other's."""
    return "".join(">" if all(map(_is_number, column[1:])) else "<" for column in columns)


def _is_number(cell: str) -> bool:
    return cell == MISSING or re.fullmatch(r"\s*[-<]?(\d[\d.,]*(e[+-]\d+)?|inf)\s*", cell) is not None


def text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as aligned text with a rule below its header."""
    lines = [header, *rows]
    return with_rule(align(lines, sides_of(list(zip(*lines, strict=True)))))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + " ---: |" * len(header)]
    lines += ["| " + " | ".join(compact(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in LaTeX, for the package booktabs."""
    lines = [" & ".join(_latex_cell(cell) for cell in row) + " \\\\" for row in (header, *rows)]
    inside = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    return f"\\begin{{tabular}}{{{'l' * len(header)}}}\n{inside}\n\\end{{tabular}}"


def wrap(note: str) -> str:
    """A note below a table, in lines of 118 characters at most."""
    return textwrap.fill(note, 118)


def with_notes(table: str, notes: str, kind: str = "text") -> str:
    """A table with notes below it; in LaTeX they are comments."""
    shown = "\n".join(f"% {line}" for line in notes.splitlines()) if kind == "latex" else notes
    return f"{table}\n\n{shown}\n"


def with_title(title: str, table: str, kind: str = "text") -> str:
    """A table with a line above it; in LaTeX that is a comment."""
    return f"{'% ' * (kind == 'latex')}{title}\n\n{table}"


def check_format(name: str) -> str:
    """The name of a way to write a table, one of `FORMATS`; raises ConfigError for an unknown one."""
    if name not in FORMATS:
        raise unknown_name("format", name, list(FORMATS))
    return name


def _latex_cell(cell: str) -> str:
    """A cell without the blanks that align it, what LaTeX reads as commands escaped, minus signs as such."""
    escaped = re.sub(r"[&%$#_{}]", r"\\\g<0>", compact(cell).replace("\\", "/"))
    for character, name in (("~", "textasciitilde"), ("^", "textasciicircum"), ("<", "textless"), (">", "textgreater")):
        escaped = escaped.replace(character, f"\\{name}{{}}")
    return re.sub(r"(^|[\s\[(])-(?=[\d.])", r"\1$-$", escaped)


FORMATS = {"text": text, "markdown": markdown, "latex": latex}
"""Ways to write a table: functions of its header and its rows."""


def _triple(triple: tuple[float, float, float], decimals: int | None = None) -> tuple[str, str, str]:
    """A number and the ends of its interval, all three with the decimals that suit the largest."""
    if decimals is None:
        decimals = _decimals(triple)
    value, low, high = (
        f"{part:.1e}" if decimals is None and not math.isnan(part) else format_number(part, decimals) for part in triple
    )
    return value, low, high


def _with_interval(value: str, low: str, high: str) -> str:
    return value if MISSING in (low.strip(), high.strip()) else f"{value} [{low}, {high}]"


def _decimals(numbers: Sequence[float]) -> int | None:
    """Decimals that give the largest number of a cell about three digits; None for scientific notation."""
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0)
    if largest == 0:
        return 0
    if largest >= 1e5 or largest < 1e-3:
        return None
    return next((decimals for limit, decimals in ((1000, 0), (10, 1), (1, 2), (0.1, 3)) if largest >= limit), 4)
