"""The native format: one ``.npz`` with keys like ``train/audio``, read without pickle, one array at a time."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.source import LABELS, TEXT_BERT, UNIMODAL, UNLABELED
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError)
SUFFIX = ".npy"


class NpzSource:
    """Reads the arrays of a ``.npz``; keeps no file open, so it may cross processes."""

    def __init__(self, path: Path) -> None:
        """Read the table of contents.

        Raises:
            UserError: the file is not a whole zip archive.
        """
        self.place = path.name
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except DAMAGED as error:
            raise self._damaged(str(error)) from error
        self.keys: Set[str] = frozenset(n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX))

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape from its header."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(key + SUFFIX) as file:
                return _header_shape(file)
        except DAMAGED as error:
            raise self._damaged(f"{key}: {error}") from error

    def read(self, key: str) -> NDArray[Any]:
        """Read one array.

        Raises:
            UserError: it is damaged, or holds Python objects.
        """
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(key + SUFFIX) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except DAMAGED as error:
            raise self._damaged(f"{key}: {error}") from error

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.place}: is not a readable .npz of plain arrays ({reason.rstrip('.')}); write it with "
            "np.savez_compressed, or copy it again"
        )


def write(path: str | Path, splits: Mapping[str, Split]) -> None:
    """Write splits in the native format, all or nothing."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, split in splits.items():
        arrays |= {f"{name}/{key}": array for key, array in _arrays(split).items()}
        if split.unlabeled is not None:
            rows = _arrays(split.unlabeled).items()
            arrays |= {f"{UNLABELED}/{key}": array for key, array in rows if key != LABELS}
    write_arrays(path, arrays)


def _arrays(split: Split) -> dict[str, NDArray[Any]]:
    own: dict[str, NDArray[Any]] = {"id": np.array(split.ids), LABELS: split.labels, **split.features}
    own |= {f"{m}_lengths": lengths for m, lengths in split.lengths.items()}
    own |= {UNIMODAL[m]: labels for m, labels in split.unimodal.items()}
    if split.raw_text:
        own["raw_text"] = np.array(split.raw_text)
    if split.text_bert is not None:
        own[TEXT_BERT] = split.text_bert
    return own


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to a compressed ``.npz``: readers see the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in arrays.items():
                with archive.open(key + SUFFIX, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _header_shape(file: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)[0]
