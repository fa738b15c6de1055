"""Reading a study: opening it, its progress, its best trials, and the attributes that its trials carry.

A study has one objective, the metric, or two, the metric and a cost. Everything asks here what a trial is worth
(:func:`score`), what it costs (:func:`cost`) and how trials are ranked, and so never which of the two it is.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mmsa_core.errors import UserError
from search.overhead import overhead
from search.pareto import Point, ranks
from search.run_folder import RunFolder
from search.space import Params, Space
from search.storage import has_begun, open_storage, read_storage, without_password
from search.study import StudyConfig

POPULATION, ORIGIN, RESULT, REASON = "population", "origin", "result", "reason"
"""User attributes of a trial: its population's record, where its configuration came from, its training's expense, why
it failed."""
COST = "cost"
"""User attribute of a trial: the study's cost where it is known before the end, so that pruning may look at it."""
CONFIG = "config"
"""User attribute of a trial whose configuration need not be a point of the space: the configuration. It has no
parameters, and so no place in what samplers and importances learn from."""
BASELINE, WARM_START, INTERACTIONS, SEARCH = "baseline", "warm_start", "interactions", "search"
"""Origins: of trial 0, of trials taken from other runs, of advised ones, and of those that the sampler proposed."""
ADDED = "added"
"""Origin of trials that other tools added to the study with their values."""
NOTE = "note"
"""User attribute of a first trial: where it is from, in words."""
DROPPED = "dropped"
"""User attribute of the study: the first trials that are no points of its space, as origin and note."""
SECONDS = "seconds"
"""User attribute of the study: how long drivers worked on it."""
LIMITS = "limits"
"""User attribute of the study: by structure, how many members fit the device at once, where more did not."""
STAGE = "stage"
"""User attribute of the study: the part of what comes after the search that its leading driver began last."""
OVERHEAD = "overhead"
"""User attribute of the study: how many of these seconds the ledger took for itself."""
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class FirstTrial:
    """A point of the space to try right after the baseline; ``origin`` and ``note`` say where it is from."""

    params: Params
    origin: str
    note: str


def open_study(config: StudyConfig, folder: RunFolder) -> optuna.Study:
    """Open the study to write to it, or create it; the caller holds the run folder.

    Raises:
        UserError: the storage cannot be opened, or holds a study of this name with another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wanted = config.objective.directions
    study = optuna.create_study(
        storage=open_storage(config.storage, folder.path, config.study),
        study_name=config.study,
        directions=list(wanted.values()),
        load_if_exists=True,
    )
    _check_directions(study, config)
    if len(wanted) > 1 and study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(wanted))  # what optuna-dashboard calls the axes of the front
    return study


def read_study(config: StudyConfig, folder: RunFolder) -> optuna.Study:
    """Open the study to look at it: nothing is made or changed, and no right to write is needed.

    A study whose storage in the run folder is not made yet has no trials.

    Raises:
        UserError: the storage cannot be opened, or holds no such study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not has_begun(config.storage, folder.path):
        return optuna.create_study(study_name=config.study, directions=[*config.objective.directions.values()])
    storage = read_storage(config.storage, folder.path)
    try:
        study = optuna.load_study(study_name=config.study, storage=storage)
    except KeyError:
        raise UserError(
            f"{folder.path}: its storage ({without_password(config.storage)}) holds no study {config.study!r} yet; "
            "run it first"
        ) from None
    _check_directions(study, config)
    return study


def _check_directions(study: optuna.Study, config: StudyConfig) -> None:
    found = [d.name.lower() for d in study.directions]
    if found != list(config.objective.directions.values()):
        raise UserError(f"storage: a study named {config.study!r} is there with direction {', '.join(found)}")


class Directed(Protocol):
    """A study, or a view of one: what is best in it."""

    @property
    def directions(self) -> Sequence[StudyDirection]:
        """The metric's direction, and that of the cost where there is one."""


