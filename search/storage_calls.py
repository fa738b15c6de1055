"""The calls into a study's storage that this process waits for, seen from outside: the calls themselves stand still."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType

MODULES = ("optuna.storages", "search.storage")
"""Where a thread is that waits for the storage, from its first function in one of them on."""


class StorageCalls:
    """Knows for how long the calls in progress have been seen."""

    def __init__(self) -> None:
        self._seen: list[tuple[FrameType, float]] = []

    def oldest(self) -> float:
        """Return the seconds for which a call has been going on, as far as it was there at earlier looks already."""
        now = time.monotonic()
        before = {id(frame): since for frame, since in self._seen}  # a frame that is kept is no other's number
        own = threading.get_ident()
        threads = (frame for thread, frame in sys._current_frames().items() if thread != own)
        calls = [call for frame in threads if (call := _call(frame)) is not None]
        self._seen = [(call, before.get(id(call), now)) for call in calls]
        return max((now - since for _, since in self._seen), default=0.0)


def _call(frame: FrameType | None) -> FrameType | None:
    """Return the outermost frame of a thread's call into the storage."""
    found = None
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(MODULES):
            found = frame
        frame = frame.f_back
    return found
