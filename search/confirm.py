"""Leaders on fresh seeds, chosen on the valid split; then the test split, opened once and counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from mmsa_core.atomic import replacing, write_text
from mmsa_core.config import MemberConfig, fingerprint
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from mmsa_core.metrics import DIRECTIONS, Convention, evaluate
from mmsa_core.noise import mix
from mmsa_core.predict import predict
from search.populations import Reply, Result, Slot, Task, Wait, together
from search.statistics import estimate, paired
from search.study import StudyConfig

OPENINGS = "test_openings"


@dataclass(frozen=True)
class Candidate:
    """A configuration to train on fresh seeds; ``name`` says what it is, e.g. "trial 42"."""

    name: str
    config: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """What its results are filed under: equal configurations are trained once."""
        return fingerprint(dict(self.config))


@dataclass(frozen=True)
class Confirmed:
    """A candidate's members: seeds, predictions on the valid split [seed, row], model states [seed, ...] and cost."""

    config: dict[str, Any]
    seeds: list[int]
    best_epochs: list[int]
    predictions: NDArray[np.float32]
    states: dict[str, NDArray[Any]]
    seconds: float
    parameters: int
    attempted: list[int]
    failures: list[str]


def confirm_seeds(config: StudyConfig) -> list[int]:
    """Return the fresh seeds, common to all candidates and never used by the search."""
    return [mix("confirm", config.seeds.base, i) for i in range(config.seeds.confirm)]


def effect_seeds(config: StudyConfig) -> list[int]:
    """Return the seeds that effects of modules are measured with: the first of the confirmation's."""
    return confirm_seeds(config)[: config.seeds.effects]


class ConfirmPlan:
    """Source of confirmation tasks: every candidate with every seed, in populations of ``size``, filed as files."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        seeds: Sequence[int],
        folder: Path,
        size: int,
        study: StudyConfig,
        label: str,
    ) -> None:
        self.folder = folder
        self.label = label
        objective = study.objective
        self.queue: list[Task] = []
        for candidate in {c.mark: c for c in candidates}.values():
            filed = {seed for part in _parts(folder, candidate) for seed in part.attempted}
            missing = [s for s in seeds if s not in filed]
            for part in _even(missing, together(candidate.config, size)):
                path = folder / candidate.mark / f"{fingerprint(part)}.safetensors"
                slots = tuple(Slot(k, seed, candidate.config) for k, seed in enumerate(part))
                task = Task(str(path), slots, (), objective.metric, objective.decided, keep_states=True)
                self.queue.append(task)
        self.total = len(self.queue)
        self.running: dict[str, Task] = {}
        self.failed: dict[str, int] = {}
        self._draining = False

    def next(self) -> Task | Wait | None:
        if not self.queue or self._draining:
            return Wait() if self.running and not self._draining else None
        task = self.queue.pop(0)
        self.running[task.name] = task
        return task

    def report(self, task: str, epoch: int, values: Mapping[int, float]) -> Reply:
        return Reply(stop=self._draining)

    def finish(self, task: str, result: Result) -> None:
        """File a task's members; those that failed are filed with their reason."""
        done = self.running.pop(task)
        if not result.stopped:
            _file(Path(task), done, result)

    def lost(self, task: str, reason: str) -> None:
        """Try a lost task once more."""
        self.failed[task] = self.failed.get(task, 0) + 1
        lost = self.running.pop(task)
        if self.failed[task] < 2:
            self.queue.append(lost)

    def abandon(self) -> None:
        self.queue += self.running.values()
        self.running.clear()

    def pending(self) -> bool:
        return not self._draining and bool(self.queue or self.running)

    def drain(self) -> None:
        self._draining = True

    def status(self) -> dict[str, Any]:
        left = len(self.queue) + len(self.running)
        return {"stage": self.label, "done": self.total - left, "total": self.total, "message": ""}

    def close(self) -> None:
        """Nothing is kept open."""


def load(folder: Path, candidate: Candidate, seeds: Sequence[int]) -> Confirmed:
    """Read a candidate's filed members, of ``seeds`` only and in their order.

    Raises:
        UserError: none of them finished.
    """
    parts = _parts(folder, candidate)
    rows = {seed: (part, k) for part in parts for k, seed in enumerate(part.seeds)}
    chosen = [rows[s] for s in seeds if s in rows]
    if not chosen:
        reason = next((f for p in parts for f in p.failures), "its workers died")
        raise UserError(f"confirm: no member of {candidate.name} finished; the first reason: {reason}")
    return Confirmed(
        config=chosen[0][0].config,
        seeds=[s for s in seeds if s in rows],
        best_epochs=[part.best_epochs[k] for part, k in chosen],
        predictions=np.stack([part.predictions[k] for part, k in chosen]),
        states={n: np.stack([part.states[n][k] for part, k in chosen]) for n in chosen[0][0].states},
        seconds=sum(p.seconds for p in parts) / max(1, sum(len(p.seeds) for p in parts)),
        parameters=chosen[0][0].parameters,
        attempted=list(seeds),
        failures=[f for p in parts for f in p.failures],
    )


def has_members(folder: Path, candidate: Candidate, seeds: Sequence[int]) -> bool:
    """Tell whether a candidate finished with at least one of ``seeds``."""
    return any(seed in seeds for part in _parts(folder, candidate) for seed in part.seeds)