def sign(study: Directed) -> float:
    """Return what the metric is multiplied with so that smaller is better."""
    return 1.0 if study.directions[0] == StudyDirection.MINIMIZE else -1.0


def score(trial: FrozenTrial) -> float | None:
    """Return the metric's value of a trial that is complete, or of its last rung where it was pruned there."""
    if trial.values is not None:
        return float(trial.values[0])
    reached = trial.last_step if trial.state == TrialState.PRUNED else None
    return None if reached is None else trial.intermediate_values[reached]


def cost(trial: FrozenTrial) -> float | None:
    """Return a trial's cost as far as it is known; None in a study without."""
    known = trial.values[1] if trial.values is not None and len(trial.values) > 1 else trial.user_attrs.get(COST)
    return None if known is None else float(known)


def losses(study: Directed, value: float, known: float | None) -> Point:
    """Return a metric's value and a cost as two losses; a cost that there is not, or not yet, is the same for all."""
    loss = sign(study) * value
    return math.inf if math.isnan(loss) else loss, 0.0 if known is None else known


def ranked(study: optuna.Study) -> list[tuple[int, FrozenTrial]]:
    """Return the complete trials, each with its front, the best first: by front, and within one by the metric.

    Without a cost that is their order by the metric. Trials that other tools added are left out.
    """
    known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [t for t in known if not is_added(t)]
    points = [losses(study, t.values[0], cost(t)) for t in complete]
    order = sorted(zip(ranks(points), points, range(len(points)), strict=True))
    return [(rank, complete[k]) for rank, _, k in order]


def front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that no other beats in both objectives, the best by the metric first."""
    return [trial for rank, trial in ranked(study) if rank == 0]


def inside(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that are points of the space."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in complete if not is_outside(t) and not is_added(t)]


def by_metric(trial: FrozenTrial) -> FrozenTrial:
    """Return a complete trial with the metric as its only value."""
    return optuna.trial.create_trial(value=score(trial), params=trial.params, distributions=trial.distributions)


def configuration(trial: FrozenTrial, space: Space, epochs: int) -> dict[str, Any]:
    """Return the configuration that a trial stands for, trained for ``epochs``, the study's last rung.

    Raises:
        UserError: its parameters are not (or not yet) a point of the space.
    """
    return {**(trial.user_attrs[CONFIG] if is_outside(trial) else space.config(trial.params)), "epochs": epochs}


def is_outside(trial: FrozenTrial) -> bool:
    """Tell whether a trial carries its configuration itself instead of parameters of the space."""
    return CONFIG in trial.user_attrs


def is_added(trial: FrozenTrial) -> bool:
    """Tell whether another tool added a trial with its value: it was not trained here, on whatever it was measured, and
    its parameters need not be a point of the space. Nothing is learned from such trials, and none becomes a leader."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and POPULATION not in trial.user_attrs


