"""The claim on a run folder's study: the one process that tells its trials holds a record lock on ``.dispatcher``.

That process may be the driver or one that the driver started, and may outlive a driver that is killed. The kernel knows
which process holds the lock on this very file: the record in a copied folder names the process of the original, but
nobody holds the copy's lock, so nothing is ended for its sake.

The kernel gives such a lock up when its process closes the file anywhere, so a process opens it once at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from mmsa_core.errors import UserError
from search.folder_files import open_own
from search.processes import end, is_here, this_process
from search.records import Needs, check_needs

RECORD: Needs = {"folder": str, "host": str, "namespace": str, "boot": str, "pid": int, "start": (int, float)}
FLOCK = struct.Struct("hhqqi0q")
"""Linux' ``struct flock``: kind, from where, start, length, process."""
PATIENCE, PAUSE = 5.0, 0.05
"""Seconds to wait for a process that is about to give the claim up, or to write its record."""


class Claim:
    """A study that this process has claimed; it is given up with the object at the latest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def give_up(self) -> None:
        """Let another process claim the study."""
        os.ftruncate(self._descriptor, 0)
        self._close()


def take_claim(path: Path, folder: str) -> Claim:
    """Claim the study of the folder of this name for this process.

    Raises:
        UserError: another process holds it, or the file is not ours.
    """
    with ExitStack() as failed:
        descriptor = open_own(str(path), os.O_RDWR | os.O_CREAT)
        failed.callback(os.close, descriptor)
        with open(descriptor, "r+b", buffering=0, closefd=False) as file:
            _record(file, path)  # whatever else it holds is not overwritten
            until = time.monotonic() + PATIENCE
            while not _try(file):
                if time.monotonic() > until:
                    raise _held(path, _holder(file))
                time.sleep(PAUSE)
            file.truncate(0)
            file.seek(0)
            file.write(json.dumps({"folder": folder, **this_process()}).encode("utf-8"))
        failed.pop_all()
        return Claim(descriptor)


def end_claimant(path: Path, folder: str) -> None:
    """End the process that still holds the study for a driver that is gone, and wait until it is.

    The kernel must name it as the one that holds the lock on this file, and so must the record that it wrote.

    Raises:
        UserError: somebody holds the lock whose record is another's, or the file is not ours.
    """
    if not os.path.lexists(path):
        return
    with open(path, "r+b", buffering=0, opener=open_own) as file:
        _record(file, path)  # a file that is not ours is found before work begins
        until = time.monotonic() + PATIENCE
        while (pid := _holder(file)) is not None:
            record = _record(file, path)
            if record is not None and (record["pid"], record["folder"]) == (pid, folder) and is_here(record):
                with suppress(psutil.AccessDenied, psutil.TimeoutExpired):
                    end(record)
            if time.monotonic() > until:
                raise _held(path, pid)
            time.sleep(PAUSE)


def _held(path: Path, pid: int | None) -> UserError:
    return UserError(f"{path}: process {pid} holds the study of this folder; end it, and run the same command again")


def _try(file: IO[bytes]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _holder(file: IO[bytes]) -> int | None:
    """Return the other process that holds the lock on this very file, or None."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _record(file: IO[bytes], path: Path) -> Mapping[str, Any] | None:
    """Return the claimant's record, or None where it has written none or given up."""
    file.seek(0)
    text, fix = file.read(4096), "move that file away"
    if not text:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path}: holds something else than the record of a process; {fix}")
    check_needs(record, RECORD, str(path), fix)
    return record
