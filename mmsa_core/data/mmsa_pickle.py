"""MMSA's pickles, read through an unpickler that can build numpy arrays and plain containers and nothing else.

Source: thuiar/MMSA, src/MMSA/data_loader.py (v2.2.1); the layout is a dict of splits, each a dict of arrays and lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.source import KEYS, SPLITS
from mmsa_core.data.unpickle import Allowance, Array, RefusedError, Unpickler
from mmsa_core.errors import UserError

AXES = 4
"""How deep lists may be nested as an array: one more than any array of a split has axes."""


class MmsaPickleSource:
    """Holds the arrays of an MMSA pickle; the format has no parts, so all splits are in memory at once."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UserError: it asks for anything but arrays and plain containers, is damaged, or is no dict of splits.
        """
        self.place = path.name
        self._arrays: dict[str, NDArray[Any]] = {}
        self._allowance = Allowance(path.stat().st_size)
        content = _load(path, self._allowance)
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
        """Return one array; -inf in audio is 0, as MMSA has it.

        Raises:
            UserError: it holds Python objects.
        """
        array = self._arrays[key]
        if array.dtype.hasobject:
            raise UserError(
                f"{self.place}: {key} holds objects that are neither all numbers nor all text; save it again as an "
                "array of one kind"
            )
        if key.endswith("/audio") and array.dtype.kind == "f":
            return np.where(np.isneginf(array), array.dtype.type(0), array)
        return array

    def _array(self, key: str, value: Any) -> NDArray[Any]:
        try:
            array = np.asarray(self._plain(value))
            if array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat):
                self._allowance.take(4 * array.size * max(map(len, array.flat), default=0))
                return array.astype(np.str_)
            return array
        except RefusedError as error:
            raise UserError(
                f"{self.place}: {key} is or holds {error}; save it again as an array of numbers or text"
            ) from error
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{self.place}: {key} is a list of unequal shapes; an array of a split needs one shape for all samples"
            ) from error

    def _plain(self, value: Any) -> Any:
        """Return arrays and lists of them without what stands for them while a pickle is read.

        A list that is in itself, or in many places of another, would become endless as an array: what is made counts.

        Raises:
            RefusedError: that is more than the file may make, or no data.
        """
        self._allowance.take(_extent(value, AXES, {}))
        return _converted(value)


def _extent(value: Any, depth: int, known: dict[int, int]) -> int:
    """Return how many bytes a value takes as an array; ``known`` are the lists that were measured already."""
    if isinstance(value, Array):
        return value.made.nbytes
    if isinstance(value, list | tuple):
        if depth == 0:
            raise RefusedError(f"lists that are nested deeper than {AXES}")
        if id(value) not in known:
            longest = max((len(v) for v in value if isinstance(v, str | bytes | bytearray)), default=0)
            known[id(value)] = 4 * len(value) * longest + sum(_extent(v, depth - 1, known) for v in value)
        return known[id(value)]
    if not isinstance(value, str | bytes | bytearray | int | float | complex | np.generic | None):
        raise RefusedError(f"a {type(value).__name__}")
    return 8


def _converted(value: Any) -> Any:
    if isinstance(value, Array):
        return value.made
    return [_converted(v) for v in value] if isinstance(value, list | tuple) else value


def _load(path: Path, allowance: Allowance) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = Unpickler(path, file, allowance).load()
    except RefusedError as error:
        raise UserError(
            f"{path.name}: the pickle asks for {error}, which is no array and was not run; only numpy arrays and plain "
            "containers are read, so save it again with np.asarray of every value"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything, says the library reference
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path.name}: the pickle is truncated or damaged ({reason}); copy it again") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path.name}: holds a {type(content).__name__}; MMSA's layout is a dict with train, valid and test"
        )
    return content
