"""Puts in the place of a run folder's files what somebody else, an accident or an older version may have left there."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXTRA = (
    ".lock", ".desk", ".folder", "study.log.lock", "study.log.lock.rename", "populations",
    "populations/p0000.safetensors", "confirm/confirm.json.tmp", "report/tables/new", "trials/0009",
    "trials/0000/error.txt", "best/extra", ".",
)  # fmt: skip
"""Places that a run folder can have and a finished one need not; ``.`` is the folder itself."""
LINE = 2**21


@dataclass(frozen=True)
class Outside:
    """What lies outside the run folder and must stay as it is; ``process`` is the record of a living process."""

    folder: Path
    process: Mapping[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / "file.json"

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    @property
    def held(self) -> Path:
        """A file that the foreign process has locked, with its number in it."""
        return self.folder / "held"


Change = Callable[[Path, random.Random, Outside], None]


def change(kind: str, path: Path, rng: random.Random, outside: Outside) -> None:
    """Put something of a kind in a place; what was there is taken away, unless the kind is made from it."""
    KINDS[kind](path, rng, outside)


def clear(path: Path) -> None:
    """Take away what is in a place, and not what it links to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(target: Callable[[Path, Outside], str]) -> Change:
    def put(path: Path, rng: random.Random, outside: Outside) -> None:
        clear(path)
        path.symlink_to(target(path, outside))

    return put


def _content(content: Callable[[random.Random, Outside], bytes]) -> Change:
    def put(path: Path, rng: random.Random, outside: Outside) -> None:
        clear(path)
        path.write_bytes(content(rng, outside))

    return put


def _hard_link(path: Path, rng: random.Random, outside: Outside) -> None:
    clear(path)
    os.link(rng.choice([outside.file, outside.journal, outside.held]), path)


def _older(path: Path, rng: random.Random, outside: Outside) -> None:
    """Leave out a key of a record, a line of a text, or a file of a folder, as an older version may have."""
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir())
        if names:
            clear(path / rng.choice(names))
    elif path.suffix == ".json" and path.exists():
        record = json.loads(path.read_text("utf-8"))
        del record[rng.choice(sorted(record))]
        clear(path)
        path.write_text(json.dumps(record), encoding="utf-8")
    elif path.exists():
        lines = path.read_bytes().split(b"\n")
        del lines[rng.randrange(len(lines))]
        clear(path)
        path.write_bytes(b"\n".join(lines))


def _directory(path: Path, rng: random.Random, outside: Outside) -> None:
    clear(path)
    path.mkdir()
    if rng.random() < 0.5:
        (path / "kept").write_text("kept", encoding="utf-8")


def _fifo(path: Path, rng: random.Random, outside: Outside) -> None:
    clear(path)
    os.mkfifo(path)


def _socket(path: Path, rng: random.Random, outside: Outside) -> None:
    clear(path)
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _unreadable(path: Path, rng: random.Random, outside: Outside) -> None:
    if path.exists():
        path.chmod(0)


def _missing(path: Path, rng: random.Random, outside: Outside) -> None:
    clear(path)


KINDS: dict[str, Change] = {
    "link to a file": _link(lambda path, outside: str(outside.file)),
    "relative link to a file": _link(lambda path, outside: os.path.relpath(outside.file, path.parent)),
    "link to another journal": _link(lambda path, outside: str(outside.journal)),
    "link to a held lock": _link(lambda path, outside: str(outside.held)),
    "link to a folder": _link(lambda path, outside: str(outside.tree)),
    "dangling link": _link(lambda path, outside: str(outside.folder / "absent")),
    "dangling link into a folder": _link(lambda path, outside: str(outside.tree / "absent" / "file")),
    "looping link": _link(lambda path, outside: path.name),
    "hard link": _hard_link,
    "text": _content(lambda rng, outside: rng.choice([b"hello\n", b"{}", b"[]", b"null", b"a: [1", b"1234"])),
    "bytes": _content(lambda rng, outside: rng.randbytes(rng.randint(1, 4000))),
    "empty": _content(lambda rng, outside: b""),
    "long line": _content(lambda rng, outside: b"x" * LINE),
    "another study's journal": _content(lambda rng, outside: outside.journal.read_bytes()),
    "record of a process": _content(lambda rng, outside: json.dumps(dict(outside.process)).encode()),
    "number of a process": _content(lambda rng, outside: str(outside.process["pid"]).encode()),
    "older": _older,
    "folder": _directory,
    "fifo": _fifo,
    "socket": _socket,
    "unreadable": _unreadable,
    "missing": _missing,
}  # fmt: skip
