"""What a shell hands over: streams that may be closed, full, or files, and arguments as people write them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.fields import SYNONYMS

_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"


class Forgiving:
    """A text stream whose writes never fail: what a full disk or a closed pipe does not take is dropped."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or do nothing."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            return 0

    def flush(self) -> None:
        """Flush, or do nothing."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Told(Forgiving):
    """Standard output: what cannot be written ends the command in a sentence. A reader that has gone is none."""

    def write(self, text: str) -> int:
        """Write; raises RunError where the system refuses, BrokenPipeError where nobody reads any more."""
        return self._tell(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Flush; raises as `write` does."""
        self._tell(self._stream.flush)

    def _tell(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is left in the buffer
            raise RunError(f"standard output cannot be written: {error.strerror or error}.") from None


class Lines(Forgiving):
    """A stream for a progress bar that is not shown on a terminal: each of its states becomes a line of its own."""

    def write(self, text: str) -> int:
        """Write what there is between carriage returns as a line; nothing for blanks that erase."""
        shown = text.strip("\r\n ")
        return super().write(f"{shown}\n") if shown else 0


def guard_streams() -> None:
    """Make standard streams usable for the rest of the process; the command line begins with it.

    One that is closed (`2>&-`) leads to nowhere; else the next file that is opened would take its number, and what
    libraries print would land in it. Writing to standard error never fails, and to standard output ends in a sentence.
    NO_COLOR is respected.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    told: Any = Told(os.fdopen(1, "w", closefd=False) if sys.stdout is None else sys.stdout)
    if hasattr(told, "reconfigure"):  # what its encoding lacks is shown as a code, as on standard error
        told.reconfigure(errors="backslashreplace")
    forgiving: Any = Forgiving(os.fdopen(2, "w", closefd=False) if sys.stderr is None else sys.stderr)
    sys.stdout, sys.stderr = told, forgiving
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # what the parser of arguments asks


def usual_arguments(arguments: Sequence[str], whole: Sequence[str]) -> list[str]:
    """Arguments with `~` expanded where a shell does not (`--out=~/x`), 1e6 and 1M written out for `whole` options.

    Raises ConfigError for an option of `train` that is called otherwise here (`--lr`); other commands have options of
    their own, among them some of these names (`evaluate --seed`, `render --max-steps`).
    """
    synonyms = SYNONYMS if arguments[:1] == ["train"] else {}
    found: list[str] = []
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if (name := synonyms.get(option[2:].replace("-", "_"))) is not None:
            raise ConfigError(f"option {option} is unknown; did you mean --{name.replace('_', '-')}?")
        if re.match(r"~[\w.-]*(/|$)", value):
            value = os.path.expanduser(value)
        asked = option if equals else (found[-1] if found else "")
        if asked in whole and re.fullmatch(rf"{_NUMBER}[kM]", value):
            value = value[:-1] + {"k": "e3", "M": "e6"}[value[-1]]
        if asked in whole and re.fullmatch(rf"{_NUMBER}[eE]\+?[0-9]{{1,2}}", value) and float(value).is_integer():
            value = str(int(float(value)))
        found.append(f"{option}{equals}{value}")
    return found