def metric_rows(
    predictions: NDArray[np.float32], target: NDArray[np.float32], convention: Convention
) -> dict[str, list[float]]:
    """Return every metric of every member: name -> one value per seed."""
    rows = [evaluate(p, target, convention) for p in predictions]
    return {name: [row[name] for row in rows] for name in rows[0]}


def estimates(rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float | int]]:
    """Return mean, std, n and interval of every metric."""
    return {name: estimate(values).to_dict() for name, values in rows.items()}


def judge(
    study: StudyConfig,
    leaders: Sequence[tuple[int, Candidate]],
    baseline: tuple[int, Candidate],
    folder: Path,
    valid: Split,
) -> dict[str, Any]:
    """Compare the confirmed candidates on the valid split and name the winner: the best mean of the study's metric.

    A leader that failed with every seed is left out.

    Raises:
        UserError: the baseline failed with every seed.
    """
    seeds = confirm_seeds(study)
    metric, convention = study.objective.metric, study.objective.decided
    sign = 1.0 if DIRECTIONS[metric] == "minimize" else -1.0
    by_seed: dict[int, dict[int, float]] = {}
    table: list[dict[str, Any]] = []
    confirmed = [pair for pair in leaders if has_members(folder, pair[1], seeds)]
    for number, candidate in dict([baseline, *confirmed]).items():
        members = load(folder, candidate, seeds)
        rows = metric_rows(members.predictions, valid.labels, convention)
        by_seed[number] = dict(zip(members.seeds, rows[metric], strict=True))
        table.append(
            {
                "trial": number,
                "config": members.config,
                "valid": estimates(rows),
                "seconds": members.seconds,
                "parameters": members.parameters,
                "best_epoch": float(np.mean(members.best_epochs)),
                "failures": members.failures,
            }
        )
    reference = by_seed[baseline[0]]
    for entry in table:
        own = by_seed[entry["trial"]]
        common = [s for s in own if s in reference]
        entry["difference"] = paired([own[s] for s in common], [reference[s] for s in common]).to_dict()
    table.sort(key=lambda entry: sign * entry["valid"][metric]["mean"])
    return {
        "metric": metric,
        "convention": convention,
        "direction": study.objective.direction,
        "seeds": seeds,
        "baseline": baseline[0],
        "winner": table[0]["trial"],
        "candidates": table,
    }


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
    metric, convention, found = record["metric"], record["convention"], {}
    for role in ("winner", "baseline"):
        members = load(folder, candidates[record[role]], record["seeds"])
        states = {n: torch.from_numpy(s) for n, s in members.states.items()}
        predictions = predict(MemberConfig.from_dict(members.config), states, test)
        found[role] = (members.seeds, metric_rows(predictions, test.labels, convention))
        with replacing(folder / f"test_{role}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, predictions=predictions, seeds=np.array(members.seeds))
        if role == "winner":
            record["ensemble"] = {
                "valid": evaluate(members.predictions.mean(0), valid.labels, convention),
                "test": evaluate(predictions.mean(0), test.labels, convention),
            }
    common = [s for s in found["winner"][0] if s in found["baseline"][0]]
    pick = {role: [rows[metric][seeds.index(s)] for s in common] for role, (seeds, rows) in found.items()}
    record["test"] = {role: estimates(rows) for role, (_, rows) in found.items()}
    record["test"]["difference"] = paired(pick["winner"], pick["baseline"]).to_dict()
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
    """Return ``confirm.json``, or None before the first confirmation."""
    path = folder / "confirm.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _parts(folder: Path, candidate: Candidate) -> list[Confirmed]:
    return [_read(p) for p in sorted((folder / candidate.mark).glob("*.safetensors"))]


def _even(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Return the seeds in as few parts of at most ``size`` as it takes, of about equal length."""
    return [list(map(int, part)) for part in np.array_split(seeds, math.ceil(len(seeds) / size))] if seeds else []


def _file(path: Path, task: Task, result: Result) -> None:
    whole = [
        (s, o) for s, o in zip(task.slots, result.outcomes, strict=True) if o.failure is None and o.state is not None
    ]
    failures = [f"seed {s.seed}: {o.failure}" for s, o in zip(task.slots, result.outcomes, strict=True) if o.failure]
    meta = {
        "config": whole[0][1].config if whole else dict(task.slots[0].config),
        "seeds": [s.seed for s, _ in whole],
        "best_epochs": [o.best_epoch for _, o in whole],
        "seconds": result.seconds,
        "parameters": result.parameters,
        "attempted": [s.seed for s in task.slots],
        "failures": failures,
    }
    tensors: dict[str, NDArray[Any]] = {}
    if whole:
        tensors["predictions"] = np.stack([o.predictions for _, o in whole if o.predictions is not None])
        states = [o.state for _, o in whole if o.state is not None]
        tensors |= {f"state.{n}": np.stack([s[n] for s in states]) for n in states[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"members": json.dumps(meta)})


def _read(path: Path) -> Confirmed:
    with safe_open(path, "np") as file:
        meta = json.loads(file.metadata()["members"])
        tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 (not a mapping)
    states = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
    predictions = tensors.get("predictions", np.zeros((0, 0), np.float32))
    return Confirmed(predictions=predictions, states=states, **meta)
