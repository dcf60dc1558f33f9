"""Numbers, intervals and tables are written in one way everywhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from purejaxppo.errors import ConfigError
from purejaxppo.statistics import tables
from purejaxppo.statistics.tables import (
    FORMATS,
    align,
    check_format,
    compact,
    format_count,
    format_interval,
    format_intervals,
    format_number,
    format_p,
    format_percent,
    format_shares,
    format_value,
    latex,
    markdown,
    sides_of,
    text,
    with_notes,
    with_rule,
    with_title,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0123, "0.0123"),
        (0.5, "0.500"),
        (-7.25, "-7.25"),
        (88.25, "88.2"),
        (543.0, "543.0"),
        (12345.6, "12346"),
        (123456.0, "1.2e+05"),
        (0.0001, "1.0e-04"),
        (math.inf, "inf"),
        (math.nan, "-"),
    ],
)
def test_a_number_has_about_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_the_ends_of_an_interval_have_the_decimals_of_the_largest() -> None:
    assert format_interval(9.5, 0.123, 12.0) == "9.5 [0.1, 12.0]"
    assert format_interval(0.5, 0.25, 1.0, decimals=2) == "0.50 [0.25, 1.00]"
    assert format_interval(2e5, 1e5, 30.0) == "2.0e+05 [1.0e+05, 3.0e+01]"
    assert format_interval(1.0, math.nan, math.nan) == "1.00"
    assert format_interval(math.nan, math.nan, math.nan) == "-"


def test_intervals_of_a_column_stand_below_each_other() -> None:
    cells = format_intervals([(1.0, 0.5, 1.5), (-10.0, -12.0, -8.0), (3.0, math.nan, math.nan)])
    assert cells == [" 1.00 [ 0.50, 1.50]", "-10.0 [-12.0, -8.0]", " 3.00"]
    assert compact(cells[0]) == "1.00 [0.50, 1.50]"
    assert format_intervals([]) == []


@pytest.mark.parametrize(("value", "text"), [(0.00025, "0.00025"), (1.0, "1"), ("64-64", "64-64"), (True, "True")])
def test_a_swept_value_is_written_as_a_person_writes_it(value: object, text: str) -> None:
    assert format_value(value) == text


def test_columns_are_aligned_and_a_last_cell_may_run_on() -> None:
    lines = align([["a", "number", "c"], ["long", "1", "x"], ["b", "a text that runs on"]], "<>")
    assert lines == ["a     number  c", "long       1  x", "b     a text that runs on"]
    assert with_rule(lines).splitlines()[1] == "-" * len(lines[2])
    assert align([]) == []


def test_cells_with_intervals_go_left_and_numbers_right() -> None:
    columns = [["runs", "5"], ["rank", "1.0 [0.5, 1.5]"], ["p", "<0.001"], ["word", "relu"], ["x", "1.2e+05"]]
    assert sides_of(columns) == "><><>"


def test_few_values_stand_in_place_of_an_interval() -> None:
    cells = format_intervals([(2.0, math.nan, math.nan), (-10.0, -12.0, -8.0)], [[1.0, 3.0], []])
    assert cells == [" 2.00 (1.00, 3.00)", "-10.0 [-12.0, -8.0]"]
    assert format_intervals([(2.0, math.nan, math.nan)], [[2.0]]) == ["2.00"]


def test_a_count_has_the_interval_of_its_share() -> None:
    assert format_count(3, 8, 0.0852, 0.7551) == "3 of 8 [9 %, 76 %]"
    assert format_count(0, 0, 0.0, 1.0) == "0 of 0"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0012, "0.12 %"), (0.06, "6 %"), (0.994, "99 %"), (1.0, "100 %"), (1.25, "125 %")]
)
def test_a_share_is_a_percentage_of_two_digits(share: float, text: str) -> None:
    assert format_percent(share) == text
    assert format_percent(math.nan) == ""
    assert format_shares(0.0, 0.369) == "[0 %, 37 %]"


def test_numbers_and_tables_are_written_in_one_place() -> None:
    """No other module of these says how many digits a number has, or lets pandas print."""
    package = Path(tables.__file__).parent.parent
    paths = [path for room in ("claims", "commands", "statistics") for path in sorted((package / room).glob("*.py"))]
    assert len(paths) > 15
    for path in [*paths, package / "evaluate.py", package / "rediagnosis.py"]:
        found = re.findall(r":\.\d\w?\}|to_string|to_markdown|to_latex", path.read_text(encoding="utf-8"))
        assert bool(found) == (path.name == "tables.py"), (path, found)


@pytest.mark.parametrize(("p", "cell"), [(0.03125, "0.031"), (0.0004, "<0.001"), (1.0, "1.000"), (math.nan, "-")])
def test_a_p_value_is_never_zero(p: float, cell: str) -> None:
    assert format_p(p) == cell


def test_a_table_is_written_in_three_ways() -> None:
    header, rows = ["a_b", "r^2"], [["x & y", "-1.5 [-2.0, -1.0]"], ["50 %", "<0.001"]]
    assert text(header, rows).splitlines()[2] == "x & y  -1.5 [-2.0, -1.0]"
    assert markdown(header, rows).splitlines()[3] == "| 50 % | <0.001 |"
    lines = latex(header, rows).splitlines()
    assert lines == [
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a\_b & r\textasciicircum{}2 \\",
        r"\midrule",
        r"x \& y & $-$1.5 [$-$2.0, $-$1.0] \\",
        r"50 \% & \textless{}0.001 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert list(FORMATS) == ["text", "markdown", "latex"]
    assert with_notes("table", "a\nb", "latex") == "table\n\n% a\n% b\n"
    assert with_title("top", "table", "latex") == "% top\n\ntable"
    assert check_format("latex") == "latex"
    with pytest.raises(ConfigError, match="format 'html' is unknown; allowed are text, markdown, latex"):
        check_format("html")


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert markdown(["a|b"], [["x|y [ 1,  2]"]]).splitlines()[2] == "| x\\|y [1, 2] |"
