"""The lock of a journal: no process that is dead keeps it, and Optuna's own lock keeps out and is kept out.

Optuna's lock is a symbolic link beside the journal, which a process that is killed leaves behind. Here a lock of the
kernel comes first, on a companion file: it ends with its process. Whoever has it makes Optuna's link as well, for other
programs. A link that is met nevertheless was left by a dead process of ours, if the companion file says that one stood
between making and taking away its link, and is removed at once; or it is another program's, and is waited for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

from optuna.storages.journal._file import BaseJournalFileLock

from mmsa_core.errors import UserError
from search import time_limits
from search.processes import is_here, this_process

SUFFIX, LINK_SUFFIX = ".flock", ".lock"
SOON, LATE = 0.0005, 0.05
"""Seconds between two tries, at first and after a while."""
NEWS = 5.0
"""Seconds of waiting after which the user is told."""
STALE = 10.0
"""Seconds without a change of another program's link, or of the journal, after which the link is taken away."""
WIDTH = 512
"""Bytes of the companion file: a shorter record covers a longer one."""


class JournalLock(BaseJournalFileLock):
    """Excludes other processes, and other objects of this one, from writing to a journal."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._companion = journal.with_name(journal.name + SUFFIX)
        self._link = journal.with_name(journal.name + LINK_SUFFIX)
        # found from the link's own folder, also after that was moved; nobody else writes it so
        self._target = f"././{journal.name}"
        self._own = json.dumps(this_process()).encode()
        self._file: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock.

        Raises:
            TimeoutError: another process has kept it too long.
            UserError: the companion file is another's.
        """
        file = self._open()
        try:
            self._take(file)
            holder = self._record(file)
            self._write(file, b"+")
            self._make_link(holder)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back."""
        file, self._file = self._file, None
        assert file is not None, "a lock is released by its holder"
        try:
            if self._is_own_link():
                self._link.unlink(missing_ok=True)
            self._write(file, b"-")
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # not left to a copy of the descriptor in a child
            os.close(file)

    # ---- the kernel's lock ---------------------------------------------------------------------------------------

    def _open(self) -> int:
        try:
            file = os.open(self._companion, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UserError(f"{self._companion}: must be a file, and is a link; delete it") from None
            raise
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(file)
            raise UserError(f"{self._companion}: must be a file of one name; delete it")
        return file

    def _take(self, file: int) -> None:
        waiting = _Waiting(self._companion)
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting.go_on(lambda: _name(self._record(file)))

    def _record(self, file: int) -> dict[str, Any] | None:
        """Return the process that stands between making and taking away its link, if any does.

        Raises:
            UserError: the file is something else.
        """
        text = os.pread(file, WIDTH, 0)
        try:
            if text and text[:1] not in (b"+", b"-"):
                raise ValueError
            found = json.loads(text[1:]) if text else {}
        except ValueError:
            raise UserError(f"{self._companion}: is no journal's lock; move it away") from None
        return found if text[:1] == b"+" else None

    def _write(self, file: int, state: bytes) -> None:
        os.pwrite(file, (state + self._own).ljust(WIDTH - 1) + b"\n", 0)

    # ---- Optuna's link -------------------------------------------------------------------------------------------

    def _make_link(self, before: dict[str, Any] | None) -> None:
        """Make the link, as the holder of the kernel's lock; ``before`` is who died with it."""
        waiting, seen, since = _Waiting(self._link), self._state(), time.monotonic()
        while True:
            try:
                return self._link.symlink_to(self._target)
            except FileExistsError:
                if before is not None and is_here(before) and self._is_own_link():
                    self._link.unlink(missing_ok=True)
                    continue
            if (now := self._state()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STALE:
                logging.getLogger(__name__).warning(
                    "%s: has not changed for %.0f s, so whoever made it is gone; it is taken away", self._link, STALE
                )
                self._link.unlink(missing_ok=True)
                continue
            waiting.go_on(lambda: "another program")

    def _is_own_link(self) -> bool:
        """Tell whether the link is there and made as this class does."""
        try:
            return os.readlink(self._link) == self._target  # noqa: PTH115  # a Path would drop the dots
        except OSError:
            return False

    def _state(self) -> tuple[int, ...]:
        """Return what changes when the link's maker is alive: the link, or the journal."""
        found: list[int] = []
        for path in (self._link, self._journal):
            try:
                known = path.lstat()
                found += (known.st_ino, known.st_ctime_ns, known.st_size)
            except OSError:
                found.append(0)
        return tuple(found)


class _Waiting:
    """One wait for others: ever longer pauses, a sentence after a while, and an end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._pause = SOON
        self._said = False

    def go_on(self, holder: Any) -> None:
        """Wait for one pause.

        Raises:
            TimeoutError: the limit is over.
        """
        waited = time.monotonic() - self._began
        if waited > time_limits.LIMIT:
            raise TimeoutError(errno.ETIMEDOUT, f"{holder()} has held this lock for {waited:.0f} s", str(self._path))
        if waited > NEWS and not self._said:
            self._said = True
            logging.getLogger(__name__).warning("%s: waiting for %s, which holds this lock", self._path, holder())
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LATE)


def _name(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
