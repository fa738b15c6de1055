"""The identity of a run folder: a random name that a copy does not keep, and the names that it had before."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from mmsa_core.atomic import write_text
from mmsa_core.errors import UserError
from search.folder_files import IDENTITY
from search.records import Needs, read_json

RECORD: Needs = {"name": str, "device": int, "inode": int, "copied_from": list}
FIX = "move that file away, and the folder gets a new name"


@dataclass(frozen=True)
class Identity:
    """A run folder's name, the directory that bears it, and the names that the folder had before it was copied or
    moved, oldest first."""

    name: str
    device: int
    inode: int
    copied_from: tuple[str, ...] = ()


def identify(folder: Path) -> Identity:
    """Return the identity of a run folder; a new one, or one that is a copy, gets a name of its own, which is kept.

    Raises:
        UserError: the file holds something else.
    """
    path, here = folder / IDENTITY, folder.stat()
    known = _read(path) if os.path.lexists(path) else None
    if known is not None and (known.device, known.inode) == (here.st_dev, here.st_ino):
        return known
    before = () if known is None else (*known.copied_from, known.name)
    made = Identity(secrets.token_hex(8), here.st_dev, here.st_ino, before)
    write_text(path, json.dumps(asdict(made)) + "\n")
    return made


def _read(path: Path) -> Identity:
    record = read_json(path, RECORD, FIX)
    names = record["copied_from"]
    if record.keys() != RECORD.keys() or not record["name"] or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path}: holds something else than the identity of a run folder; {FIX}")
    return Identity(record["name"], record["device"], record["inode"], tuple(names))
