"""Asking a study for trials: the baseline and the first ones, then populations of one structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mmsa_core.config import MemberConfig, fingerprint
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from mmsa_core.noise import mix
from search.changes import Changes
from search.draft import Draft
from search.drivers import Drivers
from search.populations import together
from search.sampling import Sight, View, make_sampler, most_seen, writes_nothing
from search.space import Space
from search.study import StudyConfig
from search.trials import (
    BASELINE,
    CONFIG,
    DROPPED,
    LIMITS,
    NOTE,
    ORIGIN,
    POPULATION,
    REASON,
    FirstTrial,
    by_number,
    configuration,
    is_outside,
)

FIXED = "fixed_params"
"""Optuna's system attribute of a trial: the parameters that it was enqueued with."""


@dataclass
class _Asking:
    """Populations in the making: their generation, the configurations asked for so far, their names by structure."""

    generation: int
    seen: Counter[str] = field(default_factory=Counter)
    names: dict[tuple[tuple[str, Any], ...], str] = field(default_factory=dict)


class _Places:
    """The places that trials have in populations: the last generation, and how often each configuration was tried, so
    that a repeated one becomes another seed."""

    def __init__(self, study: optuna.Study) -> None:
        self._changes = Changes(study)
        self._known: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.generation = -1

    def look(self) -> _Places:
        """Take note of the trials that were given a place since the last look."""
        for trial in self._changes():
            place = trial.user_attrs.get(POPULATION)
            if place is not None and trial.number not in self._known:
                self._known.add(trial.number)
                self.seen[place["fingerprint"]] += 1
                self.generation = max(self.generation, place["generation"])
        return self


