"""Which process is which: a process identifier is used again, one with its boot and start is not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
"""Containers of one host count their processes apart."""
KEYS = ("host", "namespace", "boot", "pid", "start")


def this_process() -> dict[str, Any]:
    """Return what identifies this process for ever, whatever the clock is set to: ``start`` is in seconds since the
    boot."""
    own = psutil.Process()
    return dict(zip(KEYS, (os.uname().nodename, _namespace(), _boot(), own.pid, _start(own)), strict=True))


def same_process(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two records of :func:`this_process` are of one process."""
    return all(one.get(key) == other.get(key) for key in KEYS)


def is_here(process: Mapping[str, Any]) -> bool:
    """Tell whether a process is, or was, of this host and (in containers) in sight: of others only a beat can tell."""
    return process["host"] == os.uname().nodename and process.get("namespace") == _namespace()


def is_running(process: Mapping[str, Any]) -> bool:
    """Tell whether a process that :func:`is_here` still runs."""
    return _find(process) is not None


def end(process: Mapping[str, Any]) -> None:
    """End a process that :func:`is_here` at once and wait until it is gone."""
    found = _find(process)
    if found is not None:
        found.kill()
        found.wait(timeout=10)


def has_open(pid: int, path: Path) -> bool:
    """Tell whether a process of this machine, and of a user whose processes may be looked into, has a file open."""
    try:
        own = path.stat()
        return any(os.path.samestat(own, found) for found in _open_files(pid))
    except OSError:
        return False


def _open_files(pid: int) -> Iterator[os.stat_result]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield descriptor.stat()


def _find(process: Mapping[str, Any]) -> psutil.Process | None:
    try:
        found = psutil.Process(process["pid"])
        same = process.get("boot") == _boot() and abs(_start(found) - process["start"]) < 1.0
        return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _namespace() -> str:
    return str(NAMESPACE.readlink()) if NAMESPACE.is_symlink() else ""


def _boot() -> str:
    return BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else ""


def _start(process: psutil.Process) -> float:
    """Return the seconds from the boot to a process's start: of each alone the clock's last setting would change it."""
    return process.create_time() - psutil.boot_time()
