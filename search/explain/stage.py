"""Everything that is found about a winner, in one record; what needs seeds is trained in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from search.explain.effects import effects
from search.explain.importance import conditions, importances, judged
from search.explain.interactions import VERIFIED, crossed, interactions
from search.explain.marginals import Trials, arms, marginals
from search.explain.measure import Measure
from search.explain.path import path, reached, spared, steps
from search.explain.surrogate import Surrogate
from search.explain.switches import Switch, completed, effective
from search.explain.units import Ends
from search.members import Candidate
from search.parts import TRAINING, Begin, unseen


class Pool:
    """Candidates by what they train: a configuration that is there already, however it is written, is not trained
    again."""

    def __init__(self, known: Sequence[Candidate]) -> None:
        self._known = {effective(candidate.config): candidate for candidate in reversed(known)}

    def candidate(self, config: Mapping[str, Any], name: str) -> Candidate:
        """Return the candidate of a configuration, a new one under ``name`` where there is none."""
        return self._known.setdefault(effective(config), Candidate(name, config))


def explained(
    study: optuna.Study,
    trials: Trials,
    measure: Measure,
    baseline: Candidate,
    winner: Candidate,
    found: Sequence[Switch],
    names: Sequence[str],
    train: Callable[[Sequence[Candidate]], None],
    begin: Begin = unseen,
) -> dict[str, Any]:
    """Return what ``explain.json`` holds.

    ``found`` are the winner's switches, ``names`` the parameters whose curves say something of the winner; ``train``
    trains candidates with the seeds of effects. ``begin`` is told of every part before it begins.
    """
    begin("explain", "surrogate")
    surrogate = Surrogate.fit(trials.configs, trials.values, trials.space)
    pool = Pool([baseline, winner, *(s.candidate for s in found)])
    pairs = crossed(winner, found, surrogate, pool.candidate)
    between = Ends(completed(baseline.config), completed(winner.config))
    way = steps(between, baseline, winner, surrogate, measure.sign, pool.candidate)
    both = [pair.both for pair in pairs[:VERIFIED]]
    begin("explain", TRAINING)
    train([baseline, winner, *(s.candidate for s in found), *both, *(step.candidate for step in way)])
    way = reached(measure, way)
    begin("explain", "importances")
    record: dict[str, Any] = {"importance": importances(study), "conditional": conditions(study)}
    begin("explain", "effects")
    record["effects"] = effects(measure, winner, found)
    begin("explain", "interactions")
    record["interactions"] = interactions(measure, winner, pairs)
    begin("explain", "path")
    record |= {"path": path(measure, between, way), "spared": spared(measure, between, way)}
    begin("explain", "curves")
    record["marginals"] = marginals(trials, surrogate, names)
    begin("explain", "arms")
    record["arms"] = arms(trials, surrogate, measure.sign)
    record["surrogate"] = {"r2": surrogate.r2, "trials": surrogate.n, "complete": len(trials.complete)}
    record["importance_sample"] = judged(study)
    return record
