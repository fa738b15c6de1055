"""A run folder: what was asked, what it was run with, a folder per trial, and the lock that keeps a second driver
out."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmsa_core.atomic import write_text
from mmsa_core.errors import UserError
from search.environment import environment
from search.folder_files import CLAIM, LOCK, check_files, check_in_place
from search.folder_identity import Identity, identify
from search.folder_lock import lock_owner, take_lock
from search.populations import Outcome, Slot
from search.processes import has_open
from search.records import read_json
from search.same_study import check_same
from search.storage import without_password
from search.study import StudyConfig
from search.study_claim import Claim, end_claimant, take_claim
from search.trial_files import write_trial
from search.yaml_io import write_yaml

STORAGE_VARIABLE = "MMSA_STORAGE"
"""The environment variable with a storage URL whose password the run folder does not keep."""


class RunFolder:
    """The files of one run; nothing here is needed to go on but the study's storage and ``resolved.yaml``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        self._claim: Claim | None = None
        self._driver: int | None = None
        self._identity: Identity | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets: lock and claim stay in this one."""
        return {**self.__dict__, "_lock": None, "_claim": None}

    @property
    def name(self) -> str:
        """The folder's own name, which a copy of it does not share; known once it was locked."""
        assert self._identity is not None
        return self._identity.name

    @property
    def copied_from(self) -> tuple[str, ...]:
        """The names of the folders that this one is a copy of; known once it was locked."""
        assert self._identity is not None
        return self._identity.copied_from

    # ---- opening -------------------------------------------------------------------------------------------------

    def start(self, config: StudyConfig, source: Path, facts: Mapping[str, Any]) -> None:
        """Create the folder, or check that the one that is there belongs to this study, and lock it.

        ``facts`` go into ``lock.json`` (data fingerprint, device); an existing folder must agree on the fingerprint.

        Raises:
            UserError: the folder is another study's, in use, not ours alone, or cannot be written.
        """
        try:
            with self._writing("give --out"):
                self.path.mkdir(parents=True, exist_ok=True)
                self._take_lock("give --out")
                if (self.path / "resolved.yaml").exists():
                    check_same(self.path, config, facts, self.facts())
                else:
                    write_text(self.path / "study.yaml", without_password(source.read_text(encoding="utf-8")))
                    write_text(self.path / "lock.json", json.dumps({**environment(), **facts}, indent=2) + "\n")
                public = config.model_copy(update={"storage": without_password(config.storage)})
                write_yaml(self.path / "resolved.yaml", public.resolved())
        except BaseException:
            self.release()
            raise

    @contextmanager
    def held(self, otherwise: str = "") -> Iterator[None]:
        """Hold the lock of a folder that a run made, or go on holding it, and let it go at the end.

        ``otherwise`` says what the caller could do where the folder cannot be had, e.g. ``give --out``.

        Raises:
            UserError: this is no run folder, another process is at work here, or it cannot be written.
        """
        try:
            if self._lock is None:
                self._require()
                with self._writing(otherwise):
                    self._take_lock(otherwise)
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let another driver in."""
        self.release_study()
        self._driver = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def config(self, overrides: Sequence[str] = (), storage: str | None = None) -> StudyConfig:
        """Return the study as it was resolved, with ``key=value`` changes; ``storage``, where the caller has it, is the
        one of ``resolved.yaml`` with its password.

        Raises:
            UserError: this is no run folder.
        """
        self._require()
        if self._lock is None:
            check_files(self.path)
        config = StudyConfig.load(self.path / "resolved.yaml", overrides)
        if storage is not None:
            return config.model_copy(update={"storage": storage})
        if "***" not in config.storage:
            return config
        url = os.environ.get(STORAGE_VARIABLE)
        if url is None:
            raise UserError(
                f"{self.path}: the storage's password is not kept in the run folder; "
                f"set {STORAGE_VARIABLE} to the whole URL, or leave the password to ~/.pgpass"
            )
        return config.model_copy(update={"storage": url})

    def driver(self) -> int | None:
        """Return the process that is at work here, or None; no right to write is needed.

        Raises:
            UserError: this is no run folder.
        """
        try:
            return lock_owner(self.path / LOCK)
        except (FileNotFoundError, NotADirectoryError):
            self._require()
            return None

    def interrupt(self) -> int:
        """Ask the process that is at work here to save and stop; return its number.

        Raises:
            UserError: nobody is, or it is of another machine, container or user.
        """
        pid = self.driver()
        if pid is None:
            raise UserError(f"{self.path}: nobody is at work here")
        if not has_open(pid, self.path / LOCK):
            raise UserError(
                f"{self.path}: process {pid} is at work here, of another machine, container or user; stop it there"
            )
        os.kill(pid, signal.SIGINT)
        return pid

    def facts(self) -> dict[str, Any]:
        """Return ``lock.json``.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_json(self.path / "lock.json", {}, "restore it from a copy, or give another --out")

    def claim_study(self) -> None:
        """Become the one process that tells this folder's study; the driver, or a process that it started, does so.

        Raises:
            UserError: another process is, or the driver that started this one is gone.
        """
        if self._lock is None and self._driver is not None and self.driver() != self._driver:
            raise UserError(f"{self.path}: process {self._driver}, which began this, has ended")
        self._identity = self._identity or identify(self.path)
        self._claim = take_claim(self.path / CLAIM, self.name)

    def release_study(self) -> None:
        """Let another process claim the study."""
        if self._claim is not None:
            self._claim.give_up()
            self._claim = None

    # ---- files ---------------------------------------------------------------------------------------------------

    def checkpoint(self, population: str) -> Path:
        """Return where a population's checkpoint is kept while it trains; a worker may have another working folder."""
        return self.path.absolute() / "populations" / f"{population}.safetensors"

    def trial(self, number: int) -> Path:
        """Return a trial's folder."""
        return self.path / "trials" / f"{number:04d}"

    def write_trial(self, number: int, members: Sequence[tuple[Slot, Outcome]]) -> None:
        """Write a trial's folder."""
        write_trial(self.trial(number), members)

    # ---- helpers -------------------------------------------------------------------------------------------------

    def _require(self) -> None:
        if not (self.path / "resolved.yaml").exists():
            raise UserError(
                f"{self.path}: no run folder is here (resolved.yaml is missing); give the folder that run made"
            )

    def _take_lock(self, otherwise: str) -> None:
        """Lock the folder, give it its name, and end what a driver that was killed left at work."""
        check_files(self.path)
        check_in_place(self.path)
        while (lock := take_lock(self.path / LOCK)) is None:
            if (pid := self.driver()) is not None:  # it has not ended meanwhile
                ways = _one_of("wait", "stop it", otherwise)
                raise UserError(f"{self.path}: process {pid} is at work here; {ways}")
        self._lock = lock
        self._driver = os.getpid()
        self._identity = identify(self.path)
        end_claimant(self.path / CLAIM, self.name)

    @contextmanager
    def _writing(self, otherwise: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            ways = _one_of("free space", "change permissions", otherwise)
            raise UserError(f"{self.path}: cannot write the run folder: {error.strerror}; {ways}") from None


def _one_of(*ways: str) -> str:
    """Return ``a, b, or c`` of those that are not empty."""
    *first, last = (way for way in ways if way)
    return f"{', '.join(first)}, or {last}"
