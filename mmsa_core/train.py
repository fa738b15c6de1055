"""The only training loop: ``fit`` trains a population, reports every epoch, and drops members when told to.

It has no test argument: the test split cannot take part in training or selection.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmsa_core.atomic import replacing
from mmsa_core.errors import UserError, nearest
from mmsa_core.loader import SplitTensors
from mmsa_core.metrics import DIRECTIONS, METRICS, Convention, objective_rows
from mmsa_core.population import MemberSpec, Population, stackable
from mmsa_core.solo import SoloMembers


@dataclass(frozen=True)
class Objective:
    """What a member is judged by on the valid split: a metric of :mod:`mmsa_core.metrics` in a convention."""

    metric: str = "mae"
    convention: Convention = "mosi"

    @staticmethod
    def checked(metric: str, convention: str) -> Objective:
        """Return the objective that a person named.

        Raises:
            UserError: there is no such convention, or it has no such metric.
        """
        if convention not in METRICS:
            raise UserError(f"convention: there is no {convention!r}{nearest(convention, METRICS)}")
        known = METRICS[cast(Convention, convention)]
        if metric not in known:
            raise UserError(f"metric: {convention} has no {metric!r}{nearest(metric, known)}")
        return Objective(metric, cast(Convention, convention))

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where higher is."""
        return 1.0 if DIRECTIONS[self.metric] == "minimize" else -1.0


@dataclass(frozen=True)
class Progress:
    """An epoch's end: the best value so far of each member that was not dropped, by its position in ``fit``."""

    epoch: int
    values: dict[int, float]


@dataclass(frozen=True)
class Verdict:
    """The answer to :class:`Progress`: members to drop, and whether to stop here and be resumed later."""

    drop: frozenset[int] = frozenset()
    stop: bool = False


@dataclass
class MemberRun:
    """One member's course: its curve, and value, epoch, predictions and (if it was not dropped) model state of its
    best epoch."""

    curve: list[tuple[int, float, float]] = field(default_factory=list)
    value: float = float("nan")
    best_epoch: int = 0
    predictions: NDArray[np.float32] | None = None
    state: dict[str, Tensor] | None = None
    failure: str | None = None
    dropped: bool = False
    stalled: bool = False

    @property
    def training(self) -> bool:
        """Tell whether the member goes on."""
        return self.failure is None and not self.dropped and not self.stalled


@dataclass(frozen=True)
class Fit:
    """The result of :func:`fit`. ``stopped`` says that it was interrupted and its checkpoint should be resumed;
    ``seconds`` count what was trained before the checkpoint that was taken up."""

    runs: list[MemberRun]
    stopped: bool
    seconds: float
    parameters: int


def fit(
    members: Sequence[MemberSpec],
    train: SplitTensors,
    valid: SplitTensors,
    *,
    objective: Objective,
    on_epoch: Callable[[Progress], Verdict] = lambda _: Verdict(),
    checkpoint: Path | None = None,
    checkpoint_epochs: Sequence[int] = (),
) -> Fit:
    """Train ``members`` (of equal signature) together for their epochs and keep each one's best epoch.

    A member whose loss or predictions are not finite is dropped with its reason, and one that runs out of patience ends
    with its best epoch; the others go on. With ``checkpoint`` the state is written after each of ``checkpoint_epochs``
    and when stopped, and an existing file is taken up.
    """
    started = time.perf_counter()
    epochs = members[0].config.epochs
    course = _Course(members, train, valid, objective)
    first = course.resume(checkpoint) if checkpoint is not None and checkpoint.exists() else 1
    started -= course.seconds
    stopped = False
    for epoch in range(first, epochs + 1):
        if not course.alive:
            break
        course.run_epoch(epoch)
        verdict = on_epoch(Progress(epoch, course.values()))
        for k in verdict.drop & set(course.alive):
            course.runs[k].dropped = True
        course.squeeze()
        stopped = verdict.stop and epoch < epochs
        if checkpoint is not None and (stopped or epoch in checkpoint_epochs) and course.alive:
            course.save(checkpoint, epoch, time.perf_counter() - started)
        if stopped:
            break
    course.hand_over()
    seconds = time.perf_counter() - started
    return Fit(course.runs, stopped, seconds, course.population.parameters)


