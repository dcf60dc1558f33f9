"""Keep what a sweep showed, small: pictures, what they are drawn from, summary and claims in experiments/results.

python experiments/publish.py runs/stress_acrobot --figures 1 2 3 4 6 7 spectrum survival --compare return_mean

Pictures are 1200 pixels wide and have 256 colours, those of their legends among them, exactly; a picture whose legend
would lose a colour is an error. `drawn.nc` has the metrics that the figures and tables need, without spectra: `python
experiments/publish.py experiments/results/NAME/drawn.nc ...` draws and tabulates them again when the sweep is gone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import purejaxppo as pjp
from purejaxppo.plots.figures import draw_figure, file_name
from purejaxppo.plots.files import as_small_png, lost_colours
from purejaxppo.plots.panels import FIGURE_1, FIGURE_2, FIGURE_3, FIGURE_6, OVERVIEW
from purejaxppo.results.dataset import by_environment
from purejaxppo.results.files import save
from purejaxppo.statistics.correlations import RANKS

RESULTS = Path(__file__).parent / "results"
WIDTH = 1200
PANELS = (*OVERVIEW, *FIGURE_1, *FIGURE_2, *FIGURE_3, *FIGURE_6)


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "purejaxppo", *arguments], check=True)


def kept(dataset: xr.Dataset) -> xr.Dataset:
    """The metrics that figures and tables are made of, as float32."""
    names = {panel.metric for panel in PANELS} | {f"{net}_{rank}" for net in ("policy", "critic") for rank in RANKS}
    names |= {str(name) for name in dataset.data_vars if "_plasticity_" in str(name)} | {
        "status",
        "critic_dead_neurons",
    }
    small = dataset[[name for name in dataset.data_vars if name in names and "D" not in dataset[name].dims]]
    return small.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, keep_attrs=True)


def draw(dataset: xr.Dataset, figures: list[str], target: Path) -> None:
    """The figures as small pictures; of several environments one each."""
    for name in figures:
        for env, part in by_environment(dataset).items():
            path = target / f"{file_name(name, env)}.png"
            path.write_bytes(as_small_png(draw_figure(part, name), WIDTH))
            if lost := lost_colours(path):
                raise SystemExit(f"{path} has lost the colours of {', '.join(lost)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--figures", nargs="*", default=[])
    parser.add_argument("--compare", nargs="*", default=[], metavar="METRIC")
    parser.add_argument("--claims", action="store_true")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    folder = directory.parent if directory.is_file() else directory
    target = RESULTS / folder.resolve().name
    target.mkdir(exist_ok=True)
    dataset = pjp.load_results(directory)
    draw(dataset, ["overview", *arguments.figures], target)
    for metric in arguments.compare:
        command("compare", str(directory), "--metric", metric)
    command("summary", str(directory))
    if arguments.claims:
        command("claims", str(directory))
    if folder.resolve() != target.resolve():
        tables = ["summary", *[f"compare_{metric}" for metric in arguments.compare], *["claims"] * arguments.claims]
        for name in tables:
            (target / f"{name}.csv").write_text((folder / f"{name}.csv").read_text(encoding="utf-8"), encoding="utf-8")
        save(kept(dataset), target / "drawn.nc")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
