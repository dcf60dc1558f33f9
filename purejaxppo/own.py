"""What users bring, by import path: `module:name` of an environment, a network, a diagnostic or an intervention.

Modules are found on sys.path, and beside the sweep file. Imports no JAX (what it imports for a user may).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from purejaxppo.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])
Row = tuple[str, str, str, str]
"""Of a metric its long name, units, definition and source, as in the table of metrics."""

_MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_ROWS, _KIND = "_purejaxppo_rows", "_purejaxppo_kind"
_KINDS = ("penalty", "after_step")

before_first_import: list[Callable[[], None]] = []
"""What to do before a module of a user's is imported: the command line sets up JAX's devices, which are fixed as soon
as that module computes anything."""

_beside: list[str] = []  # folders that `look_in` has added to sys.path
_imported: dict[str, tuple[ModuleSpec, str]] = {}
"""Of modules in this process the spec and the code of the file, from when they were imported or reloaded."""


@dataclass(frozen=True)
class Diagnostic:
    """A user's function of (before, after, batch), and the rows of the metrics that it gives."""

    path: str
    function: Callable[..., Any]
    rows: tuple[tuple[str, Row], ...]


@dataclass(frozen=True)
class Intervention:
    """A user's penalty or operation after a step; what it takes by keyword only are its strengths."""

    path: str
    function: Callable[..., Any]
    is_penalty: bool

    @property
    def name(self) -> str:
        """That of the function."""
        return self.function.__name__

    @property
    def coefficient(self) -> str:
        """The strength that a penalty is multiplied by."""
        return f"{self.name}_coef"

    @property
    def keywords(self) -> tuple[str, ...]:
        """The strengths that the function takes itself."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY)

    @property
    def strengths(self) -> tuple[str, ...]:
        """All strengths, each of which needs a value in the hyper-parameters."""
        return (*((self.coefficient,) if self.is_penalty else ()), *self.keywords)

    @property
    def row(self) -> Row:
        """The row of a penalty's metric, `name_loss`; its definition is the first line of the docstring."""
        told = (inspect.getdoc(self.function) or f"penalty {self.path}").splitlines()[0].rstrip(".")
        return self.name.replace("_", " "), "", f"{told}; without its coefficient", self.path


def diagnostic(**rows: tuple[str, ...]) -> Callable[[Function], Function]:
    """Mark a function as a diagnostic: name of each metric that it gives -> (long name, units, definition[, source]).

    The function gets `(before, after, batch)`: the `networks.Networks` before and after the update phase, on all
    samples [N, ...] of its `ppo.state.Batch`, and returns a dict of scalars [], one for each row.
    """

    def mark(function: Function) -> Function:
        setattr(function, _ROWS, rows)
        return function

    return mark


def penalty(function: Function) -> Function:
    """Mark a function as a penalty: `(networks, batch, *, ...) -> []`, to be minimised with the loss of a minibatch.

    `networks` is a `networks.Networks` on the minibatch, `batch` the minibatch. Multiplied by the hyper-parameter
    NAME_coef, NAME being the function's; further keyword-only arguments are hyper-parameters of the same names. All are
    floats that may be swept inside one program. The metric NAME_loss is its value without the coefficient.
    """
    setattr(function, _KIND, "penalty")
    return function


def after_step(function: Function) -> Function:
    """Mark a function as an operation after each gradient step: `(before, after, key, *, ...) -> parameters`.

    `before` and `after` the step are the parameters of all networks, nested dicts of arrays; the result takes the place
    of `after`. Keyword-only arguments are hyper-parameters of the same names. Adam's moments are left alone.
    """
    setattr(function, _KIND, "after_step")
    return function


def is_path(name: str) -> bool:
    """Whether a name is an import path, `module:name`, and no name of ours."""
    return ":" in name


