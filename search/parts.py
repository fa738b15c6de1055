"""What is shown while a stage works without training: which of its parts is at work, and since when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Begin = Callable[[str, str], None]
"""Called with a stage and its part before the part begins."""

TRAINING = "training"
"""The part whose progress the engine shows."""
PARTS = {
    "confirm": ("leaders", TRAINING, "test split"),
    "explain": (
        "surrogate", TRAINING, "importances", "effects", "interactions", "path", "curves", "arms", "information",
    ),
    "export": ("model",),
    "report": ("page and tables",),
}  # fmt: skip
"""What comes after the search, in its order."""
SECONDS = 1.0
"""How often a part is shown again."""


def unseen(stage: str, part: str) -> None:
    """Begin a part that nobody watches."""


class Parts:
    """The part that is at work, as a status like that of an engine; ``asked`` tells whether to stop after it."""

    def __init__(self, on_status: Callable[[Mapping[str, Any]], None], asked: Callable[[], bool]) -> None:
        self._on_status = on_status
        self._asked = asked
        self._shows = True
        self._at: tuple[str, str, float] | None = None

    def begin(self, stage: str, part: str) -> None:
        """Show that a part begins; what is trained in it is shown by the engine."""
        self._at = None if part == TRAINING else (stage, part, time.monotonic())
        self.show()

    def show(self) -> None:
        """Show the part at work, if there is one. A status that cannot be shown ends showing it, not the work."""
        if (at := self._at) is None or not self._shows:
            return
        try:
            self._on_status(_status(*at, self._asked()))
        except Exception:
            logging.getLogger(__name__).exception("the progress cannot be shown")
            self._shows = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show the part at work every second, from another thread."""
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join(timeout=5)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(SECONDS):
            self.show()


def _status(stage: str, part: str, since: float, asked: bool) -> dict[str, Any]:
    own = PARTS[stage]
    speed = {"member_epochs": 0, "seconds": time.monotonic() - since, "rate": 0.0, "draining": asked}
    at = {"stage": stage, "part": part, "done": own.index(part), "total": len(own)}
    return {**at, "message": "", "speed": speed}
