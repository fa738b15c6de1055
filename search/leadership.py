"""Leadership terms of a study: one atomic write in the storage decides which driver leads.

Term k is an empty study named ``<study>:leader:<k>``. A storage creates a name once, whoever asks for it at the same
moment, so one driver alone has a term; everybody follows the highest. No study of a person's has such a name, as a
study file refuses colons.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import optuna

OWNER, STAGE = "owner", "stage"

Stage = Literal["search", "confirm", "done"]


@dataclass(frozen=True)
class Term:
    """A term: its leader's record (None between the two writes of a claim), how far the leader is, and how many trials
    the study had when the search was over."""

    number: int
    owner: Mapping[str, Any] | None
    stage: Stage
    trials: int


class Terms:
    """The terms of a study, in its storage."""

    def __init__(self, study: optuna.Study) -> None:
        self._storage = study._storage
        self._study = study.study_name
        self._prefix = f"{study.study_name}:leader:"

    def current(self) -> Term | None:
        """Return the highest term, or None before the first."""
        return self.read()[0]

    def read(self) -> tuple[Term | None, Mapping[str, Any]]:
        """Return the highest term and the study's user attributes, both as of one moment."""
        known = {s.study_name: s.user_attrs for s in self._storage.get_all_studies()}
        found = self._terms(known)
        if not found:
            return None, known.get(self._study, {})
        number = max(found)
        stage = found[number].get(STAGE, {})
        term = Term(number, found[number].get(OWNER), stage.get("name", "search"), stage.get("trials", 0))
        return term, known.get(self._study, {})

    def claim(self, after: Term | None, owner: Mapping[str, Any]) -> None:
        """Claim the term that follows ``after``; the current term then says who has it."""
        number = 1 if after is None else after.number + 1
        with suppress(optuna.exceptions.DuplicatedStudyError):
            optuna.create_study(study_name=self._name(number), storage=self._storage)
            self._set(number, OWNER, dict(owner))
            names = optuna.get_all_study_names(self._storage)
            for older in [n for n in self._terms({name: {} for name in names}) if n < number]:
                with suppress(KeyError):
                    optuna.delete_study(study_name=self._name(older), storage=self._storage)

    def advance(self, number: int, stage: Stage, trials: int) -> None:
        """Record that the leader of a term has reached a stage."""
        self._set(number, STAGE, {"name": stage, "trials": trials})

    def _set(self, number: int, key: str, value: object) -> None:
        with suppress(KeyError):  # a later term has been claimed, and this one deleted
            optuna.load_study(study_name=self._name(number), storage=self._storage).set_user_attr(key, value)

    def _terms(self, studies: Mapping[str, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
        """Return the user attributes of those of ``studies`` that are terms, by number."""
        own = {name.removeprefix(self._prefix): a for name, a in studies.items() if name.startswith(self._prefix)}
        return {int(key): attributes for key, attributes in own.items() if key.isdecimal()}

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number}"
