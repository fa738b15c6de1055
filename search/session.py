"""A driver's part in a study, from its first look to the end of its last stage: agree, beat, lead or hand over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from mmsa_core.errors import UserError
from search import fingerprints
from search.drivers import BEAT, Drivers
from search.leadership import Term
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.trials import POPULATION, open_study

LOOK = 0.2
"""Seconds between two looks at what another driver is about to write."""


class HandedOverError(Exception):
    """The search is over, and another driver that shares the study does the rest, or has done it."""


class Session:
    """The driver of a run folder at work on its study; it beats in a thread of its own, whatever its stages do."""

    def __init__(self, config: StudyConfig, folder: RunFolder) -> None:
        self._config = config
        self._folder = folder
        self._study = open_study(config, folder)
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Session:
        """Join the drivers of the study, and agree with them on what is searched.

        Raises:
            UserError: the study's trials are of other data, another space or other settings; the folder is a copy of
                one that a driver works in.
        """
        self.drivers = Drivers(self._study, self._config, self._folder)
        try:
            self._agree()
        except BaseException:
            self.drivers.leave()
            raise
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._beats.join()
        with suppress(Exception):  # where the storage is away, the others miss the beat
            self.drivers.leave()

    def driver(self, asks: int) -> Mapping[str, Any]:
        """Return the process that trials of this driver are owned by; ``asks`` are asked for at a time."""
        self.drivers.ask_for(asks)
        return self.drivers.own

    def lead_or_hand_over(self, interrupted: Callable[[], bool]) -> None:
        """Take the lead of what follows the search, or leave it to the driver that has it.

        Raises:
            HandedOverError: another driver confirms, or has confirmed.
        """
        while not interrupted():
            if self.drivers.leads:
                self.drivers.advance("confirm")
                return
            term = self.drivers.term()
            if term is not None and (term.stage == "done" or self.drivers.is_leader_alive(term)):
                raise HandedOverError(self._handed_over(term))
            time.sleep(LOOK)

    def check_lead(self) -> None:
        """Make sure that this driver still leads.

        Raises:
            HandedOverError: it was silent for too long, and another one has taken over.
        """
        if not self.drivers.leads:
            term = self.drivers.term()
            raise HandedOverError("another driver has taken over" if term is None else self._handed_over(term))

    def finish(self) -> None:
        """Record that all stages are done."""
        self.drivers.advance("done")

    def _agree(self) -> None:
        """Check the study's fingerprints, or write them as the driver that begins it; a leader may be about to."""
        own = fingerprints.of_folder(self._config, self._folder)
        while fingerprints.of_study(self._study) is None:
            if not self.drivers.leads:
                time.sleep(LOOK)
            elif fingerprints.of_study(self._study) is None:
                self._vouch()
                self._study.set_user_attr(fingerprints.FINGERPRINTS, own)
        fingerprints.check(self._study, own)

    def _vouch(self) -> None:
        """Refuse to say of trials that an older version ran elsewhere what they were run on."""
        known = self._study.get_trials(deepcopy=False)
        if any(t.state.is_finished() and POPULATION in t.user_attrs for t in known) and not self._has_taken_part():
            raise UserError(
                f"storage: study {self._config.study!r} holds trials and does not say of which data, as an older "
                f"version began it; run one of its own run folders again first, or give {self._folder.path} another "
                "study: name"
            )

    def _has_taken_part(self) -> bool:
        return any((self._folder.path / name).exists() for name in ("trials", "populations", "confirm"))

    def _beat(self) -> None:
        """Beat until the session is over; a storage that is away halts the stages, which say so themselves."""
        while not self._over.wait(BEAT):
            with suppress(Exception):
                self.drivers.beat()
                self.drivers.alive()  # to have heard the others when it matters

    def _handed_over(self, term: Term) -> str:
        leader = term.owner or {}
        who = f"the search is over; process {leader.get('pid')} on {leader.get('host')}, which"
        if term.stage == "done":
            return (
                f"{who} led, has confirmed, explained and exported in its run folder {leader.get('folder')}; "
                f"`mmsa-search confirm {self._folder.path}` opens the test split once more"
            )
        return f"{who} leads, confirms, explains and exports in its run folder {leader.get('folder')}"
