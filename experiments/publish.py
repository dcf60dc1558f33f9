"""Keep what a sweep showed, small: pictures (1200 pixels wide, 256 colours), summary and claims in experiments/results.

python experiments/publish.py runs/stress_acrobot --figures 1 2 3 4 6 7 spectrum survival --compare return_mean
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

RESULTS = Path(__file__).parent / "results"
WIDTH = 1200


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "purejaxppo", *arguments], check=True)


def shrink(source: Path, target: Path) -> None:
    image = Image.open(source).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(256).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--figures", nargs="*", default=[])
    parser.add_argument("--compare", nargs="*", default=[], metavar="METRIC")
    parser.add_argument("--claims", action="store_true")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    target = RESULTS / directory.resolve().name
    target.mkdir(exist_ok=True)
    for figure in arguments.figures:
        command("plot", str(directory), "--figure", figure)
    for metric in arguments.compare:
        command("compare", str(directory), "--metric", metric)
    command("summary", str(directory))
    if arguments.claims:
        command("claims", str(directory))
    pictures = ["overview", *[f"figure{name}" if name.isdigit() else name for name in arguments.figures]]
    for name in pictures:  # of several environments one each: figure1_gymnax_Asterix-MinAtar.png
        for path in [*directory.glob(f"{name}.png"), *directory.glob(f"{name}_*.png")]:
            shrink(path, target / path.name)
    tables = ["summary", *[f"compare_{metric}" for metric in arguments.compare], *["claims"] * arguments.claims]
    for name in tables:
        (target / f"{name}.csv").write_text((directory / f"{name}.csv").read_text(encoding="utf-8"), encoding="utf-8")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
