"""The notebooks: each .ipynb holds the cells of its .py and what they gave. `pytest -m notebook` executes them.

The .py files (jupytext's percent format) are the source; `python tests/test_notebooks.py [1 3 ...]` makes the .ipynb
files from them, all or those with these numbers, by executing them.
"""

import base64
import hashlib
import io
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jupytext
import nbformat
import numpy as np
import pytest
from gymnax.environments.classic_control.cartpole import CartPole
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from PIL import Image

import purejaxppo
from purejaxppo.envs.names import CUSTOM

FOLDER = Path(__file__).parent.parent / "experiments" / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
LARGEST = 1_500_000
"""Bytes that the whole folder may have: a clone carries every version of it."""
SECONDS = 1200
"""For one cell on a crowded machine; whole notebooks take a minute on two free cores."""

# Folders of one machine; relative paths and addresses (https://...) are nobody's in particular.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])(?:/(?:home|root|tmp|work|usr|opt|var|mnt|Users)/|[A-Z]:\\)")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CellFailed(Exception):
    """A cell raised or did not end; the message shows its source and its error."""


def execute(notebook: Any, name: str, folder: Path = FOLDER) -> Any:
    """The notebook with the outputs of a fresh kernel that starts in `folder`; raises CellFailed."""
    # The tests' own flags, which make programs compile faster and run slower, are not the reader's.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA complains, into the notebook, where compiling takes minutes
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=SECONDS,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError) as error:
        number = max((i for i, cell in enumerate(notebook.cells) if cell.get("execution_count")), default=0)
        raise CellFailed(f"{name}, cell {number}, failed.\n{ANSI.sub('', str(error))}") from None
    return notebook


def outputs(cell: Any) -> list[Any]:
    """Outputs of a cell; none for a cell of text."""
    return cell.get("outputs", [])


def texts(notebook: Any) -> list[str]:
    """All that a reader reads: sources, printed text, tables and errors, but no pictures."""
    found = [cell.source for cell in notebook.cells]
    for output in (output for cell in notebook.cells for output in outputs(cell)):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [str(data) for kind, data in output.get("data", {}).items() if not kind.startswith("image/")]
    return found


def cells_of(notebook: Any) -> list[tuple[str, str]]:
    """Kind and source of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def code_of(notebook: Any) -> str:
    """The cells that were executed, as a short code."""
    cells = "\n# %%\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(cells.encode()).hexdigest()[:16]


def read_notebook(source: Path) -> Any:
    """The .ipynb beside a .py."""
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def shrink(picture: str) -> str:
    """A PNG in base64 with 256 colours in place of millions: half of the size, and looks the same."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def update(source: Path) -> tuple[float, float]:
    """Execute a .py and write what came out into its .ipynb; returns the seconds that it took, and those of all cores.

    The second number is what a busy machine does not change much.
    """
    start, start_cores = time.perf_counter(), seconds_of_kernels()
    notebook = execute(jupytext.read(source), source.name)
    seconds = time.perf_counter() - start, seconds_of_kernels() - start_cores
    for number, cell in enumerate(notebook.cells):  # random names and notes of tools make differences of nothing
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in outputs(cell):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": kernel,
        "language_info": {"name": "python"},
        "executed": {"version": purejaxppo.__version__, "cells": code_of(notebook)},
    }
    nbformat.write(nbformat.from_dict(notebook), source.with_suffix(".ipynb"))
    return seconds


