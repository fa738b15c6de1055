"""What workers are asked to do and what they answer: tasks, outcomes, and where tasks come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmsa_core.config import MemberConfig
from mmsa_core.cost import Cost
from mmsa_core.metrics import Convention
from mmsa_core.population import stackable


@dataclass(frozen=True)
class Slot:
    """One member of a task: ``trial`` is the Optuna number (or another key of the source) it counts for."""

    trial: int
    seed: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A population to train: members of one structure; with ``checkpoint``, its state is saved there at ``rungs``, and
    with ``cost`` that is measured before the first epoch."""

    name: str
    slots: tuple[Slot, ...]
    rungs: tuple[int, ...]
    metric: str
    convention: Convention
    checkpoint: str | None = None
    keep_states: bool = False
    cost: Cost | None = None


class Report(Protocol):
    """How a worker tells a source of an epoch."""

    def __call__(self, task: str, epoch: int, values: Mapping[int, float], cost: float | None = None, /) -> Reply:
        """Tell the best values so far of a task's slots after an epoch, and what each costs if the task asks for it."""


@dataclass(frozen=True)
class Reply:
    """The answer to a report: slots to drop, and whether to stop and leave the task to a later run."""

    drop: frozenset[int] = frozenset()
    stop: bool = False


@dataclass
class Outcome:
    """What became of one slot. ``failure`` is a sentence, ``config`` what the model was built from, and ``state``
    holds its tensors by name where the task keeps them."""

    value: float = float("nan")
    best_epoch: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    predictions: NDArray[np.float32] | None = None
    failure: str | None = None
    dropped: bool = False
    config: dict[str, Any] | None = None
    state: dict[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Result:
    """What a worker returns for a task. ``stopped`` means that it goes on later from its checkpoint; ``cost`` is each
    slot's, where the task asks for it; ``too_large`` means that the device has no memory for so many members at once,
    and that there are no outcomes."""

    outcomes: list[Outcome]
    stopped: bool
    seconds: float
    parameters: int
    cost: float | None = None
    too_large: bool = False


class Wait:
    """The source has nothing to hand out now, but may later."""


class Source(Protocol):
    """Where tasks come from and where results go: the search's ledger, or a plan of seeds to confirm."""

    @property
    def path(self) -> Path:
        """The folder that results are written to."""

    def next(self) -> Task | Wait | None:
        """Return a task, :class:`Wait`, or None when there will be no more."""

    def report(self, task: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        """Take the best values so far of a task's slots after an epoch, and what each costs if the task asks for it."""

    def finish(self, task: str, result: Result) -> None:
        """Take a task's result; one that is too large comes again in halves."""

    def lost(self, task: str, reason: str) -> None:
        """Take note that the worker of a task is gone without a result."""

    def abandon(self) -> None:
        """Take note that all workers are gone: what ran is handed out again."""

    def pending(self) -> bool:
        """Tell whether there is, or may yet be, something to hand out."""

    def ready(self) -> bool:
        """Tell whether there is something to hand out now, or others must be done first."""

    def close(self) -> None:
        """Record that nobody works on the source any more."""

    def drain(self) -> None:
        """Hand out nothing more and let running tasks stop at their next report."""

    def status(self) -> dict[str, Any]:
        """Return progress as plain data."""


def together(config: Mapping[str, Any], size: int) -> int:
    """Return how many members of a configuration make a population of ``size``: one where they cannot be stacked."""
    return size if stackable(MemberConfig.from_dict(config)) else 1


def split_task(task: Task) -> Sequence[Task]:
    """Return a task's two halves, without checkpoint, or the task itself if it has one slot.

    Halving is how the slot that breaks a population is found. The slots of one trial stay together as long as there is
    another trial, so that a half can be told.
    """
    if len(task.slots) == 1:
        return [task]
    trials = [s.trial for s in task.slots]
    between = [k for k in range(1, len(trials)) if trials[k] != trials[k - 1]]
    cut = min(between or range(1, len(trials)), key=lambda k: abs(2 * k - len(trials)))
    return [replace(task, slots=slots, checkpoint=None) for slots in (task.slots[:cut], task.slots[cut:])]
