"""Reads a run folder into one frozen record; everything in the report is made from it."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mmsa_core.config import NONE, MemberConfig
from mmsa_core.errors import UserError
from search.configs import modules
from search.confirm import read_record
from search.explain import read_explanation
from search.fingerprints import check_folder
from search.nodes import Arms, Leaf, Values
from search.opening import OPENINGS
from search.records import read_json
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.trials import (
    ADDED,
    POPULATION,
    REASON,
    RESULT,
    SECONDS,
    STATES,
    cost,
    is_added,
    is_outside,
    origins,
    read_study,
    recorded_trial,
    score,
)

CURVE = "curve.csv"
MAX_CURVES = 200
"""Learning curves drawn; a page with more is slow and shows no more."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the search: the metric's ``value`` if it is complete, ``rungs`` its best values so far by epoch, its
    ``cost`` in a study with one, ``outside`` if it is a configuration from outside the space, without parameters,
    ``epochs`` those of all of its members."""

    number: int
    state: str
    value: float | None
    rungs: Mapping[int, float]
    params: Mapping[str, Any]
    reason: str | None
    seconds: float | None
    parameters: int | None
    outside: bool = False
    cost: float | None = None
    epochs: int = 0

    @property
    def last(self) -> float | None:
        """The value it ended with: its own, or that of the rung where it was dropped."""
        return self.value if self.value is not None else self.rungs.get(self.last_rung or 0)

    @property
    def last_rung(self) -> int | None:
        """The last epoch at which it was compared with the others."""
        return max(self.rungs, default=None)


@dataclass(frozen=True)
class Curve:
    """The valid metric by epoch, the mean over a trial's seeds."""

    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunRecord:
    """Everything that is known of a run; ``leaves`` are the space's parameters, ``defaults`` the modules of its
    defaults, ``stale`` the files that are of another confirmation and left out."""

    path: str
    config: StudyConfig
    facts: Mapping[str, Any]
    leaves: Mapping[str, Leaf]
    defaults: Mapping[str, str]
    trials: tuple[TrialRecord, ...]
    curves: Mapping[int, Curve]
    confirm: Mapping[str, Any] | None
    explain: Mapping[str, Any] | None
    openings: int
    seconds: float
    origins: Mapping[str, Mapping[str, Any]]
    holistic: Mapping[str, Any] | None = None
    information: Mapping[str, Any] | None = None
    stale: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        return self.config.objective.metric

    @property
    def minimize(self) -> bool:
        return self.config.objective.direction == "minimize"

    @property
    def sign(self) -> float:
        """What a value is multiplied with so that smaller is better."""
        return 1.0 if self.minimize else -1.0

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials, the best first."""
        return rank(self.trials, self.sign)

    @property
    def winner(self) -> int | None:
        """The confirmed winner's trial, or None before confirmation."""
        return None if self.confirm is None else int(self.confirm["winner"])

    def count(self, state: str) -> int:
        return sum(t.state == state for t in self.trials)

    def candidate(self, number: int) -> Mapping[str, Any]:
        """Return a confirmed candidate's part of ``confirm.json``."""
        assert self.confirm is not None
        found: Mapping[str, Any] = next(c for c in self.confirm["candidates"] if c["trial"] == number)
        return found

    @cached_property
    def named(self) -> MemberConfig | None:
        """The baseline that the study names, or None where it is the space's defaults."""
        return self.config.named_baseline()

    def changes(self, trial: TrialRecord) -> dict[str, Any]:
        """Return a trial's choices that differ from the baseline's: its modules, where the study names one, because the
        other choices of the space mean nothing to it."""
        chosen = {k: v for k, v in trial.params.items() if isinstance(self.leaves.get(k), Arms | Values)}
        if self.named is None:
            return {k: v for k, v in chosen.items() if v != self.leaves[k].default}
        if trial.outside:
            return {}
        own = {**self.defaults, **{k: v for k, v in chosen.items() if k in self.defaults}}
        base = {**dict.fromkeys(own, NONE), **modules(self.named.to_dict())}
        idle = {"weighting"} if NONE in (own["labels"], base["labels"]) else set()
        return {k: own.get(k, NONE) for k in base if k not in idle and own.get(k, NONE) != base[k]}


