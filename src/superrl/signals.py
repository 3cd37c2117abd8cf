"""SIGINT and SIGTERM as an exception at a place of our choosing, so that a run can save before it leaves.

The first signal is remembered and raised by `check()`, which the loop calls where its state is whole; a second one
acts at once. Outside the main thread, where handlers cannot be set, nothing is caught.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from superrl.errors import Interrupted


class Signals:
    """Remembers the first signal that arrived."""

    def __init__(self) -> None:
        self.arrived: int | None = None

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.arrived is not None:
            raise Interrupted(self.arrived)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.arrived is not None:
            raise SystemExit(128 + number)
        self.arrived = number


@contextmanager
def listening() -> Iterator[Signals]:
    """Signals inside the block are remembered; the handlers of before are restored after it."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