def summary(study: optuna.Study, config: StudyConfig, running: bool, trials: bool = True) -> dict[str, Any]:
    """Return a study's progress as plain data: what ``mmsa-search status --json`` prints.

    ``running`` says whether a driver is at work; only the run folder's lock knows.
    """
    known = study.get_trials(deepcopy=False)
    counts = {name: sum(t.state == s for t in known) for s, name in STATES.items()}
    ended = counts["complete"] + counts["pruned"] + counts["failed"]
    seconds, minutes = float(study.user_attrs.get(SECONDS, 0.0)), config.budget.minutes
    late = minutes is not None and seconds >= 60 * minutes and counts["running"] == 0
    over = late or ended >= config.budget.trials
    state = "running" if running else "finished" if over else "interrupted"
    best = best_trial(study)
    return {
        "study": study.study_name,
        "state": state,
        "after_search": study.user_attrs.get(STAGE) if running and over else None,
        "metric": config.objective.metric,
        "cost": config.objective.cost,
        "budget": {"trials": config.budget.trials, "minutes": config.budget.minutes},
        "used": {"trials": ended, "seconds": seconds},
        "overhead": overhead(float(study.user_attrs.get(OVERHEAD, 0.0)), ended, seconds),
        "counts": counts,
        "best": None if best is None else {"number": best.number, "value": score(best), "params": best.params},
        "front": [t.number for t in front(study)],
        "origins": origins(study),
        "test_openings": len(study.user_attrs.get("test_openings", [])),
        "trials": [
            {
                "number": t.number,
                "state": STATES[t.state],
                "value": score(t),
                "cost": cost(t),
                "reason": t.user_attrs.get(REASON),
                "params": t.params,
            }
            for t in (known if trials else [])
        ],
    }


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial with the best value of the metric (of several the cheapest), or None."""
    return next((trial for _, trial in ranked(study)), None)


def origins(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return, by where configurations came from: how many trials there are, how many are complete, the best value and
    its trial, the notes of first trials, and what was dropped of them. Those that other tools added have no best."""
    groups: dict[str, list[FrozenTrial]] = defaultdict(list)
    for t in study.get_trials(deepcopy=False):
        groups[ADDED if is_added(t) else str(t.user_attrs.get(ORIGIN, SEARCH))].append(t)
    dropped = study.user_attrs.get(DROPPED, [])
    found = {}
    for origin in [*groups, *(d["origin"] for d in dropped if d["origin"] not in groups)]:
        complete = [t for t in groups[origin] if t.state == TrialState.COMPLETE and not is_added(t)]
        best = min(complete, key=lambda t: losses(study, t.values[0], cost(t)), default=None)
        found[origin] = {
            "trials": len(groups[origin]),
            "complete": len(complete),
            "best": None if best is None else score(best),
            "number": None if best is None else best.number,
            "notes": [t.user_attrs[NOTE] for t in groups[origin] if NOTE in t.user_attrs],
            "dropped": [d["note"] for d in dropped if d["origin"] == origin],
        }
    return found


def by_number(study: optuna.Study, number: int) -> FrozenTrial:
    """Return a trial by its number, without a list of all, which costs more the longer the study is."""
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def recorded_trial(study: optuna.Study, number: int) -> FrozenTrial:
    """Return the trial that a record of the run names.

    Raises:
        UserError: the study has no such trial, as when its journal was replaced by an older copy.
    """
    known = study.get_trials(deepcopy=False)
    if not 0 <= number < len(known):
        raise UserError(
            f"confirm.json: names trial {number}, and the study has {len(known)} trials; restore the study's storage, "
            "or move confirm.json away and confirm the run again"
        )
    return known[number]


def baseline_trial(study: optuna.Study) -> FrozenTrial:
    """Return trial 0: the configuration that the study names, else the space's defaults."""
    return study.get_trials(deepcopy=False)[0]


def leaders(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the best complete trials of distinct configurations, the baseline's left out; with a cost, the first
    fronts', and of a front that is not taken whole those with the best values of the metric."""
    if not study.get_trials(deepcopy=False):
        return []
    seen = {_mark(baseline_trial(study))}
    found = []
    for _, trial in ranked(study):
        if _mark(trial) not in seen:
            seen.add(_mark(trial))
            found.append(trial)
    return found[:count]


def _mark(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(POPULATION, {}).get("fingerprint"))


def reasons(trials: Sequence[FrozenTrial], most: int = 3) -> str:
    """Return why trials failed, the most frequent reasons first, each with its count; those that differ in numbers only
    are one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for t in trials:
        if t.state == TrialState.FAIL:
            reason = str(t.user_attrs.get(REASON, "unknown"))
            groups[re.sub(r"\d+", "#", reason)].append(reason)
    ordered = sorted(groups.values(), key=len, reverse=True)
    rest = sum(map(len, ordered[most:]))
    return "; ".join([*(f"{len(g)} x {g[0]}" for g in ordered[:most]), *([f"{rest} x others"] if rest else [])])


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have ended, in whatever way."""
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)]
