"""MMSA's pickles, read through an unpickler that can build numpy arrays and plain containers and nothing else.

Source: thuiar/MMSA, src/MMSA/data_loader.py (v2.2.1); the layout is a dict of splits, each a dict of arrays and lists.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.source import KEYS, SPLITS
from mmsa_core.errors import UserError

_BUILTINS = (dict, list, tuple, set, frozenset, bytes, bytearray, str, int, float, complex, bool)
_PLACES = {
    # Asked from numpy, so that a pickle of numpy 1 ("numpy.core") loads under numpy 2 ("numpy._core") and back.
    "_reconstruct": ("multiarray", np.empty(0).__reduce__()[0]),
    "scalar": ("multiarray", np.float32(0).__reduce__()[0]),
    "_frombuffer": ("numeric", np.empty(0).__reduce_ex__(5)[0]),
}
ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.{file}", name): value for name, (file, value) in _PLACES.items() for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    **{(module, t.__name__): t for t in _BUILTINS for module in ("builtins", "__builtin__")},
}


class MmsaPickleSource:
    """Holds the arrays of an MMSA pickle; the format has no parts, so all splits are in memory at once."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UserError: it asks for anything but arrays and plain containers, is damaged, or is no dict of splits.
        """
        self.place = path.name
        self._arrays: dict[str, NDArray[Any]] = {}
        content = _load(path)
        for split in SPLITS:
            part = content.get(split, {})
            if not isinstance(part, Mapping):
                raise UserError(
                    f"{self.place}: {split} is a {type(part).__name__}; MMSA's layout has a dict for each split"
                )
            for name in KEYS:
                if part.get(name) is not None:
                    self._arrays[f"{split}/{name}"] = self._array(f"{split}/{name}", part[name])
        self.keys: Set[str] = frozenset(self._arrays)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return self._arrays[key].shape

    def read(self, key: str) -> NDArray[Any]:
        """Return one array; -inf in audio is 0, as MMSA has it."""
        array = self._arrays[key]
        if key.endswith("/audio") and array.dtype.kind == "f":
            return np.where(np.isneginf(array), array.dtype.type(0), array)
        return array

    def _array(self, key: str, value: Any) -> NDArray[Any]:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise UserError(
                f"{self.place}: {key} is a list of unequal shapes; an array of a split needs one shape for all samples"
            ) from error
        if array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat):
            return array.astype(np.str_)
        return array


class _Unpickler(pickle.Unpickler):
    """Refuses every global outside :data:`ALLOWED` before it is imported; the base class refuses persistent ids."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return ALLOWED[module, name]


class _RefusedError(Exception):
    """A pickle asked for a global that is not allowed."""


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            # latin1 is how numpy arrays written by Python 2 are read.
            content = _Unpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise UserError(
            f"{path.name}: the pickle asks for {error}, which is no array and was not run; only numpy arrays and plain "
            "containers are read, so save it again with np.asarray of every value"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything, says the library reference
        raise UserError(f"{path.name}: the pickle is truncated or damaged ({error}); copy it again") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path.name}: holds a {type(content).__name__}; MMSA's layout is a dict with train, valid and test"
        )
    return content
