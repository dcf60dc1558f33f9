"""What the terminal shows while a sweep runs: steps done, rate, time left, mean return."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from purejaxppo.sweep.plan import Group
from purejaxppo.sweep.store import Chunk
from purejaxppo.sweep.terminal import Forgiving, Lines

_ROLLOUT = 2.0  # what a rollout costs, in epochs over it: a guess, for programs that have not been timed yet


class TimeLeft:
    """How long the rest of a sweep takes: what each program's steps cost so far, in units of rollouts and epochs.

    A step of a run with 20 epochs costs more than one with 4, and one of brax more than one of gymnax: a program that
    has been timed tells its own units' cost, one that has not is taken to be like the mean of those that have.
    """

    def __init__(self, groups: list[Group]):
        self._left = [
            sum(self._unit(run.config.num_epochs) for run in group.runs) * group.env_steps / len(group.runs)
            for group in groups
        ]
        self._done, self._seconds = [0.0] * len(groups), [0.0] * len(groups)

    def expect(self, planned: Sequence[tuple[int, int, int]]) -> None:
        """That these are all: group, steps and number of epochs."""
        self._left = [0.0] * len(self._left)
        for group, steps, num_epochs in planned:
            self._left[group] += steps * self._unit(num_epochs)

    def _unit(self, num_epochs: int) -> float:
        return _ROLLOUT + num_epochs

    def add(self, group: int, steps: int, num_epochs: int, seconds: float | None) -> None:
        """Steps of a group that are done; None where nobody knows how long they took."""
        units = steps * self._unit(num_epochs)
        self._left[group] -= units
        if seconds is not None:
            self._done[group] += units
            self._seconds[group] += seconds

    def seconds(self) -> float | None:
        """Seconds to go; None before anything is known."""
        if not sum(self._done):
            return None
        mean = sum(self._seconds) / sum(self._done)
        costs = [time / done if done else mean for time, done in zip(self._seconds, self._done, strict=True)]
        return sum(max(left, 0.0) * cost for left, cost in zip(self._left, costs, strict=True))


class _Bar(tqdm):
    """A bar that shows somebody else's time left."""

    left: float | None = None

    @property
    def format_dict(self) -> Any:
        left = "?" if self.left is None else self.format_interval(self.left)
        return {**super().format_dict, "left": left}


class Progress:
    """A bar over all environment steps of a sweep; on anything but a terminal, a line every ten seconds at most."""

    def __init__(self, groups: list[Group], *, is_shown: bool = True):
        self._groups, self._is_fresh, self._time_left = groups, True, TimeLeft(groups)
        self._stream = Forgiving(sys.stderr)
        is_terminal = self._stream.isatty()
        self._last = time.monotonic()
        self._bar: Any = _Bar(
            total=sum(group.env_steps for group in groups),
            unit=" steps",
            unit_scale=True,
            disable=not is_shown,
            file=self._stream if is_terminal or "ipykernel" in sys.modules else Lines(sys.stderr),
            dynamic_ncols=is_terminal,
            mininterval=0.1 if is_terminal else 10.0,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}]{desc}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is on the screen."""
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=self._stream)

    def expect(self, chunks: Sequence[Chunk]) -> None:
        """Count the steps of these chunks alone: what an extension computes."""
        logs = [self._groups[chunk.group].config.num_logs - chunk.start for chunk in chunks]
        steps = [num_logs * self._steps(chunk) for num_logs, chunk in zip(logs, chunks, strict=True)]
        self._bar.total = sum(steps)
        self._time_left.expect([(c.group, n, self._epochs(c)) for c, n in zip(chunks, steps, strict=True)])

    def compiling(self, chunk: Chunk) -> None:
        """Tell that the program of a chunk is being compiled."""
        self._is_fresh = True
        self._bar.set_description_str(
            f" compiling program {chunk.group + 1} of {len(self._groups)}, {chunk.width} runs at once"
        )

    def skip(self, chunk: Chunk, num_logs: int) -> None:
        """Log points of a chunk, the one before training included, that were done before this process began."""
        steps = max(num_logs - 1 - chunk.start, 0) * self._steps(chunk)
        self._time_left.add(chunk.group, steps, self._epochs(chunk), None)
        self._last = time.monotonic()
        if not self._bar.disable:
            self._bar.initial += steps  # keeps them out of the rate
            self._bar.update(steps)

    def advance(self, chunk: Chunk, log_point: int, metrics: Mapping[str, np.ndarray]) -> None:
        """One more log point of a chunk is done; number 0 took no step of training."""
        now = time.monotonic()
        if not self._is_fresh and log_point > 0:  # after a program's first log point, which waited for its compilation
            self._time_left.add(chunk.group, self._steps(chunk), self._epochs(chunk), now - self._last)
        elif log_point > 0:
            self._time_left.add(chunk.group, self._steps(chunk), self._epochs(chunk), None)
        self._last, self._bar.left = now, self._time_left.seconds()
        returns = metrics["return_mean"]
        mean = f"{np.nanmean(returns):.1f}" if np.isfinite(returns).any() else "no episode yet"
        num_broken = int((metrics["status"] != 0).sum())
        broken = f", {num_broken} diverged" if num_broken else ""
        runs = f"{chunk.num_runs} of {len(self._groups[chunk.group].runs)} runs"
        self._bar.set_description_str(
            f" program {chunk.group + 1}/{len(self._groups)}, {runs}, return {mean}{broken}", refresh=False
        )
        self._bar.update(self._steps(chunk) if log_point > 0 else 0)
        if self._is_fresh:  # whoever waits for the first sign of life gets it at once
            self._bar.refresh()
        self._is_fresh = False

    def waiting(self, num_chunks: int) -> None:
        """Tell that other processes have chunks to do yet."""
        self._bar.set_description_str(f" waiting for other processes: {num_chunks} chunks to go")

    def _epochs(self, chunk: Chunk) -> int:
        return chunk.runs(self._groups)[0].config.num_epochs

    def _steps(self, chunk: Chunk) -> int:
        return chunk.num_runs * self._groups[chunk.group].config.steps_per_log
