"""A trial before it is there: its parameters are drawn first, and it is created with all of them in one write.

``study.ask()`` creates an empty trial and writes, and syncs, each parameter as it is drawn: with thirty parameters the
storage cost more than everything else that a study does for a trial, and a driver that was killed in between left a
trial without its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial


class Draft:
    """A trial that is not created yet: it draws parameters from a sampler that writes nothing to the storage itself."""

    def __init__(self, study: optuna.Study, sampler: BaseSampler, number: int) -> None:
        """``number`` is how many trials there are: the one that this will have, unless another driver asks too."""
        self._study = study
        self._sampler = sampler
        self._trial = create_trial(state=TrialState.RUNNING)
        self._trial.number = number
        space = sampler.infer_relative_search_space(study, self._trial)
        sampler.before_trial(study, self._trial)
        self._relative = sampler.sample_relative(study, self._trial, space)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters drawn so far."""
        return dict(self._trial.params)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._draw(name, FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._draw(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> CategoricalChoiceType:
        drawn: CategoricalChoiceType = self._draw(name, CategoricalDistribution(choices))
        return drawn

    def create(self, attributes: Mapping[str, Any]) -> FrozenTrial:
        """Create the trial, running, with its parameters and ``attributes``; its number is known from here on."""
        own = self._trial
        template = create_trial(
            state=TrialState.RUNNING, params=own.params, distributions=own.distributions, user_attrs=dict(attributes)
        )
        storage = self._study._storage
        return storage.get_trial(storage.create_new_trial(self._study._study_id, template))

    def _draw(self, name: str, distribution: BaseDistribution) -> Any:
        if distribution.single():
            value = distribution.to_external_repr(distribution.to_internal_repr(_only(distribution)))
        elif name in self._relative:
            value = self._relative[name]
        else:
            value = self._sampler.sample_independent(self._study, self._trial, name, distribution)
        self._trial.params[name] = value
        self._trial.distributions[name] = distribution
        return value


def _only(distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that has one."""
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low  # type: ignore[attr-defined]