class _Course:
    """A population in training with what is known of each member: which are alive, curves, best epochs."""

    def __init__(
        self, members: Sequence[MemberSpec], train: SplitTensors, valid: SplitTensors, objective: Objective
    ) -> None:
        self.members = members
        self.train = train
        self.objective = objective
        self.population = (Population if stackable(members[0].config) else SoloMembers)(members, train)
        self.valid = valid.batch(self.population.config)
        self.target = valid.split.labels
        self.runs = [MemberRun() for _ in members]
        self.alive = list(range(len(members)))
        self.best = self.population.model_states()
        self.seconds = 0.0

    def values(self) -> dict[int, float]:
        """Return the best value so far of every member that was not dropped and did not fail."""
        return {k: r.value for k, r in enumerate(self.runs) if r.failure is None and not r.dropped}

    def run_epoch(self, epoch: int) -> None:
        """Train and evaluate one epoch, and keep what improved."""
        losses = self.population.train_epoch(epoch).cpu().numpy()
        predictions = self.population.predict(self.valid).cpu().numpy()
        finite = np.isfinite(losses) & np.isfinite(predictions).all(1)
        values = np.full(len(losses), np.nan)
        values[finite] = objective_rows(
            self.objective.metric, predictions[finite], self.target, self.objective.convention
        )
        improved = []
        for row, k in enumerate(self.alive):
            run = self.runs[k]
            run.curve.append((epoch, float(losses[row]), float(values[row])))
            if not finite[row]:
                what = "training loss" if not np.isfinite(losses[row]) else "prediction on the valid split"
                run.failure = f"{what} is not finite at epoch {epoch}"
            elif run.best_epoch == 0 or self.objective.sign * (values[row] - run.value) < 0:
                run.value, run.best_epoch, run.predictions = float(values[row]), epoch, predictions[row].copy()
                improved.append(row)
            run.stalled = epoch - run.best_epoch >= self.population.config.patience
        if improved:
            index = torch.tensor(improved, device=self.train.device)
            for name, now in self.population.model_states(improved).items():
                self.best[name][index] = now

    def squeeze(self) -> None:
        """Take members that ended out of the population; one that ran out of patience keeps its best state."""
        rows = [row for row, k in enumerate(self.alive) if self.runs[k].training]
        for row, k in enumerate(self.alive):
            if self.runs[k].stalled:
                self.runs[k].state = {n: t[row].cpu() for n, t in self.best.items()}
        if len(rows) < len(self.alive):
            self.alive = [self.alive[row] for row in rows]
            if rows:
                self.population.keep(rows)
                index = torch.tensor(rows, device=self.train.device)
                self.best = {n: t[index] for n, t in self.best.items()}

    def hand_over(self) -> None:
        """Give the members that trained to the end the model state of their best epoch."""
        for row, k in enumerate(self.alive):
            self.runs[k].state = {n: t[row].cpu() for n, t in self.best.items()}

    def save(self, path: Path, epoch: int, seconds: float) -> None:
        """Write a checkpoint of the members still alive and of the record of all, after ``seconds`` of training.

        Where it cannot be written (a full disk), the last one stays and training goes on: only the way back is longer.
        """
        record = [{k: v for k, v in vars(r).items() if k not in ("predictions", "state")} for r in self.runs]
        meta = {"epoch": epoch, "seconds": seconds, "alive": self.alive, "runs": record, "members": marks(self.members)}
        tensors = {f"population.{n}": t.cpu().contiguous() for n, t in self.population.state().items()}
        tensors |= {f"best.{n}": t.cpu().contiguous() for n, t in self.best.items()}
        for k, run in enumerate(self.runs):
            if run.predictions is not None:
                tensors[f"predictions.{k}"] = torch.from_numpy(run.predictions)
            if run.state is not None:
                tensors |= {f"state.{k}.{n}": t.contiguous() for n, t in run.state.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(tensors, temporary, {"course": json.dumps(meta)})
        except (OSError, SafetensorError) as error:
            logging.getLogger(__name__).warning("%s: no checkpoint was written: %s", path, error)

    def resume(self, path: Path) -> int:
        """Take up a checkpoint; return the first epoch that is still to be trained."""
        with safe_open(path, "pt") as file:
            meta: dict[str, Any] = json.loads(file.metadata()["course"])
            tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 (not a mapping)
        assert meta["members"] == marks(self.members), "the checkpoint belongs to other members"
        self.alive, self.seconds = meta["alive"], meta.get("seconds", 0.0)  # older files have none
        self.population.keep(self.alive)
        self.population.restore(_strip(tensors, "population."))
        self.best = {n: t.to(self.train.device, copy=True) for n, t in _strip(tensors, "best.").items()}
        for k, (run, record) in enumerate(zip(self.runs, meta["runs"], strict=True)):
            run.curve = [(int(e), float(a), float(b)) for e, a, b in record.pop("curve")]
            vars(run).update(record)
            saved = tensors.get(f"predictions.{k}")
            run.predictions = None if saved is None else saved.numpy().copy()
            run.state = _strip(tensors, f"state.{k}.") or None
        return int(meta["epoch"]) + 1


def marks(members: Sequence[MemberSpec]) -> list[str]:
    """Return what a checkpoint knows its members by, under ``members`` in its record."""
    return [f"{m.config.fingerprint()}/{m.seed}" for m in members]


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
