"""Files and folders that are whole or absent: written beside their place, synced, and moved there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""What renameat2 answers where kernel, file system or sandbox have no exchange."""
DRAWN = "[a-z0-9_]{8}"
"""What tempfile ends a temporary name with."""


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder; move it to ``path`` on success, remove it on failure.

    Without ``sync`` the file is whole after a killed process, but not after a power cut: for what can be made again.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file atomically."""
    with replacing(path, sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` for files of these ``names``; exchange the two on success.

    A reader finds the old folder or the new one. Where the file system cannot exchange two folders, the old one is
    moved away first, and for a moment there is none. Files of other names are not lost: they move to the new folder.
    What a killed process left beside goes too. A link to a folder stays, and what it leads to is replaced.
    """
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        with _locked(temporary):
            yield temporary
            temporary.chmod(target.stat().st_mode & 0o7777 if target.is_dir() else 0o755)
            for path in (*temporary.iterdir(), temporary):
                _sync(path)
            replaced = _put(temporary, target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in replaced:
        _retire(old, target, names)
    for stray in _strays(target):
        with _locked(stray) as idle:
            if idle:
                _retire(stray, target, names)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where kernel or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _put(new: Path, target: Path) -> list[Path]:
    """Move a whole folder to its place; return where the one that was there is now."""
    replaced: list[Path] = []
    while not _moved(new, target):
        if exchange(new, target):
            return [*replaced, new]
        replaced.append(_beside(target))
        with suppress(FileNotFoundError):  # another process has just moved it away
            target.rename(replaced[-1])
    return replaced


def _moved(new: Path, target: Path) -> bool:
    """Move a folder to where there is none, or an empty one; return False where one is in the way."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _beside(target: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))


def _strays(target: Path) -> list[Path]:
    """Return the temporary folders of other exchanges, with or without a process at work."""
    named = re.compile(rf"\.{re.escape(target.name)}-{DRAWN}")
    found = [p for p in target.parent.iterdir() if named.fullmatch(p.name)]
    return [p for p in found if p.is_dir() and not p.is_symlink()]


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder against removal by others, and give whether that went; a killed process holds no lock."""
    with ExitStack() as stack:
        idle = False
        with suppress(OSError):  # another process works on it, it is gone, or the file system has no such locks
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            idle = True
        yield idle


def _retire(old: Path, target: Path, names: Collection[str]) -> None:
    """Remove a folder with its files of ``names``; what else is in it moves to ``target``."""
    own = re.compile(rf"\.?({'|'.join(map(re.escape, names))})(\.{DRAWN})?")
    with suppress(OSError):  # what cannot go stays where it is, and the folder with it
        for path in list(old.iterdir()):
            if own.fullmatch(path.name) and not path.is_dir():
                path.unlink()
            elif not os.path.lexists(target / path.name):
                path.rename(target / path.name)
        old.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems sync files only
            raise
    finally:
        os.close(handle)
