"""How numbers, intervals and tables are written: the one place that knows.

A number has about three digits, and no exponent from 0.001 to 100,000; the ends of an interval have as many decimals
as the number before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "-"


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


def format_count(num_events: int, num_runs: int, low: float, high: float) -> str:
    """A count with the interval of its share: `3 of 8 [9 %, 76 %]`; the count alone where there is no run."""
    count = f"{num_events} of {num_runs}"
    return f"{count} [{100 * low:.0f} %, {100 * high:.0f} %]" if num_runs else count


def format_intervals(triples: Sequence[tuple[float, float, float]]) -> list[str]:
    """A column of (number, low, high), as `format_interval` writes each, with the numbers below each other."""
    texts = [_triple(triple) for triple in triples]
    widths = [max((len(text[part]) for text in texts), default=0) for part in range(3)]
    return [_with_interval(*(text.rjust(width) for text, width in zip(row, widths, strict=True))) for row in texts]


def compact(cell: str) -> str:
    """A cell of `format_intervals` without the blanks that align it."""
    return " ".join(cell.split()).replace("[ ", "[")


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
    """Sides for `align`: cells with intervals go left, below each other's brackets, other numbers right."""
    return "".join("<" if any("[" in cell for cell in column) else ">" for column in columns)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + " ---: |" * len(header)]
    lines += ["| " + " | ".join(compact(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


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
