"""One HTML page about a sweep that needs nothing else: what came out, figures, claims, and how it was run.

Made with the standard library; figures are PNG data inside the page, so that it can be mailed, read on a phone and
printed. Whatever comes from the results is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.claims.table import EXPLANATION as VERDICTS
from purejaxppo.claims.table import HEADER, cells, filled, how_far
from purejaxppo.claims.verdicts import evaluate_claims
from purejaxppo.errors import ConfigError
from purejaxppo.plots.figures import draw_figure
from purejaxppo.plots.files import as_small_png
from purejaxppo.plots.sensitivity import swept_number
from purejaxppo.results.dataset import by_environment, own_metrics, recorded_fields, swept_fields
from purejaxppo.results.registry import HEADLINE, METRICS
from purejaxppo.results.runs import describe_runs, diverged_steps, steps_of_runs, steps_reached
from purejaxppo.statistics.summary import EXPLANATION, summary_table, table_cells
from purejaxppo.statistics.tables import MISSING, compact, format_value

# Figure -> (heading, the metric without which it would be empty).
_FIGURES = {
    "overview": ("Overview", "return_mean"),
    "1": ("Figure 1: return, rank, norm and plasticity", "policy_rank"),
    "2": ("Figure 2: entropy, policy variance, dead neurons", "policy_variance"),
    "3": ("Figure 3: individual runs", "policy_rank"),
    "4": ("Figure 4: ratios below the clip range and the representation", "ratio_below_mean"),
    "6": ("Figure 6: final values", "policy_rank"),
    "7": ("Figure 7: agreement of the rank measures", "policy_effective_rank"),
    "spectrum": ("Spectrum of the features", "policy_singular_values"),
    "survival": ("Survival", "policy_rank"),
    "sensitivity": ("Sensitivity: final values against a swept number", "return_mean"),
}
_WIDTH = 1540  # pixels
_MOST_ROWS = 200

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; }
.lead { color: #444; margin-top: 0; }
nav ol { columns: 2 18rem; padding-left: 1.4rem; }
nav ul { padding-left: 1rem; font-size: .9rem; }
a { color: #0b5394; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e6e6e6; }
th { font-weight: 600; border-bottom: 2px solid #999; white-space: nowrap; }
td.n { white-space: nowrap; }
td.t { overflow-wrap: anywhere; }
tr.head td { font-weight: 600; padding-top: .7rem; }
img { width: 100%; height: auto; display: block; }
figure { margin: 0 0 2rem; }
@media (max-width: 45rem) { body { padding: .5rem .75rem 3rem; } figure img { width: 48rem; max-width: none; } }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; } nav { display: none; } a { color: inherit; }
  .wide { overflow: visible; } figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  figure img { width: 100%; max-height: 22cm; object-fit: contain; object-position: left; } table { font-size: 7.5pt; }
}
"""


def html_report(dataset: xr.Dataset) -> str:
    """The page: summary, figures that the data allow, claims, runs that diverged, configuration, provenance."""
    name = dataset.attrs.get("name", "") or "Sweep"
    offered = {key: figure for key, figure in _FIGURES.items() if key != "sensitivity" or swept_number(dataset)}
    shown = [key for key, (_, metric) in offered.items() if _has_values(dataset, metric)]
    sections = [
        ("summary", "Summary", _summary(dataset)),
        ("figures", "Figures", _figures(dataset, shown)),
        ("claims", "The paper's claims", _claims(dataset)),
        ("runs", "State of the runs", _runs(dataset)),
        ("configuration", "Configuration", _configuration(dataset)),
        ("provenance", "Provenance", _provenance(dataset)),
        ("metrics", "Metrics", _metrics(dataset)),
    ]
    links = {key: [] for key, _, _ in sections} | {"figures": [(f"figure-{key}", _FIGURES[key][0]) for key in shown]}
    contents = "".join(f"<li>{_link(key, title)}{_contents(links[key])}</li>" for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(title)}</h2>{text}</section>' for key, title, text in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: {escape(describe_runs(dataset))}</title><style>{_STYLE}</style></head>\n<body>"
        f'<h1>{escape(name)}</h1><p class="lead">{escape(describe_runs(dataset))}. {escape(_progress(dataset))}</p>'
        f"<nav><ol>{contents}</ol></nav>\n{body}</body></html>\n"
    )


def _summary(dataset: xr.Dataset) -> str:
    header, *rows = zip(*(column for part in table_cells(summary_table(dataset)) for column in part), strict=True)
    return _table(header, [[compact(text) for text in row] for row in rows]) + _paragraph(EXPLANATION)


def _has_values(dataset: xr.Dataset, metric: str) -> bool:
    return metric in dataset and bool(np.any(np.isfinite(dataset[metric].values)))


def _link(key: str, title: str) -> str:
    return f'<a href="#{escape(key)}">{escape(title)}</a>'


