"""Files of figures: PNG and PDF for the screen, PDF, SVG and a caption for a paper, small PNGs that keep their colours.

A PNG carries its caption, and where its legend shows which colour: whoever shrinks it can check that both are there.
"""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.plots.sheets import house_style, place_texts, sheet_of
from purejaxppo.results.files import sync_and_rename

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY = "key:"
"""Begins the gid of an artist that shows what a colour means, other than in a legend: its label follows."""
LEGEND = "Legend"
"""Name of the PNG's text in which the legend is recorded, as JSON: a list of {label, colour, box}, of colours along a
colour bar also {tolerance}; box is left, top, right and bottom as fractions of the picture, from its upper left corner.
"""
COLOUR_BAR = "colour bar"
"""Label of the axes that hold one."""
_SAMPLES, _BAR_TOLERANCE = 64, 8
_FEW, _DPI = 256, 200
_MARGIN = 3 / 72  # inches


def caption_of(figure: Figure) -> str:
    """Title and caption of a figure as one text, also where they are not drawn on it."""
    return str(figure.get_label())


def as_png(figure: Figure, dpi: float | str = "figure") -> bytes:
    """The figure as a PNG, at its own resolution or at `dpi` pixels per inch, with its caption and legend as texts."""
    buffer = io.BytesIO()
    with house_style(sheet_of(figure)):
        figure.savefig(buffer, format="png", dpi=dpi, metadata=_texts(figure, dpi))
    return buffer.getvalue()


