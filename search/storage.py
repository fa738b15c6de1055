"""Opening Optuna storages: a journal or SQLite file in the run folder, or any database or proxy by URL."""

from __future__ import annotations

import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import sqlalchemy

from mmsa_core.errors import UserError
from search.journal import LOG_NAME, check_journal, open_journal, read_journal
from search.sqlite_file import COMPANIONS, check_sqlite, open_sqlite, path_of, read_sqlite
from search.time_limits import connecting, engine_arguments

DATABASE_NAME = "study.db"
OWN = {"journal": LOG_NAME, "sqlite": DATABASE_NAME}
"""Storages in the run folder, by name."""
UNOPENED = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    sqlite3.Error,
    ImportError,
    OSError,
    ValueError,
    RuntimeError,  # tables of another version of Optuna
)
JOURNAL, GRPC = "journal://", "grpc://"


def open_storage(spec: str, folder: Path, study: str | None = None) -> optuna.storages.BaseStorage:
    """Open ``journal`` or ``sqlite`` in ``folder``, a shared journal (``journal:///path``), ``grpc://host:port``, or an
    SQLAlchemy URL, to write to it.

    A last line that a crash left half written is taken away from a journal that holds ``study``.

    Raises:
        UserError: the storage cannot be opened, or is a file of something else, which is left as it is.
    """
    with _said_of(spec):
        path = _file(spec, folder)
        if path is not None and spec in OWN:
            _check_inside(path, folder)
        if path is not None and _is_journal(spec):
            return open_journal(path, study)
        if path is not None:
            return open_sqlite(path)
        return _proxy(spec) if spec.startswith(GRPC) else _database(spec)


def read_storage(spec: str, folder: Path) -> optuna.storages.BaseStorage:
    """Open a storage to look at it: nothing is made or changed, and no right to write is needed.

    Raises:
        UserError: it is not there, or cannot be opened.
    """
    with _said_of(spec):
        path = _file(spec, folder)
        if path is not None:
            return read_journal(path) if _is_journal(spec) else read_sqlite(path)
        return _proxy(spec) if spec.startswith(GRPC) else _database_to_read(spec)


def has_begun(spec: str, folder: Path) -> bool:
    """Return whether a storage in the run folder has its file; of others only opening them can tell."""
    return spec not in OWN or (folder / OWN[spec]).exists()


def check_file(spec: str) -> Path | None:
    """Return the file that a URL names, or None; it is looked at, and may be there or not.

    Raises:
        UserError: it is there and is something else than a storage.
    """
    with _said_of(spec):
        path = None if spec in OWN else _file(spec, Path())
        if path is not None:
            (check_journal if _is_journal(spec) else check_sqlite)(path)
        return path


def measured(spec: str) -> str:
    """Return a storage that is as fast as this one and holds no study of anybody's, where it is a file."""
    if _is_journal(spec):
        return "journal"
    return "sqlite" if spec.startswith("sqlite") else spec


@contextmanager
def _said_of(spec: str) -> Iterator[None]:
    """Say of what goes wrong which storage it is about."""
    _check_user(spec)
    try:
        yield
    except UNOPENED as error:
        reason = " ".join(str(error.__cause__ or error).split())
        reason = without_password(reason)[:300]  # masked first: a cut URL is not recognised
        raise UserError(f"storage: cannot open {without_password(spec)}: {reason}") from None


def _is_journal(spec: str) -> bool:
    return spec == "journal" or spec.startswith(JOURNAL)


def _file(spec: str, folder: Path) -> Path | None:
    """Return the absolute path of a storage that is a file: a process may have another working folder later."""
    if spec in OWN:
        return folder.absolute() / OWN[spec]
    if spec.startswith(JOURNAL):
        return Path(spec.removeprefix(JOURNAL)).absolute()
    return path_of(spec) if spec.startswith("sqlite") else None


def _check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of the run folder that is another file too: what is written here would be written there."""
    for found in (path, *(path.with_name(path.name + suffix) for suffix in COMPANIONS)):
        if found.is_symlink() and not found.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{found}: leads out of the run folder; put the file itself here")
        if found.exists() and found.stat().st_nlink > 1:
            raise UserError(f"{found}: has a second name (a hard link); put a copy here")


def _database(url: str) -> optuna.storages.RDBStorage:
    """Open a database. Of drivers that come first at once all make its tables, and all but one find them half made."""
    arguments = {"pool_pre_ping": True, **engine_arguments(url)}
    for _ in range(10):
        with suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            return optuna.storages.RDBStorage(url, engine_kwargs={**arguments})
        time.sleep(0.3)
    return optuna.storages.RDBStorage(url, engine_kwargs=arguments)


def _database_to_read(url: str) -> optuna.storages.RDBStorage:
    """Open a database without making its tables, in transactions that cannot write where the database knows such."""
    arguments = {"pool_pre_ping": True, **engine_arguments(url)}
    if sqlalchemy.make_url(url).get_backend_name() == "postgresql":
        arguments["execution_options"] = {"postgresql_readonly": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=arguments, skip_table_creation=True)


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


def _proxy(spec: str) -> optuna.storages.GrpcStorageProxy:
    """Open Optuna's gRPC proxy, and wait for one that is being started again: grpc itself would refuse meanwhile."""
    from search.grpc_proxy import LimitedProxy  # grpc is an extra

    host, _, port = spec.removeprefix(GRPC).rpartition(":")
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        storage = LimitedProxy(host=host, port=int(port))
    storage.wait_server_ready(timeout=connecting())
    return storage
