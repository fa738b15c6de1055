"""Z-scores per feature dimension, from the training split's real rows only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

CLIP = 5.0
"""Largest z-score in size: openSMILE and COVAREP columns have outliers of hundreds of standard deviations."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and standard deviation [d] by modality; a dimension constant in training has std 0 and becomes 0."""

    mean: dict[str, NDArray[np.float32]]
    std: dict[str, NDArray[np.float32]]

    @staticmethod
    def fit(train: Split) -> Scaler:
        """Take the statistics of a split's real rows; padding and missing samples do not count."""
        mean, std = {}, {}
        for modality, values in train.features.items():
            mean[modality], std[modality] = _moments(values[train.real_rows(modality)].astype(np.float64))
        return Scaler(mean, std)

    def apply(self, split: Split) -> Split:
        """Return the split with z-scores in -5..5; padding stays 0.

        Raises:
            UserError: the split has a modality or width that the scaler has not seen.
        """
        unlabeled = None if split.unlabeled is None else self.apply(split.unlabeled)
        return replace(split, features={m: self._scaled(split, m) for m in split.features}, unlabeled=unlabeled)

    def to_dict(self) -> dict[str, NDArray[np.float32]]:
        """Return plain arrays under keys like ``audio.mean``."""
        return {f"{m}.{k}": v for k, part in (("mean", self.mean), ("std", self.std)) for m, v in part.items()}

    @staticmethod
    def from_dict(arrays: Mapping[str, NDArray[Any]]) -> Scaler:
        """Read what :meth:`to_dict` returned."""
        mean, std = (
            {k.removesuffix(end): np.asarray(v, np.float32) for k, v in arrays.items() if k.endswith(end)}
            for end in (".mean", ".std")
        )
        return Scaler(mean, std)

    def _scaled(self, split: Split, modality: str) -> NDArray[np.float32]:
        values = split.features[modality]
        known = len(self.mean[modality]) if modality in self.mean else 0
        if values.shape[-1] != known:
            raise UserError(
                f"{modality}: the features have width {values.shape[-1]} but the model was trained on width {known}; "
                "extract them as for the training data"
            )
        mean, std = self.mean[modality].astype(np.float64), self.std[modality].astype(np.float64)
        inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
        real = split.real_rows(modality)
        scaled = np.zeros_like(values)
        scaled[real] = np.clip((values[real] - mean) * inverse, -CLIP, CLIP)
        return scaled


def _moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and std of each column; exactly constant columns and no rows at all give std 0."""
    if len(rows) == 0:
        nothing = np.zeros(rows.shape[1], np.float32)
        return nothing, nothing
    varies = rows.min(axis=0) != rows.max(axis=0)
    return rows.mean(axis=0).astype(np.float32), np.where(varies, rows.std(axis=0), 0.0).astype(np.float32)
