"""Text features from a frozen pre-trained model: computed once, in parts that survive an interruption, and cached."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmsa_core.cache import user_cache
from mmsa_core.config import fingerprint
from mmsa_core.data.npz import NpzSource, write_arrays
from mmsa_core.data.source import SPLITS, UNLABELED, Overlay, Source
from mmsa_core.errors import UserError, nearest
from mmsa_core.pretrained import content_hash, find_text_model, load_body, load_tokenizer, tokenize

if TYPE_CHECKING:
    from torch import Tensor

Pooling: TypeAlias = Literal["cls", "mean", "tokens"]
OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with the texts that are done and their number."""
TEXT_MODEL = "text_model"
"""The key of a data file that names, as JSON, the model that made its text features."""
PART = 256
"""Texts per part: what an interruption can cost."""
BATCH = 32
CACHE_VERSION = 2
"""Raised when features that were cached before are not to be trusted any more; 2 checks them before they are kept."""


@dataclass(frozen=True)
class TextModel:
    """Which pre-trained model makes text features, from which layer's hidden states, pooled how.

    ``pooling`` is "cls" (the first token), "mean" (over all tokens) or "tokens" (the sequence itself, in float16).
    ``layer`` counts from -1 (the last) backwards, or from 0 (the embeddings) on. ``content`` is a hash of the model's
    files, pooling and layer, wherever it lies; empty until the model is looked at.
    """

    name: str
    pooling: Pooling = "mean"
    layer: int = -1
    content: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for key in ("name", "content"):
            if not isinstance(value := getattr(self, key), str):
                raise UserError(f"text model: {key} must be text, got {value!r}; write it in quotes")
        if self.pooling not in get_args(Pooling):
            raise UserError(f"text pooling: must be one of {', '.join(get_args(Pooling))}, got {self.pooling!r}")
        if type(self.layer) is not int:
            raise UserError(f"text layer: must be a whole number, -1 for the last, got {self.layer!r}")

    @staticmethod
    def from_dict(record: Any, place: str) -> TextModel:
        """Read what :meth:`to_dict` wrote.

        Raises:
            UserError: it is no mapping, lacks the name, has an unknown key, or a value of the wrong type.
        """
        known = [f.name for f in fields(TextModel)]
        if not isinstance(record, dict) or "name" not in record:
            raise UserError(f"{place}: must be a mapping with a name, got {str(record)[:60]!r}")
        for key in record:
            if key not in known:
                raise UserError(f"{place}: unknown key {key!r}{nearest(key, known)}")
        try:
            return TextModel(**record)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def found(self) -> TextModel:
        """Return the record with its content.

        Raises:
            UserError: the model is not at hand, or not the one that was recorded.
        """
        content = fingerprint([content_hash(find_text_model(self.name)), self.pooling, self.layer])
        if self.content not in ("", content):
            raise UserError(
                f"text model {self.name!r}: is not the one that the features were made with (content {content}, then "
                f"{self.content}); give that version"
            )
        return replace(self, content=content)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def embed(texts: Sequence[str], model: TextModel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features [N, T, d] of ``texts`` and their lengths [N] (T = 1 unless tokens; an empty text has length 0).

    Raises:
        UserError: the model is not at hand, or has no such layer.
    """
    rows = _Frozen(model.found())(texts)
    return _stacked(rows, np.float32), np.array([len(r) for r in rows])


def with_text_features(
    source: Source, model: TextModel, on_progress: OnProgress = lambda *_: None, cache: Path | None = None
) -> Source:
    """Return ``source`` with text features of its ``raw_text`` in the place of its own, if ``model`` did not make them.

    They are computed at most once for the same texts, model, layer and pooling: the result is kept in ``cache`` (our
    folder in the user's cache by default), and so are the finished parts of a computation that was interrupted.

    Raises:
        UserError: the file has no raw_text, or the model is not at hand.
    """
    if read_text_model(source) == model:
        return source
    texts: dict[str, list[str]] = {split: _texts(source, split) for split in SPLITS}
    if (count := _unlabeled(source)) > 0:
        texts[UNLABELED] = _texts(source, UNLABELED) if f"{UNLABELED}/raw_text" in source.keys else [""] * count
    model = model.found()
    digest = hashlib.blake2b(json.dumps([CACHE_VERSION, model.content, texts]).encode(), digest_size=12).hexdigest()
    folder = (user_cache() if cache is None else cache) / "text"
    file = folder / f"{digest}.npz"
    if not file.exists():
        distinct = sorted({t for part in texts.values() for t in part}, key=lambda t: (len(t), t))
        parts = folder / f"{digest}.parts"
        rows = dict(zip(distinct, _in_parts(distinct, model, parts, on_progress), strict=True))
        arrays: dict[str, NDArray[Any]] = {TEXT_MODEL: np.array(json.dumps(model.to_dict()))}
        for split, own in texts.items():
            found = [rows[t] for t in own]
            arrays[f"{split}/text"] = _stacked(found, np.float16 if model.pooling == "tokens" else np.float32)
            arrays[f"{split}/text_lengths"] = np.array([len(r) for r in found])
        write_arrays(file, arrays)
        shutil.rmtree(parts, ignore_errors=True)
    return Overlay(source, NpzSource(file))


def read_text_model(source: Source) -> TextModel | None:
    """Return the model that a data file names as the maker of its text features.

    Raises:
        UserError: what stands there cannot be read.
    """
    if TEXT_MODEL not in source.keys:
        return None
    text = str(source.read(TEXT_MODEL))
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source.place}: {TEXT_MODEL} is damaged ({error}); make the features again") from error
    return TextModel.from_dict(record, f"{source.place}: {TEXT_MODEL}")


def write_with_text_features(source: Source, target: Path, model: TextModel, on_progress: OnProgress) -> None:
    """Write every array of a data file as ``.npz``, with ``model``'s features of its ``raw_text`` as text.

    Raises:
        UserError: the target is no ``.npz``, the file has no raw_text, or the model is not at hand.
    """
    if target.suffix != ".npz":
        raise UserError(f"{target}: the target must end in .npz, got suffix {target.suffix!r}")
    made = with_text_features(source, model, on_progress)
    write_arrays(target, {key: made.read(key) for key in sorted(made.keys)})


def _unlabeled(source: Source) -> int:
    """Return how many rows without labels a file has."""
    return max((source.shape(k)[0] for k in source.keys if k.startswith(f"{UNLABELED}/")), default=0)


def _texts(source: Source, split: str) -> list[str]:
    key = f"{split}/raw_text"
    if key not in source.keys:
        raise UserError(
            f"{source.place}: {key} is missing; text features are made from it, so add the transcripts [samples] or "
            "leave text_model out"
        )
    return [str(t) for t in source.read(key).tolist()]


def _in_parts(texts: Sequence[str], model: TextModel, folder: Path, on_progress: OnProgress) -> list[NDArray[Any]]:
    """Return the features [t, d] of every text, computing only the parts that are not in ``folder`` yet."""
    frozen, rows = None, []
    for start in range(0, len(texts), PART):
        part, file = texts[start : start + PART], folder / f"{start:07d}.npz"
        if not file.exists():
            if frozen is None:
                frozen = _Frozen(model)
                frozen.check_repeats(part[:BATCH])
            made = frozen(part)
            lengths = np.array([len(r) for r in made])
            write_arrays(file, {"rows": np.concatenate(made), "lengths": lengths})
        saved = NpzSource(file)
        rows += np.split(saved.read("rows"), np.cumsum(saved.read("lengths"))[:-1])
        on_progress(min(start + PART, len(texts)), len(texts))
    return rows


class _Frozen:
    """A loaded model that turns texts into rows of features, on the GPU where there is one."""

    def __init__(self, model: TextModel) -> None:
        from mmsa_core.tensors import own_device

        folder = find_text_model(model.name)
        self.device = own_device()
        self.tokenizer: Any = load_tokenizer(folder)
        body: Any = load_body(folder)
        self.body = body.to(self.device)
        self.name, self.pooling, self.layer = model.name, model.pooling, model.layer
        layers = int(body.config.num_hidden_layers)
        if not -layers - 1 <= model.layer <= layers:
            raise UserError(f"text model {model.name!r}: has layers 0 to {layers}, got {model.layer}")

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the features [t, d] of every text, the longest batch first to last of like lengths.

        Raises:
            UserError: the model fails on a text, or does not give it finite features of one width.
        """
        if not texts:
            return []
        tokens = tokenize(self.tokenizer, texts, self.tokenizer.model_max_length)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        rows: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(texts)
        for chosen in np.split(np.argsort(lengths, kind="stable"), range(BATCH, len(texts), BATCH)):
            batch = self.tokenizer.pad({n: [v[i] for i in chosen] for n, v in tokens.items()}, return_tensors="pt")
            for i, row in zip(chosen, self._rows(batch.to(self.device)), strict=True):
                rows[i] = row if texts[i].strip() else row[:0]
        self._check(rows)
        return rows

    def _rows(self, batch: Any) -> list[NDArray[np.float32]]:
        import torch

        try:
            with torch.inference_mode():
                states: Tensor = self.body(**batch, output_hidden_states=True).hidden_states[self.layer]
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # e.g. more tokens than positions
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise UserError(f"text model {self.name!r}: fails on a text ({reason}); take another model") from error
        mask = batch["attention_mask"][:, :, None]
        if self.pooling == "tokens":
            return [s[: int(n)].cpu().numpy() for s, n in zip(states, mask.sum((1, 2)), strict=True)]
        pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        return list(pooled[:, None].cpu().numpy())

    def check_repeats(self, texts: Sequence[str]) -> None:
        """Check that the features of some texts are the same twice.

        Raises:
            UserError: they are not.
        """
        once, twice = self(texts), self(texts)
        if not all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(once, twice, strict=True)):
            raise UserError(f"text model {self.name!r}: its features differ from pass to pass; save it again")

    def _check(self, rows: Sequence[NDArray[np.float32]]) -> None:
        """Check features before anything is made of them, or kept."""
        sound = len({row.shape[1] for row in rows}) == 1 and all(np.isfinite(row).all() for row in rows)
        if not sound:
            raise UserError(
                f"text model {self.name!r}: its features are not finite; take another model or layer, or save it again"
            )


def _stacked(rows: Sequence[NDArray[Any]], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Return rows [t, d] of unequal t as one zero-padded array [N, T, d].

    Raises:
        UserError: a value is too large for ``dtype``.
    """
    longest = max(1, max((len(r) for r in rows), default=1))
    made = np.zeros((len(rows), longest, max((r.shape[1] for r in rows), default=1)), dtype)
    with np.errstate(over="ignore"):
        for i, row in enumerate(rows):
            made[i, : len(row)] = row
    if not np.isfinite(made).all():
        raise UserError(f"text pooling: features reach beyond {made.dtype}; take pooling mean or cls, or another layer")
    return made
