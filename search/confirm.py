"""Leaders on fresh seeds, chosen on the valid split; then the test split, opened once and counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import torch

from mmsa_core.atomic import replacing, write_text
from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split, videos
from mmsa_core.errors import UserError
from mmsa_core.metrics import evaluate
from mmsa_core.noise import mix
from mmsa_core.predict import predict
from search import members as filing
from search.judgement import between, estimates
from search.members import Candidate, load
from search.populations import Reply, Result, Slot, Task, Wait, split_task, together
from search.race import Rounds
from search.records import Needs, read_json
from search.statistics import resolve
from search.study import StudyConfig

NEEDS: Needs = {"metric": str, "seeds": list, "baseline": int, "winner": int, "candidates": list, "test": dict}
"""What every reader of ``confirm.json`` takes of it."""
AGAIN = "move it away and confirm the run again"
OPENINGS = "test_openings"
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


def open_test(
    record: dict[str, Any],
    candidates: Mapping[int, Candidate],
    study: optuna.Study,
    folder: Path,
    valid: Split,
    test: Split,
    by: str,
) -> None:
    """Evaluate the winner and the baseline on the test split, once, and count the opening in the study.

    The winner's members are also evaluated as what is exported: the mean of their predictions.
    """
    openings = record_opening(study, by)
    metric, convention, clusters = record["metric"], record["convention"], videos(test.ids)
    found = {}
    for role in ("winner", "baseline"):
        members = load(folder, candidates[record[role]], record["seeds"])
        states = {n: torch.from_numpy(s) for n, s in members.states.items()}
        predictions = predict(MemberConfig.from_dict(members.config), states, test)
        found[role] = replace(members, predictions=predictions, states={})
        with replacing(folder / f"test_{role}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, predictions=predictions, seeds=np.array(members.seeds))
        if role == "winner":
            record["ensemble"] = {
                "valid": evaluate(members.predictions.mean(0), valid.labels, convention),
                "test": evaluate(predictions.mean(0), test.labels, convention),
            }
    record["test"] = {
        role: estimates(own.predictions, test.labels, convention, clusters) for role, own in found.items()
    }
    difference = between(found["winner"], found["baseline"], metric, convention, test.labels, clusters)
    record["test"]["difference"] = resolve([difference])[0]
    record["test_openings"] = openings


def record_opening(study: optuna.Study, by: str) -> int:
    """Write an opening of the test split into the study, before it happens; return how many there were."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    openings = [*study.user_attrs.get(OPENINGS, []), {"time": now, "by": by}]
    study.set_user_attr(OPENINGS, openings)
    return len(openings)


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
    known = [c.get("trial") for c in record["candidates"] if isinstance(c, dict)]
    for role in ("winner", "baseline"):
        if record[role] not in known:
            raise UserError(f"{path}: {role} is trial {record[role]}, which is no candidate; {AGAIN}")
    return record


def _even(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Return the seeds in as few parts of at most ``size`` as it takes, of about equal length."""
    return [list(map(int, part)) for part in np.array_split(seeds, math.ceil(len(seeds) / size))] if seeds else []
