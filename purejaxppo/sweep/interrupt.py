"""Ctrl-C and SIGTERM (batch systems send it before they kill): the first asks to stop, the second stops now.

Python runs a signal's handler when the main thread comes back from JAX, which can take a whole log point. So at the
command line a thread watches as well: it answers at once, and at the second signal it ends the process. Files are whole
at any moment, so that costs no more than the time since the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = "\nStopping after this log point; once more stops now."


class StopRequest:
    """A context in which the first signal only sets `is_made`; the handlers from before are put back at its end.

    Signals reach the main thread alone: anywhere else this changes nothing.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_made:
            raise KeyboardInterrupt
        self.is_made = True


def watch_signals() -> None:
    """Answer the first signal at once and end the process at the second; for the command line, not for notebooks."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)

    def watch() -> None:
        count = 0
        while received := reader.recv(1):
            handler = signal.getsignal(received[0])
            if not isinstance(getattr(handler, "__self__", None), StopRequest):
                continue  # no sweep is running: Python's own handler does
            count += 1
            if count == 1:
                print(_MESSAGE, file=sys.stderr, flush=True)
            else:
                print("\npurejaxppo: stopped; resume goes on from the last checkpoint.", file=sys.stderr, flush=True)
                os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
