"""Which modules matter: Optuna's importances, and the effect of every module by switching it off with the same
seeds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from mmsa_core.atomic import write_text
from mmsa_core.config import NONE, MemberConfig
from mmsa_core.data.split import Split
from mmsa_core.metrics import DIRECTIONS, objective_rows
from mmsa_core.model import complete
from search.configs import modules
from search.confirm import effect_seeds
from search.members import Candidate, has_members, load
from search.nodes import Arms
from search.overrides import assign, plain
from search.space import Space
from search.statistics import Estimate, paired, smallest_visible
from search.study import StudyConfig
from search.trials import by_metric

MINIMUM_TRIALS = 4
"""Complete trials below which an importance says nothing."""


@dataclass(frozen=True)
class Switch:
    """One module of the winner replaced by another arm of its choice, everything else equal."""

    place: str
    chosen: str
    against: str
    candidate: Candidate


def switches(
    space: Space, params: Mapping[str, Any], extra: Mapping[str, Any], baseline: Mapping[str, str] | None = None
) -> list[Switch]:
    """Return the winner's modules with what each is compared to: ``none`` where it is an arm, else the baseline's arm.

    ``baseline`` holds the modules of a baseline that the study names; an arm that the space lacks, and every arm
    without it, is the space's default. An arm comes with its settings at the space's defaults.

    A module that already is that arm is compared to nothing, and neither is one without effect beside the others (a
    way to weigh tasks where there is one task). ``extra`` is added to every configuration.
    """
    named = baseline or {}
    own = _effective({**space.config(params), **extra})
    leaves = space.leaves()
    defaults = {path: leaf.default for path, leaf in leaves.items()}
    found = []
    for path, chosen in params.items():
        leaf = leaves[path]
        if not isinstance(leaf, Arms):
            continue
        known = named[path] if named.get(path) in leaf.arms else leaf.default
        against = NONE if NONE in leaf.arms else str(known)
        if against != chosen:
            config = {**space.config({**defaults, **space.decided(params), **params, path: against}), **extra}
            if _effective(config) == own:
                continue
            found.append(Switch(path, str(chosen), against, Candidate(f"{path}: {against}", config)))
    return found


def removals(config: Mapping[str, Any]) -> list[Switch]:
    """Return what can be taken out of a configuration from outside the space: alignments and unimodal labels."""
    found = []
    for place, chosen in modules(config).items():
        if chosen != NONE and place.startswith(("alignment.", "labels")):
            without = plain(config)
            assign(without, place, NONE, {})
            found.append(Switch(place, chosen, NONE, Candidate(f"{place}: {NONE}", without)))
    return found


def effects(
    study: StudyConfig, winner: Candidate, found: Sequence[Switch], folder: Path, valid: Split
) -> list[dict[str, Any]]:
    """Return each switch's effect on the study's metric, winner minus switched, paired by seed, largest gain first.

    A switched configuration that failed with every seed has no effect to show and is left out.
    """
    metric, convention = study.objective.metric, study.objective.decided
    seeds = effect_seeds(study)

    def values(candidate: Candidate) -> dict[int, float]:
        members = load(folder, candidate, seeds)
        rows = objective_rows(metric, members.predictions, valid.labels, convention)
        return dict(zip(members.seeds, map(float, rows), strict=True))

    full, table = values(winner), []
    for switch in [s for s in found if has_members(folder, s.candidate, seeds)]:
        without = values(switch.candidate)
        common = [s for s in full if s in without]
        difference = paired([full[s] for s in common], [without[s] for s in common])
        table.append(
            {
                "module": switch.place,
                "choice": switch.chosen,
                "against": switch.against,
                "difference": difference.to_dict(),
                "resolved": difference.excludes_zero,
                "smallest_visible": smallest_visible(difference),
                "sentence": _sentence(switch, metric, difference),
            }
        )
    sign = 1.0 if DIRECTIONS[metric] == "minimize" else -1.0
    return sorted(table, key=lambda row: sign * row["difference"]["mean"])


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Return Optuna's PED-ANOVA and fANOVA importances; either alone was seen to miss switches that matter.

    Conditional parameters have no fANOVA value; a method that cannot work on these trials is left out.
    """
    points = by_metric(study)
    if len(points.get_trials(deepcopy=False)) < MINIMUM_TRIALS:
        return {}
    methods = {
        "ped_anova": optuna.importance.PedAnovaImportanceEvaluator(),
        "fanova": optuna.importance.FanovaImportanceEvaluator(seed=0),
    }
    found = {}
    for name, evaluator in methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features, and parameters with a single value
            try:
                found[name] = dict(optuna.importance.get_param_importances(points, evaluator=evaluator))
            except (ValueError, RuntimeError):
                continue
    return found


def write_explanation(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``explain.json``."""
    write_text(folder / "explain.json", json.dumps(record, indent=2) + "\n")


def read_explanation(folder: Path) -> dict[str, Any] | None:
    """Return ``explain.json``, or None before the first explanation."""
    path = folder / "explain.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _effective(config: Mapping[str, Any]) -> str:
    return complete(MemberConfig.from_dict(config)).fingerprint()


def _sentence(switch: Switch, metric: str, difference: Estimate) -> str:
    verb = "lowers" if difference.mean < 0 else "raises"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    visible = smallest_visible(difference)
    if not difference.excludes_zero:
        return (
            f"{switch.place}: {switch.chosen} against {switch.against} is not resolved: {metric} differs by "
            f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] over {difference.n} seeds; "
            f"{visible:.3f} was the smallest effect visible"
        )
    return (
        f"{switch.place}: {switch.chosen} {verb} {metric} by {abs(difference.mean):.3f} [{low:.3f}, {high:.3f}] "
        f"against {switch.against} over {difference.n} seeds; {visible:.3f} was the smallest effect visible"
    )
