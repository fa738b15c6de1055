"""What the harness itself costs: the time spent inside a source of tasks, asking, judging rungs, telling and filing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Counting(Protocol):
    """Something that counts the seconds spent in it."""

    spent: float


S = TypeVar("S", bound=Counting)
P = ParamSpec("P")
R = TypeVar("R")


def timed(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method add the seconds that it takes to its object's ``spent``."""

    @wraps(method)
    def counted(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        started = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.spent += time.perf_counter() - started

    return counted


def overhead(spent: float, trials: int, seconds: float) -> dict[str, float | None]:
    """Return the milliseconds that a trial costs and their share of a study's ``seconds``; None before there is any."""
    return {
        "milliseconds_per_trial": 1000 * spent / trials if trials else None,
        "share": spent / seconds if seconds > 0 else None,
    }
