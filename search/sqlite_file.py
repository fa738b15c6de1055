"""Studies in SQLite files: opened so that several processes may share them, and read without a trace."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import optuna
import sqlalchemy
from sqlalchemy.pool import StaticPool

from mmsa_core.errors import UserError
from search import time_limits

T = TypeVar("T")
BEGINNING = b"SQLite format 3\0"
TABLES = {"studies", "trials", "version_info"}
OWN = ("studies", "study_", "trials", "trial_", "version_info", "alembic_", "ix_", "sqlite_")
"""Tables that Optuna makes first and last, and how the names of all that it makes begin."""
COMPANIONS = ("-wal", "-shm", "-journal")
PAUSE = 0.02
"""Seconds between two tries for a lock that another process has."""
ELSE = "restore it from a copy, or give another path or --out"


def path_of(url: str) -> Path | None:
    """Return the absolute path of a URL's file; None for a database in memory."""
    name = sqlalchemy.make_url(url).database
    return None if name is None or name in ("", ":memory:") or name.startswith("file:") else Path(name).absolute()


def open_sqlite(path: Path) -> optuna.storages.RDBStorage:
    """Open SQLite so that several processes may share it: write-ahead log, and the write lock taken before reading.

    Without BEGIN IMMEDIATE Optuna's state changes are not compare-and-set on SQLite, and a trial can run twice.

    Raises:
        UserError: the file is something else, and is left as it is.
    """
    check_sqlite(path)
    _wait_until_free(path)
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    storage = _with_tables(url)

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        for pragma in ("busy_timeout=0", "journal_mode=WAL", "synchronous=NORMAL"):
            _patiently(lambda pragma=pragma: connection.execute(f"PRAGMA {pragma}"))  # type: ignore[misc]

    @sqlalchemy.event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        _patiently(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    storage.engine.dispose()
    return storage


def _with_tables(url: str) -> optuna.storages.RDBStorage:
    """Open a file. Of drivers that come first at once all make its tables, and all but one find them half made."""
    arguments = {"connect_args": {"timeout": time_limits.LIMIT}}
    for _ in range(10):
        with suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.OperationalError):
            return optuna.storages.RDBStorage(url, engine_kwargs={**arguments})
        time.sleep(0.3)
    return optuna.storages.RDBStorage(url, engine_kwargs=arguments)


def read_sqlite(path: Path) -> optuna.storages.RDBStorage:
    """Open what a SQLite file holds now, as a copy in memory.

    Raises:
        UserError: there is no such file, or none of Optuna's.
    """
    if not path.is_file():
        raise UserError(f"{path}: no study is here; nothing has run yet, or it was moved")
    check_sqlite(path)
    arguments = {"creator": lambda: _snapshot(path), "poolclass": StaticPool}
    return optuna.storages.RDBStorage("sqlite://", engine_kwargs=arguments)


def check_sqlite(path: Path) -> None:
    """Refuse a file that Optuna did not make; an empty one, and none, may become one.

    Raises:
        UserError: with what it is.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        if file.read(len(BEGINNING)) != BEGINNING:
            raise UserError(f"{path}: is no SQLite database and is left as it is; {ELSE}")
    tables = _asked(path, lambda file: [str(name) for (name,) in file.execute("SELECT name FROM sqlite_master")])
    foreign = [name for name in tables if not name.startswith(OWN)]
    if foreign and not TABLES.issubset(tables):
        raise UserError(f"{path}: is a database of something else (it has {foreign[0]!r}) and is left as it is; {ELSE}")


def _snapshot(path: Path) -> sqlite3.Connection:
    """Return a database in memory with what a file holds."""
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    _asked(path, lambda file: file.backup(copy))
    return copy


def _asked(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """Return what a file answers; nothing beside it is made or changed."""
    try:
        return _answer(f"file:{quote(str(path))}?{_options(path)}", question)
    except sqlite3.OperationalError:  # what a crash left needs mending, which is done to a copy
        with tempfile.TemporaryDirectory() as folder:
            for name in (path.name, *(path.name + suffix for suffix in COMPANIONS)):
                if path.with_name(name).exists():
                    shutil.copyfile(path.with_name(name), Path(folder) / name)
            return _answer(f"file:{quote(str(Path(folder) / path.name))}", question)


def _options(path: Path) -> str:
    """Return how SQLite must open a file so that it makes no other beside it."""
    with path.open("rb") as file:
        has_log = file.read(20)[18:] == b"\2\2"
    log = path.with_name(path.name + "-wal")
    if not has_log:
        return "mode=ro"
    return "mode=ro&readonly_shm=1" if log.exists() and log.stat().st_size > 0 else "mode=ro&immutable=1"


def _answer(uri: str, question: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(uri, uri=True, timeout=time_limits.answering())) as file:
        return question(file)


def _wait_until_free(path: Path) -> None:
    """Wait until no other process has the write lock: Optuna, which makes its tables next, would wait deaf to
    signals."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as file:
        _patiently(lambda: file.execute("BEGIN IMMEDIATE"))
        file.execute("ROLLBACK")


def _patiently(attempt: Callable[[], object]) -> None:
    """Try again while another process has the lock, for as long as the limit. SQLite's own waiting is deaf to
    signals."""
    until = time.monotonic() + time_limits.LIMIT
    while True:
        try:
            attempt()
            return
        except (sqlite3.OperationalError, sqlalchemy.exc.OperationalError) as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
        time.sleep(PAUSE)
