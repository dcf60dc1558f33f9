"""Plain rectangles in place of a jaxtari game's pictures, which are not ours to ship: `... .py DIR pong`.

`XDG_DATA_HOME=DIR` then lets the game start. Its rules are jaxtari's own; what it looks like is not, nor are hits in
games that compare pictures.
"""

import os
import sys
from pathlib import Path

import numpy as np


def write_sprites(folder: Path, game: str) -> int:
    """Write each picture that the game asks for; how many there were. jaxtari must not have been imported before."""
    home = folder / "jaxtari"
    (home / "sprites").mkdir(parents=True, exist_ok=True)
    (
        home / ".alternative_sprites_installed"
    ).touch()  # as its own installer notes that sprites are not the original ones
    (home / "sprites" / ".version").write_text("1\n")
    os.environ |= {"XDG_DATA_HOME": str(folder), "JAXTARI_SKIP_SPRITE_UPDATE": "1"}
    import jaxtari

    for count in range(1000):
        try:
            jaxtari.make(game)
            return count
        except FileNotFoundError as error:
            path = Path(error.filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, sprite(path.stem, count))
    raise RuntimeError(f"{game} asks for more than {count} pictures")


def sprite(name: str, number: int) -> np.ndarray:
    """A grey picture, RGBA: the whole screen for a background, else 8 x 8."""
    size, grey = ((210, 160), 20) if "background" in name else ((8, 8), 60 + 9 * (number % 20))
    return np.concatenate([np.full((*size, 3), grey, np.uint8), np.full((*size, 1), 255, np.uint8)], axis=2)


if __name__ == "__main__":
    print(f"{write_sprites(Path(sys.argv[1]), sys.argv[2])} pictures written; XDG_DATA_HOME={sys.argv[1]} finds them")
