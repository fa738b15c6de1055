"""A data set as training sees it: three splits, opened once, each loaded on its own, checked and left-aligned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.checks import check_axes, check_structure, choose_modalities, used_keys
from mmsa_core.data.mmsa_pickle import MmsaPickleSource
from mmsa_core.data.npz import NpzSource
from mmsa_core.data.rows import left_align
from mmsa_core.data.source import LABELS, SPLITS, TEXT_BERT, UNIMODAL, UNLABELED, Source, SplitName
from mmsa_core.data.split import Split
from mmsa_core.data.text import OnProgress, TextModel, read_text_model, with_text_features
from mmsa_core.errors import UserError

Nonfinite: TypeAlias = Literal["refuse", "zero"]
SOURCES: dict[str, type[NpzSource] | type[MmsaPickleSource]] = {
    ".npz": NpzSource,
    ".pkl": MmsaPickleSource,
    ".pickle": MmsaPickleSource,
}
NUMBERS = "fiub"
"""The dtype kinds that count as numbers."""


def open_dataset(
    path: str | Path,
    modalities: Sequence[str] | None = None,
    nonfinite: Nonfinite = "refuse",
    text_model: TextModel | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Dataset:
    """Open a data file and check its structure; ``modalities`` None takes all that it has.

    With ``text_model`` the text features are that model's of ``raw_text``, computed here if they are not cached.

    Raises:
        UserError: the file is missing, of another format or damaged, its splits, shapes or ids do not fit together, or
            the text model is not at hand.
    """
    path = Path(path)
    if nonfinite not in get_args(Nonfinite):
        raise UserError(f"data.nonfinite: must be 'refuse' or 'zero', got {nonfinite!r}")
    source = open_source(path)
    if text_model is not None and (modalities is None or "text" in modalities):
        source = with_text_features(source, text_model, on_progress)
    chosen = choose_modalities(source, modalities)
    check_structure(source, chosen)
    return Dataset(path, source, chosen, nonfinite)


def open_source(path: Path) -> Source:
    """Open a file in the format that its suffix says.

    Raises:
        UserError: the file is missing, of another format or damaged.
    """
    if path.suffix not in SOURCES:
        raise UserError(f"{path}: the data must be an .npz or an MMSA .pkl, got suffix {path.suffix!r}")
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such file; give the path of a data set, absolute or from the current folder"
        )
    return SOURCES[path.suffix](path)


class Dataset:
    """An opened data file whose structure is sound; values are read, and checked, when a split is asked for.

    ``text_model`` is what made the text features, where that is known.
    """

    def __init__(self, path: Path, source: Source, modalities: tuple[str, ...], nonfinite: Nonfinite) -> None:
        self.path = path
        self.modalities = modalities
        self.text_model = read_text_model(source) if "text" in modalities else None
        self._source = source
        self._nonfinite = nonfinite

    def split(self, name: SplitName) -> Split:
        """Load one split; of an ``.npz`` only its own arrays are read. With ``train`` come the rows without labels.

        Raises:
            UserError: a label or feature is not finite or no number, or lengths do not fit.
        """
        features, lengths = {}, {}
        for m in self.modalities:
            features[m], lengths[m] = left_align(*self._sequences(f"{name}/{m}"))
        keys = self._source.keys
        unimodal = {
            m: self._labels(f"{name}/{UNIMODAL[m]}") for m in self.modalities if f"{name}/{UNIMODAL[m]}" in keys
        }
        texts = self._strings(f"{name}/raw_text") if f"{name}/raw_text" in keys else ()
        labels, tokens = self._labels(f"{name}/{LABELS}"), self._tokens(f"{name}/{TEXT_BERT}")
        own = name == "train" and any(k.startswith(f"{UNLABELED}/") for k in keys)
        unlabeled = self.unlabeled(self.dims(), f"{UNLABELED}/") if own else None
        return Split(self.ids(name), features, lengths, labels, unimodal, texts, tokens, unlabeled)

    def unlabeled(self, widths: Mapping[str, int], prefix: str = "") -> Split:
        """Load rows without split and label, whose keys are ``prefix`` and a name (``audio``); their labels are 0.

        A modality that the file lacks is missing in every row, with the width that ``widths`` says.

        Raises:
            UserError: there is nothing to read, arrays do not fit together, or a feature is not finite.
        """
        source, place = self._source, self._source.place
        keys = {n: f"{prefix}{n}" for n in ("id", "raw_text", TEXT_BERT, *self.modalities)}
        found = [k for k in keys.values() if k in source.keys]
        if not {*found} - {keys["id"]}:
            raise UserError(f"{place}: holds nothing that the model reads; give raw_text, {', '.join(self.modalities)}")
        lengths_of = [f"{keys[m]}_lengths" for m in self.modalities if f"{keys[m]}_lengths" in source.keys]
        for key in (*found, *lengths_of):
            check_axes(source, key, key.removeprefix(prefix))
        rows = source.shape(found[0])[0]
        for key in (*found, *lengths_of):
            own = source.shape(key)[0]
            if own != rows:
                raise UserError(f"{place}: {key} has {own} rows but {found[0]} has {rows}; give one row per sample")
        features, lengths = {}, {}
        for m, width in widths.items():
            if keys[m] in found:
                self._check_width(keys[m], width)
                features[m], lengths[m] = left_align(*self._sequences(keys[m]))
            else:
                features[m], lengths[m] = np.zeros((rows, 1, width), np.float32), np.zeros(rows, np.int64)
        ids = self._strings(keys["id"]) if keys["id"] in found else tuple(f"{prefix}{i}" for i in range(rows))
        tokens = self._tokens(keys[TEXT_BERT])
        silent = ("",) * rows if tokens is None else ()
        texts = self._strings(keys["raw_text"]) if keys["raw_text"] in found else silent
        return Split(ids, features, lengths, np.zeros(rows, np.float32), {}, texts, tokens)

    def _check_width(self, key: str, width: int) -> None:
        shape = self._source.shape(key)
        if len(shape) not in (2, 3) or shape[-1] != width:
            raise UserError(
                f"{self._source.place}: {key} has shape {list(shape)}; it must be [samples, time, {width}] or "
                f"[samples, {width}], as the training data"
            )

    def check(self) -> None:
        """Load every split once and hand out nothing, so that a bad test split is known before hours are spent.

        Raises:
            UserError: as :meth:`split`.
        """
        for name in SPLITS:
            self.split(name)

    def ids(self, name: SplitName) -> tuple[str, ...]:
        """Return the ids of a split."""
        return self._strings(f"{name}/id")

    def shape(self, name: SplitName, modality: str) -> tuple[int, ...]:
        """Return a modality's shape as it is in the file."""
        return self._source.shape(f"{name}/{modality}")

    def dims(self) -> dict[str, int]:
        """Return the feature width of each modality."""
        return {m: self.shape("train", m)[-1] for m in self.modalities}

    def fingerprint(self) -> str:
        """Return 32 hex digits of every array that is read, as it is in the file."""
        digest = hashlib.blake2b(digest_size=16)
        for key in sorted(k for name in (*SPLITS, UNLABELED) for k in used_keys(self._source, name, self.modalities)):
            array = self._source.read(key)
            digest.update(f"{key} {array.shape} ".encode())
            if array.dtype.kind in NUMBERS:
                digest.update(array.dtype.str.encode())
                digest.update(np.ascontiguousarray(array).data)
            else:
                digest.update("\0".join(map(str, array.tolist())).encode())
        return digest.hexdigest()

    def _sequences(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        values = self._numbers(key)
        values = values[:, None, :] if values.ndim == 2 else values
        finite = np.isfinite(values)
        if not finite.all():
            if self._nonfinite == "refuse":
                raise UserError(
                    f"{self._source.place}: {key} has {int((~finite).sum())} values that are NaN or infinite; "
                    "features must be finite, so clean them or set data: {nonfinite: zero} to read them as 0"
                )
            values = np.where(finite, values, np.float32(0))
        return values, self._lengths(f"{key}_lengths", values.shape[1])

    def _lengths(self, key: str, time: int) -> NDArray[np.int64] | None:
        if key not in self._source.keys:
            return None
        lengths = self._numbers(key)
        wrong = np.flatnonzero(~((lengths >= 0) & (lengths <= time)))
        if wrong.size:
            raise UserError(
                f"{self._source.place}: {key}[{wrong[0]}] is {lengths[wrong[0]]:g}; a length must lie in 0..{time}, "
                "the rows of its features; leave the key out to count the rows that are not zero"
            )
        return lengths.astype(np.int64)

    def _tokens(self, key: str) -> NDArray[np.int64] | None:
        if key not in self._source.keys or "text" not in self.modalities:
            return None
        tokens = self._numbers(key)
        if not (np.isfinite(tokens) & (tokens >= 0)).all():
            raise UserError(f"{self._source.place}: {key} must hold ids, mask and types, whole numbers from 0 on")
        return tokens.astype(np.int64)

    def _labels(self, key: str) -> NDArray[np.float32]:
        labels = self._numbers(key)
        wrong = np.flatnonzero(~np.isfinite(labels))
        if wrong.size:
            raise UserError(
                f"{self._source.place}: {key} has {wrong.size} values that are NaN or infinite, the first in row "
                f"{wrong[0]}; every label must be a finite number, so leave such samples out"
            )
        return labels

    def _numbers(self, key: str) -> NDArray[np.float32]:
        array = self._source.read(key)
        if array.dtype.kind not in NUMBERS:
            raise UserError(f"{self._source.place}: {key} has dtype {array.dtype}; it must hold numbers")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the callers report
            return array.astype(np.float32)

    def _strings(self, key: str) -> tuple[str, ...]:
        texts = tuple(str(value) for value in self._source.read(key).tolist())
        broken = next((k for k, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text)), None)
        if broken is not None:
            raise UserError(
                f"{self._source.place}: {key}[{broken}] holds half of a character (a surrogate), which no file can; "
                "clean the text with .encode(errors='replace')"
            )
        return texts
