"""Reading a study: opening it, its progress, its best trials, and the attributes that its trials carry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mmsa_core.errors import UserError
from search.run_folder import RunFolder
from search.space import Params, Space
from search.storage import open_storage
from search.study import StudyConfig

POPULATION, ORIGIN, RESULT, REASON = "population", "origin", "result", "reason"
"""User attributes of a trial: its population's record, where its configuration came from, its cost, why it failed."""
CONFIG = "config"
"""User attribute of a trial whose configuration need not be a point of the space: the configuration. It has no
parameters, and so no place in what samplers and importances learn from."""
BASELINE, WARM_START, INTERACTIONS, SEARCH = "baseline", "warm_start", "interactions", "search"
"""Origins: of trial 0, of trials taken from other runs, of advised ones, and of those that the sampler proposed."""
NOTE = "note"
"""User attribute of a first trial: where it is from, in words."""
DROPPED = "dropped"
"""User attribute of the study: the first trials that are no points of its space, as origin and note."""
SECONDS = "seconds"
"""User attribute of the study: how long drivers worked on it."""
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
    """Open the study or create it.

    Raises:
        UserError: the storage cannot be opened, or holds a study of this name with another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(config.storage, folder.path)
    study = optuna.create_study(
        storage=storage, study_name=config.study, direction=config.objective.direction, load_if_exists=True
    )
    if study.direction.name.lower() != config.objective.direction:
        raise UserError(
            f"storage: a study named {config.study!r} is there with direction {study.direction.name.lower()}"
        )
    return study


def configuration(trial: FrozenTrial, space: Space, epochs: int) -> dict[str, Any]:
    """Return the configuration that a trial stands for, trained for ``epochs``, the study's last rung.

    Raises:
        UserError: its parameters are not (or not yet) a point of the space.
    """
    return {**(trial.user_attrs[CONFIG] if is_outside(trial) else space.config(trial.params)), "epochs": epochs}


def is_outside(trial: FrozenTrial) -> bool:
    """Tell whether a trial carries its configuration itself instead of parameters of the space."""
    return CONFIG in trial.user_attrs


def summary(study: optuna.Study, config: StudyConfig, running: bool, trials: bool = True) -> dict[str, Any]:
    """Return a study's progress as plain data: what ``mmsa-search status --json`` prints.

    ``running`` says whether a driver is at work; only the run folder's lock knows.
    """
    known = study.get_trials(deepcopy=False)
    counts = {name: sum(t.state == s for t in known) for s, name in STATES.items()}
    ended = counts["complete"] + counts["pruned"] + counts["failed"]
    seconds, minutes = float(study.user_attrs.get(SECONDS, 0.0)), config.budget.minutes
    late = minutes is not None and seconds >= 60 * minutes and counts["running"] == 0
    state = "running" if running else "finished" if late or ended >= config.budget.trials else "interrupted"
    best = best_trial(study)
    return {
        "study": study.study_name,
        "state": state,
        "metric": config.objective.metric,
        "budget": {"trials": config.budget.trials, "minutes": config.budget.minutes},
        "used": {"trials": ended, "seconds": seconds},
        "counts": counts,
        "best": None if best is None else {"number": best.number, "value": best.value, "params": best.params},
        "origins": origins(study),
        "test_openings": len(study.user_attrs.get("test_openings", [])),
        "trials": [
            {
                "number": t.number,
                "state": STATES[t.state],
                "value": t.value,
                "reason": t.user_attrs.get(REASON),
                "params": t.params,
            }
            for t in (known if trials else [])
        ],
    }


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial with the best value, or None."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    return min(complete, key=lambda t: sign * float(t.value or 0.0), default=None)


def origins(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return, by where configurations came from: how many trials there are, how many are complete, the best value and
    its trial, the notes of first trials, and what was dropped of them."""
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    groups: dict[str, list[FrozenTrial]] = defaultdict(list)
    for t in study.get_trials(deepcopy=False):
        groups[str(t.user_attrs.get(ORIGIN, SEARCH))].append(t)
    dropped = study.user_attrs.get(DROPPED, [])
    found = {}
    for origin in [*groups, *(d["origin"] for d in dropped if d["origin"] not in groups)]:
        complete = [t for t in groups[origin] if t.state == TrialState.COMPLETE]
        best = min(complete, key=lambda t: sign * float(t.value or 0.0), default=None)
        found[origin] = {
            "trials": len(groups[origin]),
            "complete": len(complete),
            "best": None if best is None else best.value,
            "number": None if best is None else best.number,
            "notes": [t.user_attrs[NOTE] for t in groups[origin] if NOTE in t.user_attrs],
            "dropped": [d["note"] for d in dropped if d["origin"] == origin],
        }
    return found


def baseline_trial(study: optuna.Study) -> FrozenTrial:
    """Return trial 0: the configuration that the study names, else the space's defaults."""
    return study.get_trials(deepcopy=False)[0]


def leaders(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the best complete trials of distinct configurations, the baseline's left out."""
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    seen = {_mark(baseline_trial(study))}
    found = []
    for trial in sorted(complete, key=lambda t: sign * float(t.value or 0.0)):
        if _mark(trial) not in seen:
            seen.add(_mark(trial))
            found.append(trial)
    return found[:count]


def _mark(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(POPULATION, {}).get("fingerprint"))


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have ended, in whatever way."""
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)]
