"""The files of a model folder: written and replaced as a whole, and read as the files of one export."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mmsa_core.atomic import replacing_folder, write_text
from mmsa_core.errors import UserError
from search.yaml_io import write_yaml

CONFIG, WEIGHTS, METRICS, PROVENANCE, CARD = (
    "config.yaml", "model.safetensors", "metrics.json", "provenance.json", "README.md",
)  # fmt: skip
NAMES = (CONFIG, WEIGHTS, METRICS, PROVENANCE, CARD)
HASHED = (CONFIG, WEIGHTS, METRICS)
"""The files whose hashes are in ``provenance.json``, as ``files``; the card is free to be edited."""
AGAIN = "export it again"


def check_replaceable(folder: Path) -> None:
    """Check that a model folder can be replaced as a whole.

    Raises:
        UserError: it is a file, the current folder or a mount point, or the folder around it cannot be written.
    """
    try:
        target = folder.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: leads nowhere ({error}); give another --out") from None
    if target.exists() and not target.is_dir():
        raise UserError(f"{folder}: is a file where the model folder should be; move it, or give another --out")
    if target == Path.cwd():
        raise UserError(f"{folder}: is the current folder, and it is replaced as a whole; go to another, or give --out")
    if target.is_mount():
        raise UserError(
            f"{folder}: is a mount point, and a model folder is replaced as a whole; give --out a folder in it, "
            f"e.g. {folder / 'model'}"
        )
    around = next(p for p in target.parents if p.exists())
    if not os.access(around, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder}: {around} cannot be written, and a model is written beside its folder first; "
            "change permissions, or give another --out"
        )


def check_own(folder: Path) -> None:
    """Check that a folder is absent, empty, or a model's and nothing else's.

    Raises:
        UserError: it holds something else, which a model would take the place of.
    """
    held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in held if name not in NAMES or (folder / name).is_dir()]
    if foreign or (held and PROVENANCE not in held):
        raise UserError(
            f"{folder}: holds {(foreign or held)[0]} and is no model folder; give --out a new or empty folder, "
            "or one that train made"
        )


def write_files(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    card: str,
) -> None:
    """Write a model folder, or replace it as a whole."""
    with replacing_folder(folder, NAMES) as new:
        write_yaml(new / CONFIG, config, sync=False)  # the folder syncs its files
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, new / WEIGHTS)
        write_text(new / METRICS, json.dumps(metrics, indent=2) + "\n", sync=False)
        hashes = {name: _hash((new / name).read_bytes()) for name in HASHED}
        write_text(new / PROVENANCE, json.dumps({**provenance, "files": hashes}, indent=2) + "\n", sync=False)
        write_text(new / CARD, card, sync=False)
        (new / WEIGHTS).chmod(0o644)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a model folder by name, all of one export; folders of older versions have no hashes to check.

    Raises:
        UserError: one is missing, or is not of the export that ``provenance.json`` is of.
    """
    while True:
        try:
            files, replaced = _snapshot(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); change permissions, or {AGAIN}") from None
        if (fault := _fault(files)) is None:
            return files
        if not replaced:
            raise UserError(f"{folder}: {fault}")


def _snapshot(folder: Path) -> tuple[dict[str, bytes], bool]:
    """Return the files of the folder that is here now, and whether another took its place meanwhile.

    Files that are open stay readable when an export replaces their folder.
    """
    with ExitStack() as stack:
        try:
            own = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return {}, False
        stack.callback(os.close, own)
        opened = {}
        for name in (PROVENANCE, *HASHED):
            with suppress(FileNotFoundError):
                opened[name] = stack.enter_context(open(name, "rb", opener=partial(os.open, dir_fd=own)))
        files = {name: file.read() for name, file in opened.items()}
        try:
            return files, not os.path.samestat(os.fstat(own), folder.stat())
        except FileNotFoundError:
            return files, True


def _fault(files: Mapping[str, bytes]) -> str | None:
    """Return in a few words what keeps files from being a whole model of one export."""
    for name in (CONFIG, WEIGHTS, PROVENANCE):
        if name not in files:
            return f"no model is here ({name} is missing); give a folder that export or train made"
    try:
        hashes = json.loads(files[PROVENANCE].decode("utf-8"))["files"]
    except (ValueError, RecursionError, TypeError, KeyError):  # an older version's, or what the reader refuses
        return None
    for name in HASHED:
        if name not in files:
            return f"the model is damaged ({name} is missing); {AGAIN}"
        if not isinstance(hashes, dict) or hashes.get(name) != _hash(files[name]):
            return f"the model is damaged ({name} is not of the export that {PROVENANCE} is of); {AGAIN}"
    return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
