"""Optuna's journal as a file: written whole lines at a time, mended after a crash, and read without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from mmsa_core.errors import UserError
from search.journal_lock import JournalLock

LOG_NAME = "study.log"
LONGEST_LINE = 2**24
"""Bytes: more than any entry of a journal takes."""
BEGINNING = b'{"op_code":'
"""How the first line of every journal begins."""
ELSE = "restore it from a copy, or give another path or --out"


def open_journal(path: Path, study: str | None) -> JournalStorage:
    """Open a journal to write to it. A line that a crash left half written is taken away first, where the file is a
    journal that holds ``study``: the next one would be appended to it, and then neither could be read.

    Raises:
        UserError: the file is no journal, which is left as it is, or a damaged one.
    """
    check_journal(path)
    lock = JournalLock(path)
    if _half_line(path) > 0:
        _check_whose(path, study)
        with get_lock_file(lock):  # writers hold it: what is half written now, nobody is writing
            _cut_half_line(path)
    return _opened(path, _WholeLines(path, lock))


def read_journal(path: Path) -> JournalStorage:
    """Open a journal to look at it.

    Raises:
        UserError: there is no journal, or a damaged one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no journal is here; nothing has run yet, or it was moved")
    check_journal(path)
    return _opened(path, _ReadOnly(path))


def check_journal(path: Path) -> None:
    """Refuse a file that does not begin as a journal does; an empty one, and none, may become one.

    Raises:
        UserError: with what its first line is.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    if line.endswith(b"\n"):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        fits = isinstance(found, dict) and {"op_code", "worker_id"} <= found.keys()
    else:
        fits = BEGINNING.startswith(line[: len(BEGINNING)])
    if not fits:
        shown = line[:40].decode("utf-8", "replace").strip()
        raise UserError(f"{path}: is no journal of Optuna's (it begins with {shown!r}) and is left as it is; {ELSE}")


def _opened(path: Path, backend: BaseJournalBackend) -> JournalStorage:
    try:
        return JournalStorage(backend)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, optuna.exceptions.OptunaError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(
            f"{path}: the journal is damaged ({reason}); restore it from a copy, or start anew with another --out"
        ) from None


class _WholeLines(BaseJournalBackend):
    """A journal file that keeps nothing of a write that failed, as on a full disk."""

    def __init__(self, path: Path, lock: JournalLock) -> None:
        self._path = path
        self._lock = lock
        self._file = JournalFileBackend(str(path), lock_obj=lock)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with get_lock_file(self._lock), self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                _write(file, lines)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


class _ReadOnly(BaseJournalBackend):
    """A journal file that is only looked at; a last line without its end is not there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JournalFileBackend(str(path))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError(f"{self._path}: opened to be read")


def _write(file: IO[bytes], data: bytes) -> None:
    """Write all of it: a disk that is nearly full takes a part and says so at the next try."""
    while data:
        data = data[file.write(data) :]


def _check_whose(path: Path, study: str | None) -> None:
    """Refuse to mend a journal that does not hold a study; one line alone, half written, is the beginning of any."""
    if _half_line(path) == path.stat().st_size:
        return
    names = {found.study_name for found in read_journal(path).get_all_studies()}
    if study not in names:
        raise UserError(
            f"{path}: ends in half a line and holds no study {study!r}, so it is left as it is; run the study that it "
            f"holds ({', '.join(sorted(names)) or 'none'}) once, or {ELSE}"
        )


def _cut_half_line(path: Path) -> None:
    """Take away a last line that is half there."""
    if (half := _half_line(path)) > 0:
        os.truncate(path, path.stat().st_size - half)


def _half_line(path: Path) -> int:
    """Return how many bytes of a last line are there without its end."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
        return len(file.read().rpartition(b"\n")[2])
