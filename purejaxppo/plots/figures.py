"""The figures of the paper from results, by the names that `purejaxppo plot --figure` knows.

Each is a function Dataset -> matplotlib Figure. A figure whose metrics are missing is drawn, and says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.claims.interventions import DEFAULTS, own_strengths
from purejaxppo.fields import unknown_name
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.plots.boxes import box_plots
from purejaxppo.plots.channels import describe
from purejaxppo.plots.curves import draw_curves, overview
from purejaxppo.plots.factorial import factorial_figure
from purejaxppo.plots.panels import FIGURE_1, FIGURE_2, FIGURE_3
from purejaxppo.plots.scales import declutter
from purejaxppo.plots.scatter import rank_matrices, ratio_scatter
from purejaxppo.plots.sensitivity import sensitivity
from purejaxppo.plots.sheets import SCREEN, Sheet
from purejaxppo.plots.spectrum import spectrum_figure
from purejaxppo.plots.survival import survival_figure
from purejaxppo.plots.toy import toy_figure
from purejaxppo.results.dataset import points, recorded_fields
from purejaxppo.results.runs import recorded
from purejaxppo.statistics.summary import final_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name -> function (Dataset, Sheet) -> Figure; figure 5 is of no results.
_FUNCTIONS: dict[str, Callable[[xr.Dataset, Sheet], Figure]] = {
    "overview": overview,
    "1": lambda dataset, sheet: collapse_curves(dataset, sheet),
    "2": lambda dataset, sheet: policy_curves(dataset, sheet),
    "3": lambda dataset, sheet: individual_runs(dataset, sheet),
    "4": ratio_scatter,
    "5": lambda dataset, sheet: toy_figure(sheet=sheet),
    "6": box_plots,
    "7": rank_matrices,
    "spectrum": spectrum_figure,
    "survival": survival_figure,
    "sensitivity": lambda dataset, sheet: sensitivity(dataset, sheet=sheet),
    "factorial": factorial_figure,
}
FIGURES = tuple(_FUNCTIONS)
"""Names of the figures: ours, and those of the paper by number."""


def check_figure(name: str | int) -> str:
    """The name of a figure, which may be its number; raises ConfigError for an unknown one."""
    name = str(name)
    if name not in FIGURES:
        raise unknown_name("figure", name, list(FIGURES))
    return name


def draw_figure(dataset: xr.Dataset, name: str | int, sheet: Sheet = SCREEN) -> Figure:
    """Draw a figure by its name, for the screen or for a paper; raises ConfigError for an unknown one.

    Give it one environment at a time (`by_environment`), as the command line does.
    """
    return _FUNCTIONS[check_figure(name)](dataset, sheet)


def file_name(name: str, environment: str = "") -> str:
    """Name of a figure's file: figure1, spectrum, figure1_gymnax_Asterix-MinAtar of one environment of several."""
    return with_environment(f"figure{name}" if name.isdigit() else name, environment)


def with_environment(name: str, environment: str) -> str:
    """A file's name with the environment that it shows, where there are several, before its suffix if it has one."""
    if not environment:
        return name
    stem, dot, suffix = name.rpartition(".") if name.endswith((".png", ".pdf", ".svg", ".txt")) else (name, "", "")
    return f"{stem}_{environment.replace('/', '_').replace(':', '_')}{dot}{suffix}"


def collapse_curves(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Figure 1: return, policy rank, pre-activation norm, critic rank and plasticity losses against steps.

    Lines, bands and crosses as in `overview`; one line per point of the axes (in the paper: per epoch count).
    """
    title = "Figure 1: return, rank, norm and plasticity over training"
    return draw_curves(dataset, FIGURE_1, points(dataset), title, sheet=sheet)


def policy_curves(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Figure 2: entropy, policy variance and dead policy neurons against steps; lines as in `overview`."""
    title = "Figure 2: entropy, policy variance and dead neurons over training"
    return draw_curves(dataset, FIGURE_2, points(dataset), title, sheet=sheet)


def individual_runs(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Figure 3: a typical, the best and the worst run of one point, in six panels; see `typical_best_worst`."""
    point, chosen = typical_best_worst(dataset)
    names: dict[int, list[str]] = {}
    for name, run in chosen.items():
        names.setdefault(run, []).append(name)
    everything = []
    for run, roles in names.items():
        roles = roles[0] if len(roles) == 1 else ", ".join(roles[:-1]) + " and " + roles[-1]
        everything.append(({"run": f"{roles}: seed {dataset['seed'].values[run]}"}, np.array([run])))
    num_runs = next((runs.size for other, runs in points(dataset) if other == point), 0)
    rule = (
        f"The runs are of the {num_runs} with {describe(point)}: of the points with the fewest interventions, the "
        "first with the most epochs. Best, typical, worst: highest, median (the lower of two) and lowest final return; "
        "ties by lower seed, a run without a final return counts as lowest. Gaps in ratios: no sample below the clip "
        "range."
    )
    title = "Figure 3: individual runs"
    figure = draw_curves(dataset, FIGURE_3, everything, title, rule, sheet, is_counted=False)
    limits = [float(value) for value in recorded(dataset, "clip_eps")]
    if len(limits) == 1:
        _mark_limit(figure.axes[3], 1 - limits[0])
        declutter(figure)
    return figure


def typical_best_worst(dataset: xr.Dataset) -> tuple[dict[str, Any], dict[str, int]]:
    """The point whose runs figure 3 shows, and the positions of its `typical`, `best` and `worst` run.

    The point: of those with the fewest interventions, those with the most epochs (`num_epochs`), of these the first.
    Worst and best have the lowest and the highest final return (`final_values`), typical has the median, of an even
    number the lower of the two in the middle. Ties go to the lower seed; a run without a final return counts as the
    lowest. Both are empty for a dataset without runs.
    """
    everything = points(dataset)
    if not everything:
        return {}, {}
    point, runs = min(everything, key=lambda item: (num_interventions(dataset, item[0]), -item[0].get("num_epochs", 0)))
    has_return = "return_mean" in dataset
    finals = final_values(dataset, "return_mean").values[runs] if has_return else np.zeros(runs.size)
    finals = np.where(np.isnan(finals), -np.inf, finals)
    by_seed = runs[np.argsort(dataset["seed"].values[runs], kind="stable")]
    finals = finals[np.argsort(dataset["seed"].values[runs], kind="stable")]
    middle = np.sort(finals)[(finals.size - 1) // 2]
    levels = {"best": finals.max(), "typical": middle, "worst": finals.min()}
    return point, {name: int(by_seed[np.flatnonzero(finals == level)[0]]) for name, level in levels.items()}


def num_interventions(dataset: xr.Dataset, point: dict[str, Any]) -> int:
    """How many interventions (`interventions.INTERVENTIONS`) are on at a point of the axes."""
    fields = DEFAULTS | recorded_fields(dataset) | point
    return sum(bool(intervention.is_on(fields)) for intervention in INTERVENTIONS) + len(own_strengths(fields))


def _mark_limit(ax: Any, limit: float) -> None:
    """The end of the clip range, as a dotted line that is always inside the panel."""
    ax.axhline(limit, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, max(top, 1.05 * limit))
