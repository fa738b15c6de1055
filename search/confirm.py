"""Leaders on fresh seeds: which members to train, and the record of what they showed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmsa_core.atomic import write_text
from mmsa_core.errors import UserError
from mmsa_core.noise import mix
from search import members as filing
from search.members import Candidate
from search.populations import Reply, Result, Slot, Task, Wait, split_task, together
from search.race import Rounds
from search.records import Needs, read_json
from search.study import StudyConfig

NEEDS: Needs = {"metric": str, "seeds": list, "baseline": int, "winner": int, "candidates": list, "test": dict}
"""What every reader of ``confirm.json`` takes of it."""
AGAIN = "move it away and confirm the run again"
Weights = Literal["needed", "kept", "dropped"]


def confirm_seeds(config: StudyConfig) -> list[int]:
    """Return the fresh seeds, common to all candidates and never used by the search."""
    return [mix("confirm", config.seeds.base, i) for i in range(config.seeds.confirm)]


def effect_seeds(config: StudyConfig) -> list[int]:
    """Return the seeds that effects of modules are measured with: the first of the confirmation's."""
    return confirm_seeds(config)[: config.seeds.effects]


class ConfirmPlan:
    """Source of confirmation tasks: rounds of candidates and seeds, in populations of ``size``, filed as files.

    What is filed already is not trained again. A round is asked for when the one before is filed. ``weights`` says
    what becomes of the members' weights: they are needed (members that have lost theirs are trained again), kept of
    those that are trained now, or not kept.
    """

    def __init__(
        self, rounds: Rounds, folder: Path, size: int, study: StudyConfig, label: str, weights: Weights = "kept"
    ) -> None:
        self.folder = folder
        self.size = size
        self.objective = study.objective
        self.label = label
        self.weights = weights
        self.total = 0
        self.queue: list[Task] = []
        self.running: dict[str, Task] = {}
        self.failed: dict[str, int] = {}
        self._rounds = rounds()
        self._draining = False
        self._advance()

    @property
    def path(self) -> Path:
        return self.folder

    def next(self) -> Task | Wait | None:
        if not self.queue or self._draining:
            return Wait() if self.running and not self._draining else None
        task = self.queue.pop(0)
        self.running[task.name] = task
        return task

    def report(self, task: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        return Reply(stop=self._draining)

    def finish(self, task: str, result: Result) -> None:
        """File a task's members, those that failed with their reason; queue the halves of one that is too large."""
        done = self.running.pop(task)
        if result.too_large:
            halves = split_task(done)
            self.size = min(self.size, max(len(h.slots) for h in halves))
            made = Candidate(self.label, done.slots[0].config)
            paths = [filing.place(self.folder, made, [s.seed for s in h.slots]) for h in halves]
            self.queue += [replace(h, name=str(path)) for h, path in zip(halves, paths, strict=True)]
            self.total += 1
        elif not result.stopped:
            filing.file(Path(task), done, result)
        self._advance()

    def lost(self, task: str, reason: str) -> None:
        """Try a lost task once more."""
        self.failed[task] = self.failed.get(task, 0) + 1
        lost = self.running.pop(task)
        if self.failed[task] < 2:
            self.queue.append(lost)
        self._advance()

    def abandon(self) -> None:
        self.queue += self.running.values()
        self.running.clear()

    def pending(self) -> bool:
        return not self._draining and bool(self.queue or self.running)

    def ready(self) -> bool:
        """Tell that nobody else must be done first."""
        return True

    def drain(self) -> None:
        self._draining = True

    def status(self) -> dict[str, Any]:
        left = len(self.queue) + len(self.running)
        return {"stage": self.label, "done": self.total - left, "total": self.total, "message": ""}

    def close(self) -> None:
        """Nothing is kept open."""

    def _advance(self) -> None:
        """Queue the next round that has something to train, when nothing of the last one is left."""
        while not self.queue and not self.running and not self._draining:
            following = next(self._rounds, None)
            if following is None:
                return
            for candidate, seeds in {c.mark: (c, seeds) for c, seeds in following}.values():
                filed = filing.attempted(self.folder, candidate, self.weights == "needed")
                missing = [s for s in seeds if s not in filed]
                for part in _even(missing, together(candidate.config, self.size)):
                    path = filing.place(self.folder, candidate, part)
                    if str(path) not in self.failed:
                        slots = tuple(Slot(k, seed, candidate.config) for k, seed in enumerate(part))
                        own, keep = self.objective, self.weights != "dropped"
                        self.queue.append(Task(str(path), slots, (), own.metric, own.decided, keep_states=keep))
            self.total += len(self.queue)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``confirm.json``."""
    write_text(folder / "confirm.json", json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return ``confirm.json``, or None before the first confirmation.

    Raises:
        UserError: it is damaged.
    """
    path = folder / "confirm.json"
    if not path.exists():
        return None
    record = read_json(path, NEEDS, AGAIN)
    check_roles(record, path, AGAIN)
    return record


def check_roles(record: Mapping[str, Any], path: Path, fix: str) -> None:
    """Check that a record's winner and baseline are candidates of it.

    Raises:
        UserError: one is not.
    """
    known = [c.get("trial") for c in record["candidates"] if isinstance(c, dict)]
    for role in ("winner", "baseline"):
        if record[role] not in known:
            raise UserError(f"{path}: {role} is trial {record[role]}, which is no candidate; {fix}")


def _even(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Return the seeds in as few parts of at most ``size`` as it takes, of about equal length."""
    return [list(map(int, part)) for part in np.array_split(seeds, math.ceil(len(seeds) / size))] if seeds else []
