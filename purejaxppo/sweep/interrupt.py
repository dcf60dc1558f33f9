"""Ctrl-C and SIGTERM (batch systems send it before they kill): the first asks to stop, the second Ctrl-C stops now."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """A context in which the first signal only sets `is_made`; the handlers from before are put back at its end.

    Signals reach the main thread alone: anywhere else this changes nothing.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_made:
            raise KeyboardInterrupt
        self.is_made = True
        print("\nStopping after this log point; Ctrl-C again stops now.", file=sys.stderr)