def check_path(field: str, path: str) -> None:
    """Raise ConfigError for what has not the form of an import path."""
    if not re.fullmatch(rf"{_MODULE}:[^\W\d]\w*", path):
        raise ConfigError(f"{field} is {path!r}, but must be an import path, module:name, such as 'lab.nets:Torso'.")


def find(field: str, path: str) -> Any:
    """What an import path leads to; raises ConfigError where it leads nowhere."""
    check_path(field, path)
    module_name, name = path.split(":")
    module = load(field, module_name)
    if not hasattr(module, name):
        raise ConfigError(
            f"{field} is {path!r}, but {module_name}, {getattr(module, '__file__', 'built in')}, has no {name}."
        )
    return getattr(module, name)


def find_diagnostic(path: str) -> Diagnostic:
    """A diagnostic by its import path; raises ConfigError for what was not marked as one, and for rows of no use."""
    function = find("diagnostics", path)
    rows = getattr(function, _ROWS, None)
    if not callable(function) or not rows:
        raise ConfigError(
            f"diagnostics has {path!r}, which must be a function marked with @pjp.diagnostic(name=(long name, units, "
            "definition), ...)."
        )
    for name, row in rows.items():
        if not isinstance(row, tuple) or len(row) not in (3, 4) or not all(isinstance(text, str) for text in row):
            raise ConfigError(
                f"diagnostics has {path!r}, whose row {name} is {row!r}, but must be (long name, units, definition) "
                "or, with its source, four texts."
            )
    complete = tuple((name, row if len(row) == 4 else (*row, path)) for name, row in rows.items())
    return Diagnostic(path, function, complete)


def find_intervention(path: str) -> Intervention:
    """An intervention by its import path; raises ConfigError for what was not marked as one."""
    function = find("interventions", path)
    kind = getattr(function, _KIND, None)
    if not callable(function) or kind not in _KINDS:
        raise ConfigError(
            f"interventions has {path!r}, which must be a function marked with @pjp.penalty or @pjp.after_step."
        )
    return Intervention(path, function, kind == "penalty")


def load(field: str, name: str) -> Any:
    """A module of a user's; raises ConfigError with one sentence where it cannot be imported."""
    if not re.fullmatch(_MODULE, name):
        raise ConfigError(f"{field} is {name!r}, but must be the name of a module, such as 'lab.setup'.")
    if name == "__main__":
        raise ConfigError(
            f"{field} is in __main__, a notebook or the script that runs, but must be in a module of its own: a sweep "
            "that goes on imports it again."
        )
    while before_first_import:
        before_first_import.pop()()
    try:
        module = importlib.import_module(name)
        _remember(name.split(".")[0])
        return module
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{field} needs module {name}, but there is no {error.name} on sys.path or beside the sweep file."
            ) from None
        raise failure(f"{field} needs module {name}, which cannot be imported", error) from error
    except Exception as error:
        raise failure(f"{field} needs module {name}, which cannot be imported", error) from error


