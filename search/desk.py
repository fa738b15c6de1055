"""The desk between a source and its workers: hands out tasks, takes answers, and sees what goes wrong on the way.

It knows no Ray: :mod:`search.runner` puts it into a process of its own.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mmsa_core.errors import UserError
from search.outage import GO_ON, check_room, outage
from search.populations import Reply, Result, Source, Task, Wait
from search.storage_calls import StorageCalls

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Seconds that a worker may be silent: until its first epoch, and then ``factor`` times its own slowest epoch, but
    ``least``."""

    first: float = 7200.0
    least: float = 600.0
    factor: float = 20.0


@dataclass
class _Watch:
    """A worker at its task: when it was heard last, and how long its slowest epoch took (None before the first)."""

    worker: Any
    heard: float
    slowest: float | None = None

    def hear(self, now: float) -> None:
        self.slowest = max(now - self.heard, self.slowest or 0.0)
        self.heard = now

    def limit(self, patience: Patience) -> float:
        return patience.first if self.slowest is None else max(patience.least, patience.factor * self.slowest)


@dataclass
class _Speed:
    """What was trained since when."""

    started: float = field(default_factory=time.monotonic)
    member_epochs: int = 0
    tasks: int = 0


class Desk:
    """A source with those who work for it.

    What the source raises (a full disk, a storage that does not answer) halts it: workers are told to stop, nothing
    more is handed out, and what was not told yet is taken up by the next run. :meth:`failure` then says why.
    """

    def __init__(self, make_source: Callable[[], Source], patience: Patience | None = None) -> None:
        self.source = make_source()
        self.patience = patience or Patience()
        self.tasks: dict[str, Task] = {}
        self.watches: dict[str, _Watch] = {}
        self.ended: dict[str, str] = {}
        self.speed = _Speed()
        self.draining = False
        self.error: Exception | None = None
        self.last: dict[str, Any] = {}
        self._calls = StorageCalls()

    # ---- for the searcher ----------------------------------------------------------------------------------------

    def next(self) -> str | Wait | None:
        """Return a task's name, or whether there will be one later; None at the end, and where the disk is full."""
        task = self._ask(self._next, None)
        if task is None or isinstance(task, Wait):
            return task
        self.tasks[task.name] = task
        return task.name

    def _next(self) -> Task | Wait | None:
        check_room(self.source.path)
        return self.source.next()

    def lost(self, name: str, reason: str) -> None:
        """Take note that a task's worker is gone."""
        self.watches.pop(name, None)
        self._ask(lambda: self.source.lost(name, self.ended.pop(name, reason)), None)

    # ---- for the workers -----------------------------------------------------------------------------------------

    def take(self, name: str, worker: Any) -> Task:
        """Return a task to the worker that begins it now; ``worker`` is what :meth:`silent` names it by."""
        self.watches[name] = _Watch(worker, time.monotonic())
        return self.tasks[name]

    def report(self, name: str, epoch: int, values: Mapping[int, float], cost: float | None) -> Reply:
        """Pass on an epoch's values; return which slots to drop, and whether to stop."""
        self.speed.member_epochs += len(values)
        if name in self.watches:
            self.watches[name].hear(time.monotonic())
        return self._ask(lambda: self.source.report(name, epoch, values, cost), Reply(stop=True))

    def finish(self, name: str, result: Result) -> None:
        """Pass on a task's result."""
        self.watches.pop(name, None)
        self.speed.tasks += 1
        self._ask(lambda: self.source.finish(name, result), None)

    # ---- for the engine ------------------------------------------------------------------------------------------

    def silent(self) -> list[Any]:
        """Return the workers that have been silent for too long, which must be ended; each is named once."""
        now, found = time.monotonic(), []
        for name, watch in list(self.watches.items()):
            if (silence := now - watch.heard) > watch.limit(self.patience):
                self.ended[name] = f"it said nothing for {silence:.0f} s and was ended"
                found.append(self.watches.pop(name).worker)
        return found

    def abandon(self) -> None:
        """Take note that all workers are gone."""
        self.watches.clear()
        self._ask(self.source.abandon, None)

    def drain(self) -> None:
        """Hand out nothing more and let workers stop at their next report."""
        self.draining = True
        self.source.drain()

    def open(self) -> bool:
        """Tell whether the source still has something to hand out."""
        return self._ask(self.source.pending, False)

    def ready(self) -> bool:
        """Tell whether it has something now, or waits for another driver."""
        return self._ask(self.source.ready, True)

    def finished(self) -> int:
        """Return how many tasks have come back."""
        return self.speed.tasks

    def pulse(self) -> dict[str, Any]:
        """Return the source's progress and the speed; while it is halted, the last that is known."""
        self.last = self._ask(self.source.status, self.last)
        seconds, done = time.monotonic() - self.speed.started, self.speed.member_epochs
        rate = done / seconds if seconds > 0 else 0.0
        own = {"member_epochs": done, "seconds": seconds, "rate": rate, "draining": self.draining}
        return {**self.last, "speed": own}

    def close(self) -> dict[str, Any]:
        """Record that nobody works here any more; return the last progress."""
        status = self.pulse()
        self._ask(self.source.close, None)
        return status

    def unanswered(self) -> float:
        """Return the seconds for which the source has waited for its storage; another thread may ask."""
        return self._calls.oldest()

    def failure(self) -> Exception | None:
        """Return why the source was halted, as a sentence for a person where it is nobody's mistake in the code."""
        return self.error

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return the source's answer. What it raises halts it, once, and ``otherwise`` is the answer."""
        if self.error is not None:
            return otherwise
        try:
            return question()
        except Exception as error:
            why = outage(error)
            self.error = error if why is None else UserError(f"{why}; {GO_ON}")
            if why is None:
                error.add_note(traceback.format_exc())  # a process boundary takes the traceback away
            self.drain()
            return otherwise
