"""Interrupting a run: the first signal asks to stop, which a storage that does not answer cannot hold up.

What runs is stopped at its next report, and told to the storage. Where one call of that goes on and on, the run ends
without it, within five seconds of the signal; the study goes on from there as after a kill.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from search.storage_calls import StorageCalls

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE, SILENCE = 3.0, 2.5
"""Seconds from the first signal, and of one call, after which a run ends without the storage."""
LOOK = 0.25
"""Seconds between two looks at the calls."""


class UnansweredError(Exception):
    """A run was asked to stop, and its storage did not answer."""


class GivenUp(BaseException):  # no error: it unwinds the main thread, as KeyboardInterrupt does
    """Raised in the main thread, wherever it is. Not a KeyboardInterrupt, as database drivers ask the server first what
    to do about one."""


class Interruption:
    """Handles SIGINT and SIGTERM while it is open: the first of them asks to stop, and a second SIGINT ends the program
    at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.silence: float | None = None
        self._elsewhere: Callable[[], float] = float
        self._given_up = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Interruption:
        self.handle_signals()
        threading.Thread(target=self._watch, args=(threading.main_thread().ident,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()
        self.asked.set()  # else the thread would wait for it
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def handle_signals(self) -> None:
        """Take the signals, also back from who took them meanwhile."""
        for number in SIGNALS:
            signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Take note of a signal."""
        if self.silence is not None and not self._given_up:
            self._given_up = True
            raise GivenUp
        if self.asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked.set()

    @contextmanager
    def also(self, elsewhere: Callable[[], float]) -> Iterator[None]:
        """Regard the calls of another process too: ``elsewhere`` returns the age of its oldest."""
        self._elsewhere = elsewhere
        try:
            yield
        finally:
            self._elsewhere = float

    def _watch(self, main: int) -> None:
        """Give up when it is time to."""
        self.asked.wait()
        calls, asked = StorageCalls(), time.monotonic()
        while not self._over.wait(LOOK):
            silence = max(calls.oldest(), self._elsewhere())
            if silence >= SILENCE and time.monotonic() - asked >= PATIENCE:
                with self._lock:
                    if not self._over.is_set():  # else the signal is no longer this object's
                        self.silence = silence
                        signal.pthread_kill(main, signal.SIGTERM)
                return