def failure(what: str, error: Exception) -> ConfigError:
    """A sentence about an exception in a user's code, with the place where it was raised."""
    if isinstance(error, ConfigError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    if isinstance(error, SyntaxError):
        place = f", {error.filename}, line {error.lineno}"
    told = (str(error).strip() or "no message").splitlines()[0]
    return ConfigError(f"{what}: {type(error).__name__}: {told}{place}.")


def look_in(folder: str | None) -> None:
    """Find modules in a folder as well, that of the sweep file, after all others."""
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
        _beside.append(folder)
        importlib.invalidate_caches()


def place_of(modules: Iterable[str]) -> str | None:
    """The folder in which the first of the user's own modules, or its package, was found; None without one.

    What is installed is none: another process finds it by itself, or has one of its own.
    """
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places = (_place(_spec(top)) for top in _tops(modules) if top != __name__.split(".")[0])
    return next((str(place) for place in places if place is not None and place not in installed), None)


def check_places(modules: Iterable[str], folder: str | None) -> None:
    """Raise ConfigError where a module that is beside the sweep file would be that of another project in its place.

    What this process finds without looking beside any sweep file comes before those, and is no mistake.
    """
    if folder is None:
        return
    for name in _tops(modules):
        here = Path(folder, name)
        found = _place(_spec(name))
        if not (here.is_dir() or here.with_suffix(".py").is_file()) or found is None or found == Path(folder).resolve():
            continue
        beside = sorted(here.rglob("*.py")) if here.is_dir() else [here.with_suffix(".py")]
        if _code(beside) == _code(_files(_spec(name))):  # copies of one project, as checkouts are
            continue
        if any(found == Path(other).resolve() for other in _beside):
            raise ConfigError(
                f"module {name} is in {folder}, beside the sweep file, but in this process it is that of {found}; "
                "two projects' modules of one name need a process each."
            )


def sources(modules: Iterable[str], *, is_to_run: bool = True) -> dict[str, str]:
    """The code of users' modules as short codes: of a package all its Python files, of a module in no package its one.

    Our own package is left out. Raises ConfigError as `load` does, and where something is to be run and a file has
    changed since it was imported: what runs is not what it says.
    """
    names = [name for name in _tops(modules) if name != __name__.split(".")[0]]
    return {f"source_of_{name}": _source(name, is_to_run) for name in names}


def _tops(modules: Iterable[str]) -> list[str]:
    return sorted({module.split(".")[0] for module in modules})


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # somebody made the module without a file
        return None


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder that a module, or a package's folder, is in; None without a file."""
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(spec.origin).resolve().parent if spec is not None and spec.has_location and spec.origin else None


def _source(name: str, is_to_run: bool) -> str:
    if is_to_run:
        _check_unchanged(name)
    spec = _spec(name)
    if spec is None:
        raise ConfigError(f"there is no module {name} on sys.path or beside the sweep file.")
    return _code(_files(spec))


def _files(spec: ModuleSpec | None) -> list[Path]:
    """The Python files of a module, or of a whole package."""
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders and spec.has_location and spec.origin is not None:
        return [Path(spec.origin)]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _running(top: str) -> Iterator[tuple[str, ModuleSpec, Path]]:
    """What is imported of a package: name, spec, which a reload makes anew, and file."""
    for name in [name for name in list(sys.modules) if name.split(".")[0] == top]:
        spec = getattr(sys.modules[name], "__spec__", None)
        if spec is not None and spec.has_location and spec.origin:
            yield name, spec, Path(spec.origin)


def _remember(top: str) -> None:
    """Keep the code of what has been imported, or reloaded, of a package since it was last asked."""
    for name, spec, file in _running(top):
        if name not in _imported or _imported[name][0] is not spec:
            _imported[name] = spec, _code([file]) if _is_as_compiled(spec, file) else ""


def _is_as_compiled(spec: ModuleSpec, file: Path) -> bool:
    """Whether a file is, by time and size, what Python compiled when it imported it; true where it keeps no record."""
    if sys.dont_write_bytecode or not spec.cached:
        return True
    try:
        with open(spec.cached, "rb") as compiled:
            header, found = compiled.read(16), file.stat()
        is_writable = os.access(Path(spec.cached).parent, os.W_OK)
    except OSError:
        return True
    if len(header) < 16 or any(header[4:8]) or not is_writable:
        return True
    times = [number & 0xFFFFFFFF for number in (int(found.st_mtime), found.st_size)]
    return [int.from_bytes(header[at : at + 4], "little") for at in (8, 12)] == times


def _check_unchanged(top: str) -> None:
    _remember(top)
    for name, _, file in _running(top):
        if _code([file]) != _imported[name][1]:
            told = f"module {name}, {file}, has changed since this process imported it"
            raise ConfigError(f"{told}; restart the process.")


def _code(files: Iterable[Path]) -> str:
    content = (path.read_bytes() if path.is_file() else b"" for path in files)
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]