def _contents(links: Sequence[tuple[str, str]]) -> str:
    return f"<ul>{''.join(f'<li>{_link(key, title)}</li>' for key, title in links)}</ul>" if links else ""


def _figures(dataset: xr.Dataset, shown: Sequence[str]) -> str:
    parts = []
    for key in shown:
        images = []
        for part in by_environment(dataset).values():
            alt = escape(f"{_FIGURES[key][0]}; {describe_runs(part)}")
            data = base64.b64encode(as_small_png(draw_figure(part, key), _WIDTH)).decode()
            images.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
        parts.append(f'<figure class="wide" id="figure-{key}">{"".join(images)}</figure>\n')
    missing = [
        f"{title} (no {metric})"
        for key, (title, metric) in _FIGURES.items()
        if key not in shown and not _has_values(dataset, metric)
    ]
    note = _paragraph(f"Not drawn, as the results lack what they show: {'; '.join(missing)}.") if missing else ""
    return "".join(parts) + note


def _claims(dataset: xr.Dataset) -> str:
    try:
        table = evaluate_claims(dataset)
    except ConfigError as error:
        return _paragraph(f"Not evaluated: {error}")
    parts = []
    for _, part in table.groupby("env", sort=False):
        rows = [filled(cells(row)) for row in part.to_dict("records")]
        heads = [row[0] != "" for row in rows]
        parts.append(_paragraph(how_far(part)) + _table(HEADER, rows, texts=(2,), heads=heads))
    return "".join(parts) + _paragraph(VERDICTS)


def _runs(dataset: xr.Dataset) -> str:
    status = dataset["status"].values
    diverged = np.flatnonzero(status != 0)
    total = dataset.sizes["run"]
    text = _paragraph(f"{total - diverged.size} of {total} runs stayed finite, {diverged.size} diverged.")
    if diverged.size == 0:
        return text
    fields, steps = swept_fields(dataset), diverged_steps(dataset)
    rows = []
    for run in diverged[:_MOST_ROWS]:
        swept = [format_value(dataset[field].values[run].item()) for field in fields]
        row = [dataset["run_index"].values[run], dataset["seed"].values[run], *swept, int(status[run])]
        rows.append([*row, f"{steps[run]:,.0f}" if np.isfinite(steps[run]) else MISSING])
    more = f" {diverged.size - _MOST_ROWS} more are not listed." if diverged.size > _MOST_ROWS else ""
    header = ["run", "seed", *fields, "diverged before log point", "at environment step"]
    return text + _table(header, rows) + (_paragraph(more) if more else "")


def _progress(dataset: xr.Dataset) -> str:
    """How far the runs have come."""
    last = steps_reached(dataset)
    if not np.any(np.isfinite(steps_of_runs(dataset))):
        return "No log point has been reached yet."
    if last.min() == last.max():
        return f"All runs have reached environment step {last.max():,.0f}."
    return f"Runs have reached environment steps {last.min():,.0f} to {last.max():,.0f}."


def _configuration(dataset: xr.Dataset) -> str:
    swept = {field: list(dict.fromkeys(dataset[field].values.tolist())) for field in swept_fields(dataset)}
    rows = [[field, "swept: " + ", ".join(map(format_value, values))] for field, values in swept.items()]
    rows += [[field, _plain(value)] for field, value in recorded_fields(dataset).items() if field not in swept]
    seeds = list(dict.fromkeys(dataset["seed"].values.tolist()))
    is_range = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    rows.insert(0, ["seeds", f"{seeds[0]} to {seeds[-1]}" if is_range else ", ".join(map(str, seeds))])
    return _table(["field", "value"], rows, texts=(1,))


def _provenance(dataset: xr.Dataset) -> str:
    rows = [
        [key, _plain(value)] for key, value in dataset.attrs.items() if key not in ("sweep", "name") and value != ""
    ]
    return _table(["what", "value"], rows, texts=(1,)) if rows else _paragraph("None recorded.")


def _metrics(dataset: xr.Dataset) -> str:
    rows = [[METRICS[name].name, METRICS[name].units, METRICS[name].definition] for name in HEADLINE if name in dataset]
    own = {name: dataset[name].attrs for name in own_metrics(dataset)}
    rows += [[name, told.get("units", ""), told.get("definition", "")] for name, told in own.items()]
    return _table(["name", "units", "definition"], rows, texts=(2,)) + _paragraph(
        "`purejaxppo metrics` lists all metrics that the results hold."
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else format_value(value) if isinstance(value, float) else json.dumps(value)


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], texts: tuple[int, ...] = (), heads: Sequence[bool] = ()
) -> str:
    """A table that scrolls sideways on its own; `texts`: columns that may wrap, `heads`: which rows are headings."""
    top = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for number, row in enumerate(rows):
        kind = ' class="head"' if number < len(heads) and heads[number] else ""
        cells = "".join(
            f'<td class="{"t" if column in texts else "n"}">{escape(str(cell))}</td>' for column, cell in enumerate(row)
        )
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>\n'
