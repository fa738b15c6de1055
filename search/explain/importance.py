"""Which parameters matter: Optuna's importances, with those that only some trials have judged among these."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence

import optuna
from optuna.importance import BaseImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from search.explain.surrogate import MINIMUM_TRIALS
from search.trials import by_metric

SHARED = 10
"""Complete trials that an arm needs for the shares of its settings: they are told apart among these alone."""


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """Return PED-ANOVA and fANOVA importances, as shares; either alone was seen to miss switches that matter.

    PED-ANOVA is told of all parameters at once. fANOVA knows only those that all its trials have: a parameter that only
    some trials have (a setting of an arm) gets its share among these trials, so that its shares and those of
    :func:`conditions`' other arms do not add up to 1. A method that cannot work on these trials is left out, and so is
    a parameter that only some trials have, fewer than ``SHARED``.

    Source: Watanabe et al., IJCAI 2023, arXiv:2304.10255, and Optuna's extension to conditional parameters; Hutter et
    al., ICML 2014.
    """
    points = by_metric(study)
    complete = points.get_trials(deepcopy=False)
    if len(complete) < MINIMUM_TRIALS:
        return {}
    ped = _shares(complete, points.direction, optuna.importance.PedAnovaImportanceEvaluator())
    fanova: dict[str, float] = {}
    for names, trials in _groups(complete):
        if len(trials) == len(complete) or len(trials) >= SHARED:
            own = _shares(trials, points.direction, optuna.importance.FanovaImportanceEvaluator(seed=0))
            fanova |= {name: own[name] for name in names if name in own}
    ordered = dict(sorted(fanova.items(), key=lambda item: -item[1]))
    return {name: values for name, values in (("ped_anova", ped), ("fanova", ordered)) if values}


def conditions(study: optuna.Study) -> dict[str, str]:
    """Return where the parameters exist that not all complete trials have: ``alignment.text-audio = coral``.

    That is the choice nearest to the parameter's name among those whose arms tell the trials that have it from the
    others; several arms are separated by ``|``.
    """
    complete = by_metric(study).get_trials(deepcopy=False)
    found = {}
    for names, trials in _groups(complete):
        numbers = {t.number for t in trials}
        others = [t for t in complete if t.number not in numbers]
        for name in names if others else []:
            found[name] = _condition(name, trials, others)
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


def _groups(complete: Sequence[FrozenTrial]) -> list[tuple[list[str], list[FrozenTrial]]]:
    """Return the parameters that the same trials have, with these trials."""
    having: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in complete:
        for name in trial.params:
            having[name].append(trial)
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, trials in having.items():
        groups[tuple(t.number for t in trials)].append(name)
    return [(names, having[names[0]]) for names in groups.values()]


def _shares(
    trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection, evaluator: BaseImportanceEvaluator
) -> dict[str, float]:
    """Return the importances of what an evaluator can judge on these trials alone, the largest first."""
    points = optuna.create_study(direction=direction)
    points.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental features, and parameters with a single value
        try:
            return {k: float(v) for k, v in get_param_importances(points, evaluator=evaluator).items()}
        except (ValueError, RuntimeError):
            return {}
