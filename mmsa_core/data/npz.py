"""The native format: one ``.npz`` with keys like ``train/audio``, read without pickle, one array at a time."""

from __future__ import annotations

import lzma
import math
import os
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from mmsa_core.data.source import LABELS, TEXT_BERT, UNIMODAL, UNLABELED
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error, ValueError)
"""What a damaged archive makes zipfile and its decompressors raise."""
ENCODED = (NotImplementedError, RuntimeError)
"""What zipfile raises where an archive is encrypted or packed in a way it does not know."""
HEADERS = (SyntaxError, tokenize.TokenError, TypeError, KeyError, MemoryError, RecursionError)
"""What a damaged header makes numpy raise, which parses it as a Python literal."""
DAMAGED = (*UNREADABLE, *ENCODED, *HEADERS)
SUFFIX = ".npy"
LONGEST = 2**48
"""More rows, steps or dimensions than any array has: numpy's own limits are those of C."""


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
        with self._opened(key) as (_, shape):
            return shape

    def read(self, key: str) -> NDArray[Any]:
        """Read one array.

        Raises:
            UserError: it is damaged, holds Python objects, or does not fit into memory.
        """
        with self._opened(key) as (file, _):
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            _check_text(array)
            return array

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """Give an array's file and its shape, whose header says what the archive holds: nothing is made of a claim."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(key + SUFFIX) as file:
                size = archive.getinfo(key + SUFFIX).file_size
                free = psutil.virtual_memory().available
                if size > free:
                    raise UserError(
                        f"{self.place}: {key} takes {size / 1e9:.1f} GB and this machine has {free / 1e9:.1f} GB free; "
                        "take a machine with more memory, or fewer rows"
                    )
                yield file, _checked_shape(file, size)
        except DAMAGED as error:
            raise self._damaged(f"{key}: {' '.join(str(error).split())[:100]}") from error

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


def _checked_shape(file: IO[bytes], size: int) -> tuple[int, ...]:
    """Return the shape that a header of an array says, where it is that of the ``size`` bytes of its file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if not all(0 <= n < LONGEST for n in shape) or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"the header says shape {list(shape)} of {dtype}, and {size - file.tell()} bytes are there")
    return shape


def _check_text(array: NDArray[Any]) -> None:
    """Check that text is text: a number above the last code point breaks whoever makes a string of it."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.str[0] + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError("its text holds characters that do not exist")
