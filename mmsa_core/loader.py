"""A split as tensors on the training device, each modality prepared once per kind of encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MemberConfig, PlugIn
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from mmsa_core.plugin import PretrainedEncoder
from mmsa_core.tensors import Batch, Features, LabelTable


class SplitTensors:
    """One split on one device; :meth:`batch` gives all of it in the form a configuration's encoders want."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.labels = _tensor(split.labels, device)
        self._raw: dict[str, Features] = {}
        self._prepared: dict[tuple[str, Callable[[Features], Features]], Features] = {}
        self._tokens: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, config: MemberConfig) -> Batch:
        """Return the whole split prepared for the encoders of ``config``."""
        features = tuple(self._features(m, p) for m, p in config.encoders.items())
        available = torch.stack([f.mask.any(1) for f in features], 1)
        return Batch(features, available)

    def table(self, config: MemberConfig) -> LabelTable:
        """Return the split's labels, with human unimodal ones where every modality of ``config`` has them."""
        human = self.split.unimodal
        known = all(m in human for m in config.modalities)
        unimodal = torch.stack([_tensor(human[m], self.device) for m in config.modalities], 1) if known else None
        return LabelTable(self.labels, unimodal, len(config.modalities))

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
            values, mask = cls.tokens(self.split.raw_text, self.split.text_bert, encoder.params)
            self._tokens[key] = Features(values.to(self.device), mask.to(self.device))
        return self._tokens[key]

    def _source(self, modality: str) -> Features:
        if modality not in self._raw:
            values = _tensor(self.split.features[modality], self.device)
            lengths = _tensor(self.split.lengths[modality], self.device)
            mask = torch.arange(values.shape[1], device=self.device)[None] < lengths[:, None]
            self._raw[modality] = Features(values, mask)
        return self._raw[modality]


def take(batch: Batch, rows: Tensor) -> Batch:
    """Return the samples ``rows`` (any shape: a member axis in front of the batch axis is kept) of a whole split."""
    features = tuple(Features(f.values[rows], f.mask[rows]) for f in batch.features)
    return Batch(features, batch.available[rows])


def widths(batch: Batch, config: MemberConfig) -> dict[str, int]:
    """Return the feature width of each modality after preparation."""
    return {m: f.values.shape[-1] for m, f in zip(config.modalities, batch.features, strict=True)}


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device: arrays shared between processes are read-only, which torch does not accept."""
    return torch.tensor(array, device=device)
