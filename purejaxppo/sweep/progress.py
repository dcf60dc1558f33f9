"""What the terminal shows while a sweep runs: steps done, rate, time left, mean return."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from purejaxppo.sweep.plan import Group
from purejaxppo.sweep.store import Chunk


class Progress:
    """A bar over all environment steps of a sweep; on anything but a terminal, a line every ten seconds at most."""

    def __init__(self, groups: list[Group], *, is_shown: bool = True):
        self._groups, self._is_fresh = groups, True
        is_terminal = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=sum(group.env_steps for group in groups),
            unit=" steps",
            unit_scale=True,
            disable=not is_shown,
            dynamic_ncols=is_terminal,
            mininterval=0.1 if is_terminal else 10.0,
            bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{desc}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is on the screen."""
        self._bar.close()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def expect(self, chunks: Sequence[Chunk]) -> None:
        """Count the steps of these chunks alone: what an extension computes."""
        logs = [self._groups[chunk.group].config.num_logs - chunk.start for chunk in chunks]
        self._bar.total = sum(num_logs * self._steps(chunk) for num_logs, chunk in zip(logs, chunks, strict=True))

    def compiling(self, chunk: Chunk) -> None:
        """Tell that the program of a chunk is being compiled."""
        self._is_fresh = True
        self._bar.set_description_str(
            f" compiling program {chunk.group + 1} of {len(self._groups)}, {chunk.width} runs at once"
        )

    def skip(self, chunk: Chunk, num_logs: int) -> None:
        """Log points of a chunk, the one before training included, that were done before this process began."""
        steps = max(num_logs - 1 - chunk.start, 0) * self._steps(chunk)
        if not self._bar.disable:
            self._bar.initial += steps  # keeps them out of the rate
            self._bar.update(steps)

    def advance(self, chunk: Chunk, log_point: int, metrics: Mapping[str, np.ndarray]) -> None:
        """One more log point of a chunk is done; number 0 took no step of training."""
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

    def _steps(self, chunk: Chunk) -> int:
        return chunk.num_runs * self._groups[chunk.group].config.steps_per_log
