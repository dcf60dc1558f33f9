"""What the terminal shows while a sweep runs: steps done, rate, time left, mean return."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from purejaxppo.sweep.plan import Group


class Progress:
    """A bar over all environment steps of a sweep; on anything but a terminal, a line every ten seconds at most."""

    def __init__(self, groups: list[Group], *, is_shown: bool = True):
        self._groups = groups
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

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def compiling(self, number: int) -> None:
        """Tell that program `number` (from 0) is being compiled."""
        group = self._groups[number]
        self._bar.set_description_str(f" compiling program {number + 1} of {len(self._groups)}, {len(group.runs)} runs")

    def advance(self, number: int, metrics: dict[str, np.ndarray]) -> None:
        """One more log point of program `number` is done."""
        group = self._groups[number]
        returns = metrics["return_mean"]
        mean = f"{np.nanmean(returns):.1f}" if np.isfinite(returns).any() else "no episode yet"
        num_broken = int((metrics["status"] != 0).sum())
        broken = f", {num_broken} diverged" if num_broken else ""
        self._bar.set_description_str(
            f" program {number + 1}/{len(self._groups)}, {len(group.runs)} runs, return {mean}{broken}", refresh=False
        )
        self._bar.update(len(group.runs) * group.config.steps_per_log)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._bar.close()