def seconds_of_kernels() -> float:
    """CPU time of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


paired = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def test_there_are_five_and_every_one_has_its_pair() -> None:
    assert [path.name[0] for path in SOURCES] == ["1", "2", "3", "4", "5"]
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == [path.stem for path in SOURCES]


@paired
def test_both_files_hold_the_same_cells(source: Path) -> None:
    assert cells_of(read_notebook(source)) == cells_of(jupytext.read(source)), (
        f"{source.name} has changed since: python tests/test_notebooks.py {source.name[0]}"
    )


@paired
def test_its_outputs_are_those_of_its_cells(source: Path) -> None:
    """Not of earlier ones, whose source was then edited in both files."""
    assert read_notebook(source).metadata["executed"]["cells"] == code_of(jupytext.read(source)), (
        f"python tests/test_notebooks.py {source.name[0]}"
    )


@paired
def test_it_is_valid_and_was_executed_from_top_to_bottom(source: Path) -> None:
    notebook = read_notebook(source)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for cell in code for output in outputs(cell) for kind in output.get("data", {})]
    assert "image/png" in kinds


@paired
def test_its_outputs_are_neither_errors_nor_warnings(source: Path) -> None:
    for cell in read_notebook(source).cells:
        for output in outputs(cell):
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\n{output.text}"


@paired
def test_it_tells_nothing_of_the_machine_that_made_it(source: Path) -> None:
    places = {str(Path.home()), str(FOLDER.parent.parent)} - {"/"}
    for text in [*texts(read_notebook(source)), source.read_text(encoding="utf-8")]:
        assert not MACHINE_PATH.search(text), text
        assert not [place for place in places if place in text], text


@paired
def test_code_has_its_sentence_before_it(source: Path) -> None:
    kinds = "".join(cell.cell_type[0] for cell in read_notebook(source).cells)
    assert kinds.startswith("m")
    assert "cc" not in kinds


@paired
def test_plasticity_losses_are_read_against_the_best_constant(source: Path) -> None:
    """In words, and in pictures by what draws its line."""
    for kind, text in cells_of(jupytext.read(source)):
        if kind == "markdown" and "plasticity loss" in text.lower():
            assert "best constant" in " ".join(text.replace("#", "").split())
        if kind == "code" and "_plasticity_loss" in text:
            assert "pjp.plot.curves" in text


def test_a_gymnax_style_environment_of_ones_own_meets_the_contract() -> None:
    """The lines of notebook 4's text, around gymnax's CartPole as if it were somebody's; it steps as the package's."""
    (text,) = [text for _, text in cells_of(jupytext.read(SOURCES[3])) if "MyGymnaxEnvironment" in text]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"pjp": purejaxppo, "np": np, "jnp": jnp, "jax": jax, "MyGymnaxEnvironment": CartPole}
    try:
        exec(code, names)
        mine = purejaxppo.envs.make("mine/Gym", max_episode_steps=3)  # raises for what breaks the contract
    finally:
        CUSTOM.clear()
    ours, key = purejaxppo.envs.make("gymnax/CartPole-v1", max_episode_steps=3), jax.random.key(0)
    states = [env.reset(key)[1] for env in (mine, ours)]
    for action in (0, 1, 1):
        steps = [env.step(key, state, jnp.int32(action)) for env, state in zip((mine, ours), states, strict=True)]
        jax.tree.map(np.testing.assert_array_equal, *steps)
        states = [step.state for step in steps]
    assert steps[0].truncated


def test_the_folder_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    assert sum(sizes.values()) < LARGEST, sizes


def test_what_counts_as_a_path_of_a_machine() -> None:
    for text in ("in /home/someone/x", "'/tmp/tmp8a/sweep'", "C:\\Users\\x", "(/usr/lib/python3)"):
        assert MACHINE_PATH.search(text), text
    for text in ("runs/mine", "../configs/x.toml", "https://arxiv.org/abs/2405.00662", "and/or", "~/tmp/x", "a/tmp/b"):
        assert not MACHINE_PATH.search(text), text


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.timeout(3600)  # of all cells; a minute on two free cores
@paired
def test_it_runs_in_a_fresh_kernel(source: Path) -> None:
    notebook, failure = jupytext.read(source), ""
    try:
        execute(notebook, source.name)
    except CellFailed as error:
        failure = str(error)
    if failure:  # outside of the handler, or pytest tells it twice
        pytest.fail(failure, pytrace=False)
    assert not [output for cell in notebook.cells for output in outputs(cell) if output.get("name") == "stderr"]


@pytest.mark.notebook
@pytest.mark.slow
def test_a_cell_that_fails_is_shown_with_its_error(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_markdown_cell("text"), nbformat.v4.new_code_cell("divisor = 0\n1 / divisor")]
    with pytest.raises(CellFailed, match=r"(?s)broken.py, cell 1, failed.*1 / divisor.*ZeroDivisionError"):
        execute(nbformat.v4.new_notebook(cells=cells), "broken.py", tmp_path)


if __name__ == "__main__":
    for path in SOURCES:
        if not sys.argv[1:] or path.name[0] in sys.argv[1:]:
            print("{}: {:.0f} s, CPU time {:.0f} s".format(path.stem, *update(path)), flush=True)
