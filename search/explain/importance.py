"""Which parameters matter: Optuna's importances, with those that only some trials have judged among these."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from search.explain.fanova import fanova
from search.explain.sample import sampled
from search.explain.surrogate import MINIMUM_TRIALS
from search.trials import by_metric, inside

SHARED = 10
"""Complete trials that an arm needs for the shares of its settings: they are told apart among these alone."""


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Return PED-ANOVA and fANOVA importances, as shares; either alone was seen to miss switches that matter.

    They are of the sample that :func:`judged` counts.

    PED-ANOVA is told of all parameters at once. fANOVA knows only those that all its trials have: a parameter that only
    some trials have (a setting of an arm) gets its share among these trials, so that its shares and those of
    :func:`conditions`' other arms do not add up to 1. A method that cannot work on these trials is left out, and so is
    a parameter that only some trials have, fewer than ``SHARED``.

    Source: Watanabe et al., IJCAI 2023, arXiv:2304.10255, and Optuna's extension to conditional parameters; Hutter et
    al., ICML 2014.
    """
    complete = [by_metric(t) for t in sampled(inside(study))]
    if len(complete) < MINIMUM_TRIALS:
        return {}
    shares: dict[str, float] = {}
    for names, places in _groups(complete):
        if len(places) == len(complete) or len(places) >= SHARED:
            own = fanova([complete[k] for k in places])
            shares |= {name: own[name] for name in names if name in own}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    ped = _ped_anova(complete, study.directions[0])
    return {name: values for name, values in (("ped_anova", ped), ("fanova", ordered)) if values}


def judged(study: optuna.Study) -> dict[str, int]:
    """Return how many trials importances are made from, and how many complete ones of the space there are."""
    there = inside(study)
    return {"trials": len(sampled(there)), "complete": len(there)}


def conditions(study: optuna.Study) -> dict[str, str]:
    """Return where the parameters exist that not all trials of the sample have: ``alignment.text-audio = coral``.

    That is the choice nearest to the parameter's name among those whose arms tell the trials that have it from the
    others; several arms are separated by ``|``.
    """
    complete, found = sampled(inside(study)), {}
    for names, places in _groups(complete):
        having = set(places)
        others = [t for k, t in enumerate(complete) if k not in having]
        for name in names if others else []:
            found[name] = _condition(name, [complete[k] for k in places], others)
    return found


def _condition(name: str, trials: Sequence[FrozenTrial], others: Sequence[FrozenTrial]) -> str:
    telling = {}
    for choice, distribution in trials[0].distributions.items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution) and choice != name:
            arms = list(dict.fromkeys(t.params[choice] for t in trials if choice in t.params))
            if not {t.params.get(choice) for t in others} & set(arms):
                telling[choice] = " | ".join(map(str, sorted(arms, key=str)))
    if not telling:
        return "the trials that have it"
    parents = [choice for choice in telling if name.startswith(f"{choice}.")]
    nearest = max(parents, key=len) if parents else min(telling, key=len)
    return f"{nearest} = {telling[nearest]}"


def _groups(complete: Sequence[FrozenTrial]) -> list[tuple[list[str], tuple[int, ...]]]:
    """Return the parameters that the same trials have, with the places of these trials."""
    having: dict[str, list[int]] = defaultdict(list)
    for place, trial in enumerate(complete):
        for name in trial.params:
            having[name].append(place)
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, places in having.items():
        groups[tuple(places)].append(name)
    return [(names, places) for places, names in groups.items()]


def _ped_anova(trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection) -> dict[str, float]:
    """Return the importances of all parameters, the largest first; nothing where the method cannot work."""
    points = optuna.create_study(direction=direction)
    points.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental features, and parameters with a single value
        try:
            own = get_param_importances(points, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):
            return {}
    return {name: float(share) for name, share in own.items()}
