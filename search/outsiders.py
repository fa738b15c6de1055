"""Refuse a study that other tools have made unusable: trials before the baseline, or other choices of a parameter."""

from __future__ import annotations

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from mmsa_core.errors import UserError
from search.space import Space
from search.trials import BASELINE, ORIGIN, POPULATION

FIX = "give this run another study: name or another storage"


def refuse_unusable(study: optuna.Study, space: Space) -> None:
    """Refuse a study whose trials of other tools leave no room for this space.

    Raises:
        UserError: trial 0 is not the baseline, or Optuna takes no choice of the space beside one that a trial has.
    """
    known = study.get_trials(deepcopy=False)
    if known and known[0].user_attrs.get(ORIGIN) != BASELINE:
        raise UserError(
            f"storage: trial 0 of study {study.study_name!r} is of another tool, where the baseline must be; {FIX}, "
            "and enqueue trials once a run has begun"
        )
    wanted = {n: d for n, d in space.distributions().items() if isinstance(d, CategoricalDistribution)}
    for trial in known:
        if POPULATION not in trial.user_attrs:
            _refuse_choices(study.study_name, trial, wanted)


def _refuse_choices(name: str, trial: FrozenTrial, wanted: dict[str, CategoricalDistribution]) -> None:
    for path, own in trial.distributions.items():
        if path in wanted and own != wanted[path]:
            raise UserError(
                f"storage: trial {trial.number} of study {name!r}, which another tool added, has other choices for "
                f"{path} than {', '.join(map(str, wanted[path].choices))}, and Optuna takes no others beside them; "
                f"{FIX}"
            )
