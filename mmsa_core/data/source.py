"""What a data file looks like once its format is out of the way: named arrays, each read on its own."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from mmsa_core.config import MODALITIES

SplitName: TypeAlias = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
UNLABELED = "unlabeled"
"""The name of the rows without labels, beside the splits."""
LABELS = "regression_labels"
UNIMODAL = {m: f"{LABELS}_{m[0].upper()}" for m in MODALITIES}
"""MMSA's names of the human unimodal labels: ``regression_labels_T``, ``_A`` and ``_V``."""

TEXT_BERT = "text_bert"
"""[N, 3, T]: BERT's input ids, attention mask and token types, as MMSA's files have them."""
KEYS = ("id", "raw_text", TEXT_BERT, LABELS, *UNIMODAL.values(), *MODALITIES, *(f"{m}_lengths" for m in MODALITIES))
"""What is read of a split; every other key of a file is ignored."""


class Source(Protocol):
    """A data file; ``place`` names it in messages and ``keys`` are the names of its arrays, like ``train/audio``."""

    place: str
    keys: Set[str]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape without reading its values where the format allows that."""
        ...

    def read(self, key: str) -> NDArray[Any]:
        """Read one array.

        Raises:
            UserError: it is damaged, or holds Python objects.
        """
        ...


class ArraySource:
    """Arrays in memory as a source."""

    def __init__(self, place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.place = place
        self.keys: Set[str] = arrays.keys()
        self._arrays = arrays

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return self._arrays[key].shape

    def read(self, key: str) -> NDArray[Any]:
        """Return one array."""
        return self._arrays[key]


class Overlay:
    """A source of which some arrays are replaced by those of another."""

    def __init__(self, base: Source, over: Source) -> None:
        self.place = base.place
        self.keys: Set[str] = base.keys | over.keys
        self._base, self._over = base, over

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return self._of(key).shape(key)

    def read(self, key: str) -> NDArray[Any]:
        """Read one array."""
        return self._of(key).read(key)

    def _of(self, key: str) -> Source:
        return self._over if key in self._over.keys else self._base
