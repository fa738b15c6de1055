"""Which process is which: a process identifier is used again, one with its start time is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Return what identifies this process until the machine starts anew."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "start": psutil.Process().create_time()}


def same_process(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two records of :func:`this_process` are of one process."""
    return all(one[key] == other[key] for key in ("host", "pid", "start"))


def is_running(process: Mapping[str, Any]) -> bool:
    """Tell whether a process of this host, recorded by :func:`this_process`, still runs."""
    return _find(process) is not None


def end(process: Mapping[str, Any]) -> None:
    """End a process of this host at once and wait until it is gone."""
    found = _find(process)
    if found is not None:
        found.kill()
        found.wait(timeout=10)


def _find(process: Mapping[str, Any]) -> psutil.Process | None:
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["start"]) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return found if same else None
