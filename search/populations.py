"""What workers are asked to do and what they answer: tasks, outcomes, and where tasks come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Slot:
    """One member of a task: ``trial`` is the Optuna number (or another key of the source) it counts for."""

    trial: int
    seed: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A population to train: members of one structure, for ``epochs``, reporting at ``rungs``."""

    name: str
    slots: tuple[Slot, ...]
    epochs: int
    rungs: tuple[int, ...]
    metric: str
    convention: str
    checkpoint: str | None = None
    keep_states: bool = False


@dataclass(frozen=True)
class Reply:
    """The answer to a report: slots to drop, and whether to stop and leave the task to a later run."""

    drop: frozenset[int] = frozenset()
    stop: bool = False


@dataclass
class Outcome:
    """What became of one slot. ``failure`` is a sentence; ``state`` holds tensors by name where the task kept them."""

    value: float = float("nan")
    best_epoch: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    predictions: NDArray[np.float32] | None = None
    failure: str | None = None
    dropped: bool = False
    state: dict[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Result:
    """What a worker returns for a task. ``stopped`` means that it goes on later from its checkpoint."""

    outcomes: list[Outcome]
    stopped: bool
    seconds: float
    parameters: int


class Wait:
    """The source has nothing to hand out now, but may later."""


class Source(Protocol):
    """Where tasks come from and where results go: the search's ledger, or a plan of seeds to confirm."""

    def next(self) -> Task | Wait | None:
        """Return a task, :class:`Wait`, or None when there will be no more."""

    def report(self, task: str, epoch: int, values: Mapping[int, float]) -> Reply:
        """Take the best values so far of a task's slots after an epoch."""

    def finish(self, task: str, result: Result) -> None:
        """Take a task's result."""

    def lost(self, task: str, reason: str) -> None:
        """Take note that the worker of a task is gone without a result."""

    def drain(self) -> None:
        """Hand out nothing more and let running tasks stop at their next report."""

    def status(self) -> dict[str, Any]:
        """Return progress as plain data."""


def split_task(task: Task) -> Sequence[Task]:
    """Return a task's two halves (itself, if it has one slot): how the slot that kills its worker is found."""
    if len(task.slots) == 1:
        return [task]
    middle = len(task.slots) // 2
    parts = (task.slots[:middle], task.slots[middle:])
    return [
        Task(f"{task.name}{tag}", slots, task.epochs, task.rungs, task.metric, task.convention, None, task.keep_states)
        for tag, slots in zip("ab", parts, strict=True)
    ]
