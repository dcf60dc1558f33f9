"""Keep what a sweep showed, small: pictures, what they are drawn from, summary and claims in experiments/results.

python experiments/publish.py runs/stress_acrobot --figures 1 2 3 4 6 7 spectrum survival --compare return_mean

Pictures are 1200 pixels wide, or 100 an inch, and have 256 colours, those of their legends among them, exactly; a
picture whose legend would lose a colour is an error. `drawn.nc` has the metrics that the figures and tables need, no
spectra: `python experiments/publish.py experiments/results/NAME/drawn.nc ...` draws and tabulates them again when the
sweep is gone. `finals.csv` has what became of every run; `factorial.csv`, where that figure is asked for, its effects.
`python experiments/tables.py` then writes the tables of the pages anew.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

import purejaxppo as pjp
from purejaxppo.plots.conditions import parse_where, select
from purejaxppo.plots.curves import curves
from purejaxppo.plots.factorial import FACTORIAL
from purejaxppo.plots.figures import draw_figure, file_name
from purejaxppo.plots.files import as_small_png, lost_colours
from purejaxppo.plots.panels import FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_6, OVERVIEW
from purejaxppo.results.dataset import by_environment, swept_fields
from purejaxppo.results.files import save
from purejaxppo.results.runs import policy_widths, steps_reached
from purejaxppo.statistics.collapse import collapse_steps, has_learned
from purejaxppo.statistics.correlations import RANKS
from purejaxppo.statistics.factorial import factorial_effects
from purejaxppo.statistics.finals import final_values

RESULTS = Path(__file__).parent / "results"
WIDTH, RESOLUTION = 1200, 100  # pixels, and the fewest an inch: of wide figures lines would be thinner than a pixel
PANELS = (*OVERVIEW, *FIGURE_1, *FIGURE_2, *FIGURE_3, *FIGURE_6)
FINALS = (
    *("return_mean", *(f"policy_{rank}" for rank in RANKS), "critic_rank", "policy_preactivation_norm"),
    *(f"policy_plasticity_{part}" for part in ("loss", "excess_over_constant", "excess_over_fresh")),
    "excess_ratio",
)
LOSS, EXCESS = "policy_plasticity_loss", "policy_plasticity_excess_over_constant"
EVENTS = ("rank", "dead", "return")


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "purejaxppo", *arguments], check=True)


def kept(dataset: xr.Dataset, more: Sequence[str] = ()) -> xr.Dataset:
    """The metrics that figures and tables are made of, as float32; of the command not where it wrote to."""
    names = {panel.metric for panel in PANELS} | {f"{net}_{rank}" for net in ("policy", "critic") for rank in RANKS}
    names |= {str(name) for name in dataset.data_vars if "_plasticity_" in str(name)} | {
        "status",
        "critic_dead_neurons",
        *more,
    }
    small = dataset[[name for name in dataset.data_vars if name in names and "D" not in dataset[name].dims]]
    small.attrs["command"] = re.sub(r" --out \S+", "", small.attrs.get("command", ""))
    return small.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, keep_attrs=True)


def finals_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per run: the fields that differ, `seed`, `status` (0: sound), `env_steps` reached; its values at the end.

    Those are `final_values`, empty where the run has none, of the metrics that the results have; of the plasticity loss
    only beside its excess, as it says little alone. `policy_dead_share` is the dead share of the penultimate units.
    `rank_collapse_step`, `dead_collapse_step`, `return_collapse_step`: from which step on that is lost
    (`collapse.EVENTS`), empty for never. `has_learned`: whether there was a return to lose.
    """
    columns = {field: dataset[field].values for field in (*swept_fields(dataset), "seed", "status")}
    columns["env_steps"] = steps_reached(dataset).astype(np.int64)
    names = [name for name in FINALS if name in dataset and (name != LOSS or EXCESS in dataset)]
    columns |= {name: final_values(dataset, name).values for name in names}
    columns["policy_dead_share"] = final_values(dataset, "policy_dead_neurons").values / policy_widths(dataset)
    columns |= {f"{event}_collapse_step": collapse_steps(dataset, event) for event in EVENTS}
    return pd.DataFrame(columns | {"has_learned": has_learned(dataset)})


def factorial_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Main effects and interactions, as the figure of the factorial draws them: `factorial_effects` of each metric."""
    tables = [
        factorial_effects(dataset, panel.metric, in_doublings=is_log, is_lowest=is_lowest).assign(metric=panel.metric)
        for panel, is_log, is_lowest in FACTORIAL
    ]
    return pd.concat(tables)


def write_factorials(dataset: xr.Dataset, target: Path) -> None:
    """The effects as CSV; of several environments one table each, as their figures are."""
    for env, part in by_environment(dataset).items():
        path = target / f"{file_name('factorial', env)}.csv"
        factorial_table(part).to_csv(path, index=False, lineterminator="\n")


def write_picture(figure: Figure, path: Path) -> None:
    path.write_bytes(as_small_png(figure, max(WIDTH, round(RESOLUTION * figure.get_figwidth()))))
    if lost := lost_colours(path):
        raise SystemExit(f"{path} has lost the colours of {', '.join(lost)}.")


def draw(dataset: xr.Dataset, figures: list[str], target: Path) -> None:
    """The figures as small pictures; of several environments one each."""
    for name in figures:
        for env, part in by_environment(dataset).items():
            path = target / f"{file_name(name, env)}.png"
            figure = draw_figure(part, name)
            panels = [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "colour bar"]
            if all("no values" in [text.get_text() for text in ax.texts] for ax in panels):
                raise SystemExit(f"{path} would show no values: {name} needs metrics that these results have not kept.")
            write_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--figures", nargs="*", default=[])
    parser.add_argument("--metrics", nargs="*", default=[], help="drawn over training, as METRIC_METRIC.png")
    parser.add_argument("--compare", nargs="*", default=[], metavar="METRIC")
    parser.add_argument("--against", nargs="*", default=[], help="as those of compare: FIELD=VALUE --within FIELD")
    parser.add_argument("--within", nargs="*", default=[])
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--where", nargs="*", default=[], help="runs that are drawn, FIELD=VALUE,VALUE")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    folder = directory.parent if directory.is_file() else directory
    target = RESULTS / folder.resolve().name
    target.mkdir(exist_ok=True)
    dataset = pjp.load_results(directory)
    drawn = select(dataset, parse_where(arguments.where))
    draw(drawn, ["overview", *arguments.figures], target)
    if arguments.metrics:
        write_picture(curves(drawn, arguments.metrics), target / f"{'_'.join(arguments.metrics)}.png")
    if "factorial" in arguments.figures:
        write_factorials(drawn, target)
    finals_table(dataset).to_csv(target / "finals.csv", index=False, lineterminator="\n")
    contrasts = [*["--against"] * bool(arguments.against), *arguments.against]
    contrasts += [*["--within"] * bool(arguments.within), *arguments.within]
    for metric in arguments.compare:
        command("compare", str(directory), "--metric", metric, *contrasts)
    command("summary", str(directory))
    if arguments.claims:
        command("claims", str(directory))
    if folder.resolve() != target.resolve():
        tables = ["summary", *[f"compare_{metric}" for metric in arguments.compare], *["claims"] * arguments.claims]
        for name in tables:
            (target / f"{name}.csv").write_text((folder / f"{name}.csv").read_text(encoding="utf-8"), encoding="utf-8")
        save(kept(dataset, arguments.metrics), target / "drawn.nc")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