class Asker:
    """Asks for the trials of a study: each gets a place in a population, its seeds and the driver that trains it."""

    def __init__(self, study: optuna.Study, config: StudyConfig, space: Space, drivers: Drivers, size: int) -> None:
        """``size`` is the number of members in a population."""
        self.study = study
        self.config = config
        self.space = space
        self.drivers = drivers
        self.size = size
        self._places = _Places(study)
        self._sight = Sight(study, most_seen(config))

    def begin(self, first: Sequence[FirstTrial]) -> None:
        """Make the baseline wait as trial 0, and ``first`` behind it."""
        named = self.config.named_baseline()
        if named is None:
            self.study.enqueue_trial(self.space.baseline()[1], user_attrs={ORIGIN: BASELINE})
        else:  # it may be outside the space, so its configuration is kept with it
            self.study.enqueue_trial({}, user_attrs={ORIGIN: BASELINE, CONFIG: named.to_dict()})
        self._enqueue_first(first)

    def population(self, generation: int, most: int) -> list[list[FrozenTrial]]:
        """Ask for one population of at most ``most`` trials: the first one's structure is held for the others.

        Trials that were enqueued with another structure form populations of their own. So does a configuration from
        outside the space, as nothing in the space has its structure. Enqueued trials that are no points of the space
        fail, and count as asked for: there is no population where all did.
        """
        self._places.look()
        asking, view = _Asking(generation), self._sight.view()
        leads = self.drivers.leads
        for left in range(most, 0, -1):
            seed = mix("sampler", self.config.seeds.base, view.count)
            if not leads:  # two drivers that ask at once see as many trials, and must not draw the same
                seed = mix(self.drivers.token, seed)
            first = self._ask(seed, {}, asking, view)
            if first.state == TrialState.RUNNING:
                return self._fill(first, left - 1, seed, asking, view)
        return []

    def _fill(self, first: FrozenTrial, most: int, seed: int, asking: _Asking, view: View) -> list[list[FrozenTrial]]:
        """Return the population of ``first`` with at most ``most`` others, and those of strays among these."""
        structure = self.space.structural(first.params)
        most_members = min(self.size, self.limit(structure))
        room = max(1, together(self.configuration(first), most_members) // self.config.seeds.search)
        others = 0 if is_outside(first) else min(room - 1, most)
        asked = [first, *(self._ask(mix(seed, k), structure, asking, view) for k in range(1, others + 1))]
        placed = [t for t in asked if t.state == TrialState.RUNNING]
        return [[t for t in placed if t.user_attrs[POPULATION]["name"] == name] for name in asking.names.values()]

    def limit(self, structure: Mapping[str, Any]) -> int:
        """Return how many members of a structure fit the device, as far as is known."""
        return int(self.study.user_attrs.get(LIMITS, {}).get(fingerprint(dict(structure)), self.size))

    def lower_limit(self, trial: FrozenTrial, members: int) -> None:
        """Remember that no more than ``members`` of a trial's structure fit the device."""
        structure = self.space.structural(trial.params)
        if members < self.limit(structure):
            known = self.study.user_attrs.get(LIMITS, {})
            self.study.set_user_attr(LIMITS, {**known, fingerprint(dict(structure)): members})

    def label(self, number: int, generation: int) -> FrozenTrial:
        """Give a trial that was asked for, and no more, its parameters and a population of its own; it fails where what
        it has is no part of a point of the space."""
        self.study.sampler = make_sampler(self.config, mix("sampler", self.config.seeds.base, number), {})
        trial = Trial(self.study, by_number(self.study, number)._trial_id)
        self._places.look()
        return self._place(trial, _Asking(generation))

    def configuration(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the configuration that a trial stands for."""
        return configuration(trial, self.space, self.config.rungs.epochs[-1])

    def generation(self) -> int:
        """Return the number of the next generation of populations."""
        return self._places.look().generation + 1

    def _enqueue_first(self, first: Sequence[FirstTrial]) -> None:
        """Make the first trials wait behind the baseline; one that is no point of the space, or waits already, is
        dropped with a note."""
        named, epochs = self.config.named_baseline(), {"epochs": self.config.rungs.epochs[-1]}
        seen = {_mark({**self.space.baseline()[0], **epochs} if named is None else named.to_dict())}
        dropped = []
        for trial in first:
            try:
                config = MemberConfig.from_dict({**self.space.config(trial.params), **epochs})
                mark = complete(config).fingerprint()
                reason = "the same configuration waits already" if mark in seen else None
            except UserError as error:
                reason = str(error)
            if reason is not None:
                dropped.append({"origin": trial.origin, "note": f"{trial.note}: {reason}"})
                continue
            seen.add(mark)
            self.study.enqueue_trial(trial.params, user_attrs={ORIGIN: trial.origin, NOTE: trial.note})
        if dropped:
            self.study.set_user_attr(DROPPED, dropped)

    def _ask(self, seed: int, fixed: Mapping[str, Any], asking: _Asking, view: View) -> FrozenTrial:
        """Ask for a trial, with its place in a population: one that waits, else one drawn anew, in one write."""
        if view.waiting > 0 or not writes_nothing(self.config):
            view.waiting -= 1
            self.study.sampler = make_sampler(self.config, seed, fixed)
            asked = self._place(self.study.ask(), asking)
        else:
            draft = Draft(self.study, make_sampler(self.config, seed, fixed, view), view.count)
            config = {**self.space.sample(draft), "epochs": self.config.rungs.epochs[-1]}
            asked = draft.create({POPULATION: self._record(draft.params, config, view.count, asking)})
        view.add(asked)
        return asked

    def _place(self, trial: Trial, asking: _Asking) -> FrozenTrial:
        """Draw the parameters of a trial that is there already, and give it its place in a population.

        Other tools enqueue trials, and begin them, with parameters of any kind: one that is no point of the space fails
        with its reason, as a trial that was trained would.
        """
        try:
            config = self._drawn(trial)
        except (UserError, ValueError) as error:  # Optuna's own, where another range or choice was drawn from
            trial.set_user_attr(REASON, str(error))
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            trial.set_user_attr(POPULATION, self._record(trial.params, config, trial.number, asking))
        return by_number(self.study, trial.number)

    def _drawn(self, trial: Trial) -> dict[str, Any]:
        """Draw what parameters a trial lacks and return its configuration.

        Raises:
            UserError: what it has, or was enqueued with, is no part of a point of the space.
            ValueError: Optuna refuses its distributions.
        """
        known = by_number(self.study, trial.number)
        if not is_outside(known):
            self.space.check({**known.system_attrs.get(FIXED, {}), **known.params})
            self.space.sample(trial)
        config = self.configuration(by_number(self.study, trial.number))
        MemberConfig.from_dict(config)
        return config

    def _record(
        self, params: Mapping[str, Any], config: Mapping[str, Any], number: int, asking: _Asking
    ) -> dict[str, Any]:
        """Return a trial's place: its population, named after the first of its trials, its seeds, and who trains it."""
        mark = _mark(config)
        replicate = self._places.seen[mark] + asking.seen[mark]
        asking.seen[mark] += 1
        return {
            "name": asking.names.setdefault(
                _key(self.space.structural(params)), f"p{number:04d}-{self.drivers.token[:4]}"
            ),
            "generation": asking.generation,
            "seeds": search_seeds(self.config, replicate),
            "fingerprint": mark,
            "owner": self.drivers.own,
        }


def search_seeds(config: StudyConfig, replicate: int) -> list[int]:
    """Return the seeds of a configuration's ``replicate``-th trial: common to all, never used to confirm."""
    count = config.seeds.search
    return [mix("search", config.seeds.base, i) for i in range(replicate * count, (replicate + 1) * count)]


def _mark(config: Mapping[str, Any]) -> str:
    """Return what equal configurations share, however they are written; one that is refused fails when it is built."""
    try:
        return complete(MemberConfig.from_dict(config)).fingerprint()
    except UserError:
        return fingerprint(dict(config))


def _key(structure: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(structure.items()))
