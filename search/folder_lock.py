"""The lock of a run folder: one process writes there at a time, and its number stands in ``.lock``."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from mmsa_core.errors import UserError
from search.folder_files import open_own

TRIES, PAUSE = 5, 0.05
"""A process that only asks who is at work has the lock for an instant."""


def take_lock(path: Path) -> IO[bytes] | None:
    """Take a lock and write this process' number into it; return None where another process has it.

    Raises:
        UserError: the file is not ours.
    """
    with ExitStack() as opened:
        file = opened.enter_context(open(path, "a+b", buffering=0, opener=open_own))
        _number(file)  # whatever else it holds is not overwritten
        if not _try(file):
            return None
        file.truncate(0)
        file.write(str(os.getpid()).encode("ascii"))
        opened.pop_all()
        return file


def lock_owner(path: Path) -> int | None:
    """Return the process that has a lock, or None; nothing is written, and no right to write is needed.

    Raises:
        UserError: the file is not ours, or the process has not written its number yet.
    """
    with open(path, "rb", buffering=0, opener=open_own) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            for _ in range(20):  # between locking and writing its number the file is empty
                if (number := _number(file)) is not None:
                    return number
                time.sleep(PAUSE)
            raise UserError(f"{path}: a process is starting here; try again in a moment") from None
    return None


def _try(file: IO[bytes]) -> bool:
    for attempt in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE if attempt < TRIES - 1 else 0)
        else:
            return True
    return False


def _number(file: IO[bytes]) -> int | None:
    """Return the number of a process that a lock holds, or None where it is empty."""
    file.seek(0)
    text = file.read(64).strip()
    if text and not text.isdigit():
        raise UserError(f"{file.name}: holds something else than the number of a process; move that file away")
    return int(text) if text else None