def collect(folder: Path, storage: str | None = None) -> RunRecord:
    """Read a run folder, finished or not.

    ``storage`` replaces the one in ``resolved.yaml``, which is written without its password.

    Raises:
        UserError: this is no run folder, or its study cannot be opened or is of other data or settings.
    """
    run = RunFolder(folder)
    config = run.config(storage=storage)
    study, space = read_study(config, run), config.search_space()
    check_folder(study, config, run)
    trials = tuple(_trial(t, run.trial(t.number) / CURVE) for t in study.get_trials(deepcopy=False))
    sign = 1.0 if config.objective.direction == "minimize" else -1.0
    confirm = read_record(folder / "confirm")
    first = [] if confirm is None else [recorded_trial(study, confirm[r]).number for r in ("winner", "baseline")]
    beside = {
        "explain.json": read_explanation(folder / "confirm"),
        "holistic.json": _json(folder / "confirm" / "holistic.json"),
        "information.json": _json(folder / "confirm" / "information.json"),
    }
    # a run that was killed may have a new confirmation beside what was found about an earlier one
    inputs = None if confirm is None else confirm.get("inputs")
    own = {name: found for name, found in beside.items() if found is not None and found.get("inputs") == inputs}
    drawn = [*first, *_spread([t.number for t in trials], [t.number for t in rank(trials, sign)])]
    return RunRecord(
        path=str(folder),
        config=config,
        facts=run.facts() if (folder / "lock.json").exists() else {},
        leaves=space.leaves(),
        defaults=modules(space.baseline()[0]),
        trials=trials,
        curves={n: c for n in dict.fromkeys(drawn) if (c := _curve(run.trial(n) / CURVE)) is not None},
        confirm=confirm,
        explain=own.get("explain.json"),
        openings=len(study.user_attrs.get(OPENINGS, [])),
        seconds=float(study.user_attrs.get(SECONDS, 0.0)),
        origins=origins(study),
        holistic=own.get("holistic.json"),
        information=own.get("information.json"),
        stale=tuple(name for name, found in beside.items() if found is not None and name not in own),
    )


def rank(trials: Iterable[TrialRecord], sign: float) -> list[TrialRecord]:
    """Return the complete trials, those with the smallest ``sign * value`` first."""
    return [t for _, _, t in sorted((sign * t.value, t.number, t) for t in trials if t.value is not None)]


def _json(path: Path) -> dict[str, Any] | None:
    return read_json(path, {}, "move it away and confirm the run again") if path.exists() else None


def _trial(trial: FrozenTrial, curve: Path) -> TrialRecord:
    result, added = trial.user_attrs.get(RESULT, {}), is_added(trial)
    return TrialRecord(
        number=trial.number,
        state=ADDED if added else STATES[trial.state],
        value=score(trial) if trial.state == TrialState.COMPLETE and not added else None,
        rungs={} if added else dict(trial.intermediate_values),
        params=trial.params if POPULATION in trial.user_attrs else {},  # other tools' need not be of the space
        reason=_reason(trial),
        seconds=result.get("seconds"),
        parameters=result.get("parameters"),
        outside=is_outside(trial),
        cost=cost(trial),
        epochs=max(0, curve.read_bytes().count(b"\n") - 1) if curve.exists() else 0,
    )


def _reason(trial: FrozenTrial) -> str | None:
    if trial.state != TrialState.FAIL:
        return None
    return str(trial.user_attrs.get(REASON, "no reason was recorded"))


def _spread(numbers: Sequence[int], ranked: Sequence[int]) -> list[int]:
    """Return at most ``MAX_CURVES`` trials: the best tenth of that, and the others evenly over the search."""
    if len(numbers) <= MAX_CURVES:
        return list(numbers)
    best = list(ranked[: MAX_CURVES // 10])
    others = [n for n in numbers if n not in set(best)]
    even = np.linspace(0, len(others) - 1, MAX_CURVES - len(best)).round().astype(int)
    return best + [others[i] for i in even]


def _curve(path: Path) -> Curve | None:
    if not path.exists():
        return None
    by_epoch: dict[int, list[float]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                by_epoch[int(row["epoch"])].append(float(row["valid"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: is no curve ({error}); delete it, and the report leaves this curve out") from None
    epochs = tuple(sorted(by_epoch))
    values = tuple(float(np.mean(by_epoch[e])) for e in epochs)
    return Curve(epochs, values) if np.isfinite(values).any() else None
