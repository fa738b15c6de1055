"""Opening Optuna storages: a journal or SQLite file in the run folder, or any database or proxy by URL."""

from __future__ import annotations

import os
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from mmsa_core.errors import UserError

LOG_NAME = "study.log"
PROXY_WAIT = 20.0
"""Seconds that a gRPC proxy may take to answer at all."""
LONGEST_LINE = 2**24
"""Bytes: more than any entry of a journal takes."""


def open_storage(spec: str, folder: Path) -> optuna.storages.BaseStorage:
    """Open ``journal`` or ``sqlite`` in ``folder``, a shared journal (``journal:///path``), ``grpc://host:port``, or an
    SQLAlchemy URL.

    Raises:
        UserError: the storage cannot be opened.
    """
    _check_user(spec)
    try:
        if spec == "journal":
            return _journal(folder / LOG_NAME)
        if spec.startswith("journal://"):
            return _journal(Path(spec.removeprefix("journal://")))
        if spec == "sqlite":
            return _sqlite(f"sqlite:///{folder / 'study.db'}")
        if spec.startswith("grpc://"):
            host, _, port = spec.removeprefix("grpc://").rpartition(":")
            return _proxy(host, int(port))
        if spec.startswith("sqlite:"):
            return _sqlite(spec)
        return _database(spec)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
        reason = without_password(" ".join(str(error).split()))[:300]  # masked first: a cut URL is not recognised
        raise UserError(f"storage: cannot open {without_password(spec)}: {reason}") from None


def _database(url: str) -> optuna.storages.RDBStorage:
    """Open a database. Of drivers that come first at once all make its tables, and all but one find them half made."""
    for _ in range(10):
        with suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        time.sleep(0.3)
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def without_password(text: str) -> str:
    """Return ``text`` with the password of every URL in it replaced by ``***``, also one that holds an ``@``, ``/`` or
    space, or stands behind the ``?``."""
    text = re.sub(r"(\w://[^:/@\s]*):(?:(?!\w://).)*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&]\w*(?:password|passwd|pwd)=)[^&\s'\"]+", r"\1***", text)


def _check_user(spec: str) -> None:
    """Refuse a user or password that the parts of a URL cannot be told apart from: its end would be taken for the host
    and shown in the database's own error."""
    user = re.fullmatch(r"(?!sqlite|journal)[\w+]+://(.*)@[^@]*", spec, re.DOTALL)
    if user is not None and re.search(r"[@/?#\s]", user[1]):
        raise UserError(
            f"storage: {without_password(spec)}: user and password must be without @, /, ?, # and spaces; write "
            "these in percents, e.g. %40 for @, or leave the password to ~/.pgpass"
        )


def _journal(path: Path) -> optuna.storages.JournalStorage:
    """Open a journal. A line that a crash left half written is taken away first: the next one would be appended to it,
    and then neither could be read."""
    _cut_half_line(path)
    try:
        return optuna.storages.JournalStorage(_WholeLines(str(path)))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, optuna.exceptions.OptunaError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(
            f"{path}: the journal is damaged ({reason}); restore it from a copy, or start anew with another --out"
        ) from None


class _WholeLines(JournalFileBackend):
    """A journal file that keeps nothing of a write that failed, as on a full disk."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError:
            _cut_half_line(self._path)
            raise


def _cut_half_line(path: Path) -> None:
    """Take away a last line that is half there."""
    if path.exists() and _half_line(path) > 0:
        lock = JournalFileSymlinkLock(str(path))  # writers hold it: what is half written now, nobody is writing
        lock.acquire()
        try:
            os.truncate(path, path.stat().st_size - _half_line(path))
        finally:
            lock.release()


def _half_line(path: Path) -> int:
    """Return how many bytes of a last line are there without its end."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
        return len(file.read().rpartition(b"\n")[2])


def _proxy(host: str, port: int) -> optuna.storages.GrpcStorageProxy:
    """Open Optuna's gRPC proxy, and wait for one that is being started again: grpc itself would refuse meanwhile."""
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        storage = optuna.storages.GrpcStorageProxy(host=host, port=port)
    storage.wait_server_ready(timeout=PROXY_WAIT)
    return storage


def _sqlite(url: str) -> optuna.storages.RDBStorage:
    """Open SQLite so that several processes may share it: write-ahead log, and the write lock taken before reading.

    Without BEGIN IMMEDIATE Optuna's state changes are not compare-and-set on SQLite, and a trial can run twice.
    """
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=60000"):
            connection.execute(f"PRAGMA {pragma}")

    @sqlalchemy.event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()
    return storage