def as_small_png(figure: Figure, width: int) -> bytes:
    """The figure as a PNG `width` pixels wide, of 256 colours: a third of the size.

    Every colour of the legend is one of them, exactly, and so are 64 along each colour bar; each other one of the
    picture becomes the nearest.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn = Image.open(io.BytesIO(as_png(figure, width / figure.get_figwidth())))
    picture, texts = drawn.convert("RGB"), PngInfo()
    for name, text in drawn.info.items():
        if name in ("Description", LEGEND):
            texts.add_itxt(name, text, zip=name == LEGEND)
    buffer = io.BytesIO()
    reduce_colours(picture, [entry["colour"] for entry in legend_of(figure)]).save(
        buffer, format="PNG", optimize=True, pnginfo=texts
    )
    return buffer.getvalue()


def reduce_colours(picture: Any, keep: Iterable[str]) -> Any:
    """An RGB picture in at most 256 colours, those to keep (`#0072b2`) among them; others by median cut."""
    from matplotlib.colors import to_rgb
    from PIL import Image
    from scipy.spatial import KDTree

    kept = [tuple(round(255 * part) for part in to_rgb(colour)) for colour in dict.fromkeys(keep)]
    chosen = picture.quantize(_FEW - len(kept), method=Image.Quantize.MEDIANCUT).getpalette()
    palette = np.unique([*kept, *np.reshape(chosen, (-1, 3)).tolist()], axis=0)[:_FEW].astype(np.uint8)
    numbers = np.asarray(picture).reshape(-1, 3).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    found, places = np.unique(numbers, return_inverse=True)
    parts = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    nearest = np.asarray(KDTree(palette).query(parts)[1], dtype=np.uint8)
    small = Image.fromarray(nearest[places.ravel()].reshape(picture.size[::-1]), mode="P")
    small.putpalette(palette.tobytes())
    return small


def legend_of(figure: Figure, dpi: float | str = "figure") -> list[dict[str, Any]]:
    """What the figure's legends say, drawn at `dpi`: a list of {label, colour, box}, see `LEGEND`.

    Letters are whole pixels high: a legend of ten lines at another resolution ends half a line higher or lower.
    """
    own = figure.dpi
    figure.dpi = own if isinstance(dpi, str) else dpi
    try:
        return _placed_legend(figure)
    finally:
        figure.dpi = own


def _placed_legend(figure: Figure) -> list[dict[str, Any]]:
    from matplotlib.colors import to_hex

    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    with house_style(sheet_of(figure)):
        place_texts(figure)  # places may be those of a file of another resolution
    artists = [
        (text.get_text(), handle)
        for legend in figure.legends
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        if not _is_blank(handle)
    ]
    artists += [
        (str(artist.get_gid()).removeprefix(KEY), artist)
        for artist in figure.findobj(lambda artist: str(artist.get_gid()).startswith(KEY))
    ]
    width, height = figure.bbox.width, figure.bbox.height
    entries = []
    for label, artist in artists:
        # A flat line has no height, and letters push it up or down by a pixel at another resolution.
        extent = artist.get_window_extent(renderer)  # pyright: ignore[reportOptionalMemberAccess]
        box = extent.padded(_MARGIN * figure.dpi)
        colour = artist.get_color() if hasattr(artist, "get_color") else artist.get_facecolor()  # pyright: ignore
        places = box.x0 / width, 1 - box.y1 / height, box.x1 / width, 1 - box.y0 / height
        entries.append({"label": label, "colour": to_hex(colour), "box": [round(place, 5) for place in places]})
    bars = [ax for ax in figure.axes if ax.get_label() == COLOUR_BAR]
    return entries + [entry for bar in bars for entry in _bar_entries(bar)]


def _bar_entries(bar: Axes) -> list[dict[str, Any]]:
    """Entries of a vertical colour bar from below: at most `_SAMPLES` of its colours, each where it is."""
    from matplotlib.colors import to_hex

    mesh: Any = next(part for part in bar.collections if part.get_array() is not None)
    colours = mesh.get_cmap()(mesh.norm(np.ravel(mesh.get_array())))
    shown = np.unique(np.linspace(0, len(colours) - 1, _SAMPLES).round().astype(int))
    locator = bar.get_axes_locator()  # of a bar with a tip, which is as long as the bar is short
    bar.apply_aspect(locator(bar, None) if locator else None)  # pyright: ignore[reportArgumentType]
    box, height = bar.get_position(), 1 / len(colours)
    entries = []
    for place in shown.tolist():
        top, bottom = (1 - box.y0 - box.height * height * end for end in (place + 1, place))
        entries.append(
            {
                "label": f"colour bar {place + 1} of {len(colours)}",
                "colour": to_hex(colours[place]),
                "box": [round(end, 4) for end in (box.x0, top, box.x1, bottom)],
                "tolerance": _BAR_TOLERANCE,
            }
        )
    return entries


def _is_blank(handle: Any) -> bool:
    """Whether a line of a legend has neither line nor marker: its text goes with the line above."""
    return hasattr(handle, "get_marker") and (handle.get_linestyle(), handle.get_marker()) == ("None", "None")


def lost_colours(path: str | os.PathLike[str], tolerance: int = 24) -> list[str]:
    """Labels of a PNG's legend whose colour is not where the legend says: no pixel within `tolerance` of each of red,
    green and blue (0 to 255), less along a colour bar. Raises ValueError for a picture that does not say what it shows.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image

    with Image.open(path) as picture:
        if LEGEND not in picture.info:
            raise ValueError(f"{Path(path).name} does not say what its legend shows.")
        entries: Sequence[dict[str, Any]] = json.loads(picture.info[LEGEND])
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    lost = []
    for entry in entries:
        left, top, right, bottom = entry["box"]
        part = pixels[int(top * height) : int(np.ceil(bottom * height)) + 1]
        part = part[:, int(left * width) : int(np.ceil(right * width)) + 1]
        distance = np.abs(part - np.round(255 * np.array(to_rgb(entry["colour"])))).max(axis=-1, initial=0)
        if distance.size == 0 or distance.min() > entry.get("tolerance", tolerance):
            lost.append(entry["label"])
    return lost


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write a figure beside each other as PNG and PDF; one for a paper as PDF, SVG and its caption as .txt.

    Each in one atomic step; returns their paths. `path` may end in one of the suffixes or none; missing folders are
    created. Raises ConfigError for a path without a name, such as `..`, and OSError when the disk refuses.
    """
    if Path(path).name in ("", ".."):
        raise ConfigError(f"path is {os.fspath(path)!r}, but must end in the name of a file.")
    suffixes = ("pdf", "svg", "txt") if sheet_of(figure).name == "paper" else ("png", "pdf")
    base = Path(path)
    if base.suffix.lower() in (".png", ".pdf", ".svg", ".txt"):
        base = base.with_suffix("")
    base.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in suffixes:
        target = base.with_name(f"{base.name}.{suffix}")
        partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            _write(figure, partial, suffix)
            sync_and_rename(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        written.append(target)
    return tuple(written)


def _write(figure: Figure, path: Path, suffix: str) -> None:
    if suffix == "txt":
        path.write_text(f"{caption_of(figure)}\n", encoding="utf-8")
        return
    # Without the date the same figure gives the same bytes.
    metadata: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    metadata |= _texts(figure, _DPI) if suffix == "png" else {}
    with house_style(sheet_of(figure)):
        figure.savefig(path, format=suffix, dpi=_DPI, metadata=metadata)


def _texts(figure: Figure, dpi: float | str) -> dict[str, str]:
    """What is written into a PNG beside the picture."""
    return {"Description": caption_of(figure), LEGEND: json.dumps(legend_of(figure, dpi))}
