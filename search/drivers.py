"""The drivers at work on a study: which are alive, and which one leads.

Several drivers may share one study in a database, a proxy or a journal on a shared disk. Each writes a beat into the
study. A driver of this host is alive if its process is; one of another host, if its beat changed within ``LEASE``
seconds of this process' own clock, so that clocks which differ or jump do no harm. One of them leads, by a term of
:mod:`search.leadership`: it begins the study, takes up what dead drivers left, asks for the last trials, and confirms,
so that no trial is run twice, the budget is kept to the trial, and the test split is opened once.

A storage inside the run folder has one driver, the one that holds the folder's lock. What others have left in such a
study came with a copy of the folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna

from mmsa_core.config import fingerprint
from mmsa_core.errors import UserError
from search.leadership import Stage, Term, Terms
from search.processes import is_here, is_running, same_process, this_process
from search.run_folder import RunFolder
from search.study import StudyConfig

PREFIX = "driver:"
ASKING = "asking:"
FOLDER_STORAGES = ("journal", "sqlite")
"""Storages inside the run folder: its lock lets one driver in."""
BEAT, LEASE = 10.0, 60.0
"""Seconds between two beats, and without a beat until a driver of another host counts as dead."""


class Drivers:
    """This driver among those of a study, from any process that works for it."""

    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        folder: RunFolder,
        asks: int = 0,
        process: Mapping[str, Any] | None = None,
    ) -> None:
        """``asks`` is the number of trials that it may ask for at a time, ``process`` the one that it lives as long as:
        this one where None.

        Raises:
            UserError: the folder is a copy of one that a driver of this host works in.
        """
        self._study = study
        self._shared = config.storage not in FOLDER_STORAGES
        self._terms = Terms(study)
        self._heard: dict[str, tuple[int | None, float, bool]] = {}
        self._due = 0.0
        self.own = this_process() if process is None else process
        self.token = fingerprint(self.own)
        self._record: dict[str, Any] = {
            **self.own,
            "folder": str(folder.path.absolute()),
            "name": folder.name,
            "asks": asks,
            "budget": config.budget.model_dump(),
        }
        self._copied_from = folder.copied_from
        self.refuse_copy()
        self.beat()

    # ---- the drivers that are alive ------------------------------------------------------------------------------

    def beat(self) -> None:
        """Show that this driver is alive, if it is time to."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + BEAT
            before = self._known().get(self.token, {}).get("beat", 0)
            self._study.set_user_attr(PREFIX + self.token, {**self._record, "beat": before + 1})

    def ask_for(self, asks: int) -> None:
        """Let the other drivers know how many trials this one may ask for at a time."""
        self._record["asks"] = asks
        self._due = 0.0
        self.beat()

    def leave(self) -> None:
        """Show that this driver is done."""
        self._study.set_user_attr(PREFIX + self.token, None)

    def alive(self) -> list[Mapping[str, Any]]:
        """Return the records of the drivers that are alive, this one's first."""
        others = {t: d for t, d in self._known().items() if t != self.token}
        return [self._record, *(d for token, d in others.items() if self._is_alive(token, d))]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let the leader know that this driver, which does not lead, is about to ask for trials."""
        known_to_leader = self._shared and not self.leads
        if known_to_leader:
            self._study.set_user_attr(ASKING + self.token, True)
        try:
            yield
        finally:
            if known_to_leader:
                self._study.set_user_attr(ASKING + self.token, None)

    def is_another_asking(self) -> bool:
        """Tell whether another driver that is alive is about to ask for trials."""
        attributes = self._study.user_attrs
        others = (fingerprint({key: d[key] for key in self.own}) for d in self.alive()[1:])
        return any(attributes.get(ASKING + token) for token in others)

    def is_own(self, owner: Mapping[str, Any]) -> bool:
        """Tell whether a trial's owner is this driver."""
        return same_process(owner, self.own)

    def refuse_copy(self) -> None:
        """Refuse to work in a copy of a folder beside the original on one study.

        Raises:
            UserError: the original's driver is alive: its process runs here, or it has beaten since it was seen first.
        """
        if not self._copied_from:
            return
        for other in self.alive()[1:]:
            if other.get("name") in self._copied_from and self._has_proved_alive(other):
                raise UserError(
                    f"{self._record['folder']}: is a copy of {other['folder']}, where process {other['pid']} on "
                    f"{other['host']} is at work on the same study; wait for its end, or give the copy another study: "
                    "name or storage"
                )

    # ---- the one that leads --------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this driver leads; where nobody does any more, it claims the next term first."""
        if not self._shared:
            return True
        term, attributes = self._terms.read()
        if self._is_vacant(term, _records(attributes)):
            self._terms.claim(term, self._record)
            term = self._terms.current()
        return term is not None and self._is_mine(term)

    @property
    def leader(self) -> Mapping[str, Any] | None:
        """The record of another driver that leads; None if it is this one, or there is none, or it is not known yet."""
        term = self.term()
        return None if term is None or term.stage == "done" or self._is_mine(term) else term.owner

    def term(self) -> Term | None:
        """Return the current term; a storage inside the run folder has none."""
        return self._terms.current() if self._shared else None

    def advance(self, stage: Stage) -> None:
        """Record how far this driver is, which leads."""
        if (term := self.term()) is not None and self._is_mine(term):
            self._terms.advance(term.number, stage, len(self._study.get_trials(deepcopy=False)))

    def is_over(self) -> bool:
        """Tell whether another driver confirms, or has confirmed, as much as this one's budget asks for."""
        term = self.term()
        return term is not None and not self._is_mine(term) and self._is_covered(term)

    def is_leader_alive(self, term: Term) -> bool:
        """Tell whether the leader of a term is known to be alive, and not only too young to count as dead."""
        return term.owner is not None and self._has_proved_alive(term.owner)

    def _is_mine(self, term: Term) -> bool:
        own = term.owner is not None and self.is_own(term.owner)
        return own and term.stage != "done" and self._is_of_this_folder(term)  # a process may run one after the other

    def _is_vacant(self, term: Term | None, records: Mapping[str, Mapping[str, Any]]) -> bool:
        """Tell whether the next term may be claimed; ``records`` are the drivers' as of the same moment, as a leader
        that is done leaves right after it has said so."""
        if term is None:
            return True
        if term.stage == "done":
            return not self._is_covered(term) or self._is_of_this_folder(term)
        if term.owner is None:  # its driver is between two writes, or died there
            return not self._is_fresh(f"term {term.number}", None)
        token = fingerprint({key: term.owner[key] for key in self.own})
        if token == self.token:
            return not self._is_mine(term)
        return token not in records or not self._is_alive(token, records[token])

    def _is_covered(self, term: Term) -> bool:
        """Tell whether what the leader of a term confirms, or has confirmed, is all that this driver's budget buys."""
        if term.owner is None or term.stage == "search" or len(self._study.get_trials(deepcopy=False)) < term.trials:
            return False
        theirs, own = term.owner["budget"], self._record["budget"]
        longer = theirs["minutes"] is None or (own["minutes"] is not None and own["minutes"] <= theirs["minutes"])
        return longer and int(own["trials"]) <= int(theirs["trials"])

    def _is_of_this_folder(self, term: Term) -> bool:
        keys = ("name",) if self._record["name"] else ("host", "folder")
        return term.owner is not None and all(term.owner.get(key) == self._record[key] for key in keys)

    # ---- who is heard --------------------------------------------------------------------------------------------

    def _known(self) -> dict[str, Mapping[str, Any]]:
        return _records(self._study.user_attrs)

    def _is_alive(self, token: str, record: Mapping[str, Any]) -> bool:
        if not self._shared:
            return False
        return is_running(record) if is_here(record) else self._is_fresh(token, int(record["beat"]))

    def _is_fresh(self, token: str, beat: int | None) -> bool:
        """Tell whether a beat has changed within the lease, or was seen first then."""
        now = time.monotonic()
        if token not in self._heard:
            self._heard[token] = (beat, now, False)
        elif self._heard[token][0] != beat:
            self._heard[token] = (beat, now, True)
        return now - self._heard[token][1] < LEASE

    def _has_proved_alive(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a driver's process runs on this host, or its beat has changed within the lease."""
        token = fingerprint({key: record[key] for key in self.own})
        known = self._known().get(token)
        if known is None or not self._is_alive(token, known):
            return False
        return is_here(known) or self._heard[token][2]


def _records(attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the records of drivers among a study's user attributes, without those that have left."""
    found = {key.removeprefix(PREFIX): d for key, d in attributes.items() if key.startswith(PREFIX)}
    return {token: d for token, d in found.items() if d is not None}
