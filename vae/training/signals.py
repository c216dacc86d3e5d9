"""Signals that end work: what they raise, and the status that a shell then sees."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ONE_KEY = 1.0  # seconds; a launcher passes on a Ctrl-C that the terminal already sent


class Stopped(KeyboardInterrupt):
    """A signal ended the work; what was to be said of it is the message, or was said already."""

    def __init__(self, number: int = signal.SIGINT, message: str = "stopped"):
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """Within it the signals that end work call `handler`; a hang-up that `nohup` ignores stays ignored.

    Signals are the main thread's; in another this does nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    numbers = numbers if main else []
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def raising() -> Iterator[None]:
    """Within it the signals that end work raise Stopped, once for those that come together.

    Where Python drops what is raised, as in a finalizer or after a fork, the signal comes again.
    """
    since = -ONE_KEY
    report, again_soon = sys.unraisablehook, threading.Timer(0, int)

    def stop(number: int, frame) -> None:
        nonlocal since
        again, since = time.monotonic() - since < ONE_KEY, time.monotonic()
        if not again:
            raise Stopped(number)

    def drop(dropped) -> None:
        nonlocal since, again_soon
        if not isinstance(dropped.exc_value, Stopped):
            return report(dropped)
        since = -ONE_KEY
        number = dropped.exc_value.status - 128
        again_soon = threading.Timer(0.01, lambda: os.kill(os.getpid(), number))
        again_soon.start()

    sys.unraisablehook = drop
    try:
        with handled_by(stop):
            yield
    finally:
        again_soon.cancel()
        sys.unraisablehook = report


class Noted:
    """Within it those signals are noted, so that a loop can end after the step at hand.

    Only a Ctrl-C that comes later than the first signal, and not with it, interrupts.
    """

    def __enter__(self) -> "Noted":
        self.number, self._since = 0, 0.0
        self._handled = handled_by(self._note)
        self._handled.__enter__()
        return self

    def __exit__(self, *about) -> None:
        self._handled.__exit__(*about)

    def _note(self, number: int, frame) -> None:
        if self.number and number == signal.SIGINT and time.monotonic() - self._since > ONE_KEY:
            raise Stopped(number)
        if not self.number:
            self.number, self._since = number, time.monotonic()
