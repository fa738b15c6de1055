"""A split as tensors on the training device, each modality prepared once per kind of encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MemberConfig, PlugIn
from mmsa_core.data.cross_fit import cross_fitted, time_average
from mmsa_core.data.split import Split, videos
from mmsa_core.errors import UserError
from mmsa_core.plugin import PretrainedEncoder
from mmsa_core.tensors import Batch, Features, LabelTable, OutOfFold, Rows


class SplitTensors:
    """One split on one device; :meth:`batch` gives all of it in the form a configuration's encoders want."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.parts = [split] if split.unlabeled is None else [split, split.unlabeled]
        self.labels = _tensor(np.concatenate([p.labels for p in self.parts]), device)
        domains = videos([i for p in self.parts for i in p.ids])
        self.rows = Rows(len(split), len(self.labels) - len(split), _tensor(domains, device))
        self._raw: dict[str, Features] = {}
        self._prepared: dict[tuple[str, Callable[[Features], Features]], Features] = {}
        self._tokens: dict[str, Features] = {}
        self._cross_fitted: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of rows with labels."""
        return self.rows.labeled

    def batch(self, config: MemberConfig) -> Batch:
        """Return the whole split prepared for the encoders of ``config``, rows without labels last."""
        features = tuple(self._features(m, p) for m, p in config.encoders.items())
        available = torch.stack([f.mask.any(1) for f in features], 1)
        return Batch(features, available)

    def table(self, config: MemberConfig) -> LabelTable:
        """Return the split's labels, with human unimodal ones where every modality of ``config`` has them."""
        human = self.split.unimodal
        known = all(m in human for m in config.modalities)
        unimodal = torch.stack([_tensor(human[m], self.device) for m in config.modalities], 1) if known else None
        out_of_fold = partial(self._out_of_fold, config.modalities)
        return LabelTable(self.labels[: len(self)], unimodal, len(config.modalities), out_of_fold)

    def _out_of_fold(self, modalities: Sequence[str]) -> OutOfFold:
        """Return every modality's own predictions of the labels; each is computed once."""
        split, domains = self.split, self.rows.domains[: len(self)].cpu().numpy()
        present = {m: split.lengths[m] > 0 for m in modalities}
        for m in modalities:
            if m not in self._cross_fitted:
                made = cross_fitted(time_average(split, m), split.labels, present[m], domains)
                self._cross_fitted[m] = _tensor(made, self.device)
        counts = _tensor(np.stack([present[m] for m in modalities], 1).astype(np.float32), self.device)
        return OutOfFold(torch.stack([self._cross_fitted[m] for m in modalities], 1), counts)

    def _features(self, modality: str, encoder: PlugIn) -> Features:
        cls = registry.load("encoders", encoder.name)
        if issubclass(cls, PretrainedEncoder):
            if modality != "text":
                raise UserError(f"encoders.{modality}: {encoder.name} reads text alone; take another encoder")
            return self._read_tokens(cls, encoder)
        prepare = cls.prepare
        key = (modality, prepare)
        if key not in self._prepared:
            self._prepared[key] = prepare(self._source(modality))
        return self._prepared[key]

    def _read_tokens(self, cls: type[PretrainedEncoder], encoder: PlugIn) -> Features:
        key = repr(sorted((k, v) for k, v in encoder.params.items() if not isinstance(v, float)))
        if key not in self._tokens:
            read = [cls.tokens(p.raw_text, p.text_bert, encoder.params) for p in self.parts]
            longest = max(f.mask.shape[1] for f in read)
            values = torch.cat([_padded(f.values, longest) for f in read])
            mask = torch.cat([_padded(f.mask, longest) for f in read])
            self._tokens[key] = Features(values.to(self.device), mask.to(self.device))
        return self._tokens[key]

    def _source(self, modality: str) -> Features:
        if modality not in self._raw:
            longest = max(p.features[modality].shape[1] for p in self.parts)
            values = _joined([_padded(_tensor(p.features[modality], self.device), longest) for p in self.parts])
            lengths = torch.cat([_tensor(p.lengths[modality], self.device) for p in self.parts])
            mask = torch.arange(values.shape[1], device=self.device)[None] < lengths[:, None]
            self._raw[modality] = Features(values, mask)
        return self._raw[modality]


def take(batch: Batch, rows: Tensor | slice) -> Batch:
    """Return the samples ``rows`` (any shape: a member axis in front of the batch axis is kept) of a whole split; a
    slice copies nothing."""
    features = tuple(Features(f.values[rows], f.mask[rows]) for f in batch.features)
    return Batch(features, batch.available[rows])


def _padded(values: Tensor, length: int) -> Tensor:
    """Return [N, T, ...] with zeros up to ``length`` rows."""
    room = values.new_zeros(len(values), length - values.shape[1], *values.shape[2:])
    return torch.cat([values, room], 1) if room.shape[1] else values


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return parts one behind the other; a single one is not copied, which is most of the time on long sequences."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def widths(batch: Batch, config: MemberConfig) -> dict[str, int]:
    """Return the feature width of each modality after preparation."""
    return {m: f.values.shape[-1] for m, f in zip(config.modalities, batch.features, strict=True)}


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device: arrays shared between processes are read-only, which torch does not accept."""
    return torch.tensor(array, device=device)
