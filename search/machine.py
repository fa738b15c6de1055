"""Checks of the machine: interpreter, packages, cores, GPU, memory, disk and file locks, each with what to change."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

GIB = 2**30
SMALL_DISK, SMALL_MEMORY, SMALL_SHARED = 2 * GIB, 2 * GIB, GIB // 4
"""Free bytes below which a study may not get to its end, or be slow."""
State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What was checked, what was found, and (unless it is ok) what to change."""

    name: str
    state: State
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def python() -> Finding:
    """Check the interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", found)


def packages() -> Finding:
    """Check every package that this one requires."""
    wrong = []
    for text in requires("mmsa-search") or []:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing (needed: {needed.specifier})")
            continue
        if not needed.specifier.contains(there, prereleases=True):
            wrong.append(f"{needed.name} {there} (needed: {needed.specifier})")
    main = ", ".join(f"{name} {_version(name)}" for name in ("torch", "optuna", "ray", "transformers"))
    if wrong:
        return Finding("packages", "error", "; ".join(wrong), "install them again: make clean install")
    return Finding("packages", "ok", main)


def cores() -> Finding:
    """Check how many cores there are to use, and how busy they are."""
    count, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    found = f"{count} to use, load {load:.1f}"
    if load > 1.5 * count:
        return Finding(
            "cores",
            "warning",
            found,
            "other work is on them: a study will take longer, and bench and population: auto mislead",
        )
    return Finding("cores", "ok", found)


def gpu() -> Finding:
    """Check that torch can use the GPU that the machine has."""
    import torch

    if torch.cuda.is_available():
        free = [torch.cuda.mem_get_info(k) for k in range(torch.cuda.device_count())]
        names = [
            f"{torch.cuda.get_device_name(k)} ({f / GIB:.0f} of {t / GIB:.0f} GiB free)"
            for k, (f, t) in enumerate(free)
        ]
        if min(f / t for f, t in free) < 0.5:
            return Finding(
                "GPU", "warning", ", ".join(names), "another process holds most of its memory: nvidia-smi shows which"
            )
        return Finding("GPU", "ok", ", ".join(names))
    if shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists():
        built = torch.version.cuda or "none: a CPU build"
        return Finding(
            "GPU",
            "error",
            f"there is one, and torch {torch.__version__} cannot use it (CUDA of the build: {built})",
            "install a CUDA build of torch that the driver supports: https://pytorch.org/get-started",
        )
    return Finding("GPU", "ok", "none; populations train on the cores")


def memory() -> Finding:
    """Check the memory that is free."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _cgroup_limit()
    if limit is not None and limit < total:
        free, total = min(free, limit), limit
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < SMALL_MEMORY:
        return Finding(
            "memory",
            "warning",
            found,
            "end other programs, or take resources.workers=1 and a small population, e.g. population=4",
        )
    return Finding("memory", "ok", found)


def shared_memory() -> Finding:
    """Check the shared memory that Ray keeps the data in."""
    place = Path("/dev/shm")
    if not place.exists():
        return Finding("shared memory", "ok", "no /dev/shm here: Ray takes the temporary folder")
    free = shutil.disk_usage(place).free
    found = f"/dev/shm has {free / GIB:.1f} GiB free"
    if free < SMALL_SHARED:
        return Finding(
            "shared memory", "warning", found, "Ray falls back to the disk, slowly: in a container give --shm-size=2g"
        )
    return Finding("shared memory", "ok", found)


def disk(folder: Path) -> Finding:
    """Check that the run folder's place can be written and has room."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            "disk",
            "error",
            f"{folder}: cannot be written: {error.strerror}",
            "change its permissions, free space, or give another --out",
        )
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < SMALL_DISK:
        return Finding(
            "disk",
            "warning",
            found,
            "free space or give another --out: a study with fine-tuned encoders keeps the weights of every "
            "confirmed member",
        )
    return Finding("disk", "ok", found)


def locking(folder: Path) -> Finding:
    """Check that locks and links work there: the run folder's lock and Optuna's journal need them."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
            place = Path(name)
            with (place / "a").open("w") as first, (place / "a").open("w") as second:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return Finding(
                        "file locks",
                        "error",
                        f"{folder}: a second lock was granted",
                        "take a local disk for the run folder (--out), or storage: postgresql://...",
                    )
                except BlockingIOError:
                    pass
            (place / "link").symlink_to(place / "a")
            (place / "a").replace(place / "b")
    except OSError as error:
        return Finding(
            "file locks",
            "error",
            f"{folder}: {error.strerror}",
            "the file system has no locks or links: take a local disk for the run folder (--out), or storage: "
            "postgresql://...",
        )
    return Finding("file locks", "ok", "a second lock is refused; links and renames work")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _cgroup_limit() -> int | None:
    """Return the memory that a container may use, or None."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.exists():
            text = path.read_text(encoding="utf-8").strip()
            return int(text) if text.isdigit() else None
    return None
