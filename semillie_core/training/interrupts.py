"""Stopping after a step instead of in the middle of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and termination set, instead of breaking the step; a second Ctrl-C breaks it.

    Further terminations do not: launchers send several, to each process and again to its group.
    """
    event = threading.Event()
    impatient = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if impatient.is_set():
                raise KeyboardInterrupt
            impatient.set()
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
