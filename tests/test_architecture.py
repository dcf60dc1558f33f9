"""Who may import whom: two wings over a common ground, tied by `results/` alone, each room importing only earlier ones.

Read from the source, so that imports inside functions and for type checkers count as well.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import purejaxppo

WITHOUT_JAX = {"errors", "own", "fields", "config", "hyperparams", "presets", "interventions", "_lazy"}
GROUND = WITHOUT_JAX | {"metrics", "blas", "products", "envs", "networks", "distributions"}
COMPUTING = {
    "ppo": GROUND,
    "diagnostics": GROUND,
    "training": GROUND | {"ppo", "diagnostics"},
    "sweep": GROUND | {"ppo", "diagnostics", "training", "results"},
}
READING = {
    "results": WITHOUT_JAX,
    "statistics": WITHOUT_JAX | {"results"},
    "claims": WITHOUT_JAX | {"results", "statistics"},
    "plots": WITHOUT_JAX | {"results", "statistics", "claims"},
    "plot": WITHOUT_JAX | {"plots"},
    "report": WITHOUT_JAX | {"results", "statistics", "claims", "plots"},
}
# Room -> the rooms that it may import; a room is a folder of the package, or a file at its top.
MAY_IMPORT = dict.fromkeys(sorted(GROUND), GROUND) | COMPUTING | READING
TOP = {
    "__init__",
    "__main__",
    "_moved",
    "analysis",
    "commands",
    "evaluate",
    "rediagnosis",
    "render",
}  # may import anything

FOLDER = Path(purejaxppo.__file__).parent


@functools.cache
def modules() -> dict[str, Path]:
    """Module, without `purejaxppo.` -> its file; packages end in .__init__, the whole one is __init__."""
    return {".".join(path.relative_to(FOLDER).with_suffix("").parts): path for path in FOLDER.rglob("*.py")}


def module(dotted: str) -> str:
    """The module of the package that a dotted name leads to: its longest part that has a file."""
    name = dotted.removeprefix("purejaxppo").removeprefix(".")
    found = next((known for known in (name, f"{name}.__init__".removeprefix(".")) if known in modules()), None)
    return found or module(name.rpartition(".")[0])


@functools.cache
def imports(name: str) -> dict[str, int]:
    """Modules of the package that a module imports, wherever in it -> line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {module(dotted): node.lineno for dotted in names if dotted.split(".")[0] == "purejaxppo"}
    return found


def room(name: str) -> str:
    return name.split(".")[0]


def test_every_file_has_a_room() -> None:
    assert {room(name) for name in modules()} <= MAY_IMPORT.keys() | TOP


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_rooms_import_earlier_rooms_only(name: str) -> None:
    # The package itself says its version and where it is.
    allowed = MAY_IMPORT[name] | {name, "__init__"}
    wrong = [
        f"{source}, line {line}: {target}"
        for source in modules()
        if room(source) == name
        for target, line in imports(source).items()
        if room(target) not in allowed
    ]
    assert not wrong, f"{name} may import {sorted(MAY_IMPORT[name])} only; but " + "; ".join(wrong)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_files_of_a_room_import_in_one_direction(name: str) -> None:
    graph = {source: [t for t in imports(source) if room(t) == name] for source in modules() if room(source) == name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_algorithm_fits_on_a_page_or_two() -> None:
    assert len((FOLDER / "training" / "train.py").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_function_is_longer_than_sixty_lines() -> None:
    """Without its docstring."""
    too_long = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) and first.end_lineno else 0
                lines = (node.end_lineno or 0) - node.lineno + 1 - told
                too_long += [f"{name}.{node.name}: {lines}"] * (lines > 60)
    assert not too_long


def test_imports_are_found_wherever_they_are() -> None:
    """The test above is worth nothing if these are not seen: a plain import, one in a function, one for types."""
    assert "config" in imports("presets")
    assert "sweep.store" in imports("commands.computing")
    assert "plots.style" in imports("plots.__init__")
    assert module("purejaxppo.sweep.plan.Sweep") == "sweep.plan"
    assert module("purejaxppo.errors") == "errors"
    assert module("purejaxppo.__version__") == "__init__"


def test_the_reading_wing_loads_no_jax_and_no_matplotlib() -> None:
    names = [f"purejaxppo.{name.removesuffix('.__init__')}" for name in modules() if room(name) in READING]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {[*names, 'purejaxppo.analysis']}];"
        "sys.exit(bool({'jax', 'flax', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("room", ["statistics", "plots", "claims", "results", "diagnostics"])
def test_a_room_offers_every_module_in_it(room: str) -> None:
    package = importlib.import_module(f"purejaxppo.{room}")
    names = {path.stem for path in Path(str(package.__file__)).parent.glob("*.py")} - {"__init__"}
    assert names <= set(dir(package)), names - set(dir(package))
