"""Refuses what a run folder must not consist of: links that leave it, special files, and other names of its files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmsa_core.errors import UserError

LOCK, IDENTITY, CLAIM = ".lock", ".folder", ".dispatcher"
FILES = (LOCK, IDENTITY, CLAIM, "study.yaml", "resolved.yaml", "lock.json", "study.log", "study.db")
FOLDERS = ("trials", "populations", "confirm", "best", "report")
IN_PLACE = (LOCK, IDENTITY, CLAIM, "study.log", "study.db", "study.db-wal", "study.db-shm")
"""Files that are not replaced but written where they are, and with them whatever else has their contents."""
JOURNAL_LOCK = "study.log.lock"
"""Optuna locks its journal by links whose names begin so; they name the journal's path, and nobody follows them."""
FIX = "put what belongs here in its place, or give another run folder"


def check_files(folder: Path) -> None:
    """Refuse links that leave a run folder, and entries that are neither file nor folder or one for the other.

    Links are not followed, and an entry's kind comes with its name: a folder of many trials is checked in no time.

    Raises:
        UserError: the first such entry, with a link's target.
    """
    root = os.path.realpath(folder)
    for entry in _entries(folder):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if os.path.commonpath((root, target)) != root:
                raise UserError(f"{entry.path}: is a link to {target}, which is outside of the run folder; {FIX}")
        elif not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
            raise UserError(f"{entry.path}: is neither a file nor a folder; {FIX}")
    for names, is_right, kind in ((FILES, stat.S_ISREG, "file"), (FOLDERS, stat.S_ISDIR, "folder")):
        for name in names:
            with suppress(FileNotFoundError):
                if not is_right((folder / name).stat().st_mode):
                    raise UserError(f"{folder / name}: is no {kind}, and must be one; {FIX}")


def check_in_place(folder: Path) -> None:
    """Refuse links and hard links in the place of files that are written where they are: another file would change.

    Raises:
        UserError: the first of them.
    """
    for name in IN_PLACE:
        with suppress(FileNotFoundError):
            found = (folder / name).lstat()
            if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
                raise UserError(
                    f"{folder / name}: is a link or a hard link, and what is written here would change the other file; "
                    "put a copy in its place, as cp -r makes one"
                )


def open_own(path: str, flags: int) -> int:
    """Open a run folder's own file, as the ``opener`` of :func:`open`: through no link, and without waiting for a pipe.

    Raises:
        UserError: it is a link, or no file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise UserError(f"{path}: is a link or no file, and must be a file; {FIX}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: is no file, and must be one; {FIX}")
    return descriptor


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield everything in a folder and below; what goes meanwhile, because somebody is at work there, is left out."""
    below = [os.fspath(folder)]
    while below:
        with suppress(FileNotFoundError), os.scandir(below.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(JOURNAL_LOCK) and Path(entry.path).parent == folder:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                yield entry
