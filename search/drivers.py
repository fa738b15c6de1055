"""The drivers at work on a study: who is alive, and who decides what only one may decide.

Several drivers may share one study in a database, a proxy or a journal on a shared disk. Each writes a beat into the
study. A driver of this host is alive if its process is; one of another host, if its beat changed within ``LEASE``
seconds of this process' own clock, so that clocks which differ or jump do no harm. The one that came first leads: it
begins the study, takes up what dead drivers left, and asks for the last trials, so that none is run twice and the
budget is kept to the trial.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from mmsa_core.config import fingerprint
from search.processes import is_here, is_running, same_process, this_process

PREFIX = "driver:"
BEAT, LEASE = 10.0, 60.0
"""Seconds between two beats, and without a beat until a driver of another host counts as dead."""


class Drivers:
    """This driver among those of a study; its process is the one that this object is made in."""

    def __init__(self, study: optuna.Study, folder: Path, asks: int) -> None:
        """``asks`` is the number of trials that it may ask for at a time."""
        self._study = study
        self.own = this_process()
        self.token = fingerprint(self.own)
        self._beats = 0
        self._due = 0.0
        self._heard: dict[str, tuple[int, float]] = {}
        last = max((float(d["since"]) for d in self._known().values()), default=0.0)
        self._record = {**self.own, "folder": str(folder), "asks": asks, "since": max(time.time(), last + 1e-3)}
        self.beat()

    def beat(self) -> None:
        """Show that this driver is alive, if it is time to."""
        if time.monotonic() >= self._due:
            self._beats += 1
            self._due = time.monotonic() + BEAT
            self._study.set_user_attr(PREFIX + self.token, {**self._record, "beat": self._beats})

    def leave(self) -> None:
        """Show that this driver is done."""
        self._study.set_user_attr(PREFIX + self.token, None)

    def alive(self) -> list[Mapping[str, Any]]:
        """Return the records of the drivers that are alive, this one among them, the leading one first."""
        known = {**self._known(), self.token: self._record}
        found = [(float(d["since"]), token) for token, d in known.items() if self._is_alive(token, d)]
        return [known[token] for _, token in sorted(found)]

    @property
    def leader(self) -> Mapping[str, Any] | None:
        """The record of the driver that leads, or None if it is this one."""
        first = self.alive()[0]
        return None if self.is_own(first) else first

    @property
    def leads(self) -> bool:
        return self.leader is None

    def is_own(self, owner: Mapping[str, Any]) -> bool:
        """Tell whether a trial's owner is this driver."""
        return same_process(owner, self.own)

    def _known(self) -> dict[str, Mapping[str, Any]]:
        attributes = self._study.user_attrs.items()
        return {key.removeprefix(PREFIX): d for key, d in attributes if key.startswith(PREFIX) and d is not None}

    def _is_alive(self, token: str, record: Mapping[str, Any]) -> bool:
        if token == self.token:
            return True
        if is_here(record):
            return is_running(record)
        beat, now = int(record["beat"]), time.monotonic()
        if token not in self._heard or self._heard[token][0] != beat:
            self._heard[token] = (beat, now)
        return now - self._heard[token][1] < LEASE
