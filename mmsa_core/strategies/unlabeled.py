"""Letting samples without labels take part in what needs none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.noise import Noise
from mmsa_core.plugin import Need, Strategy
from mmsa_core.tensors import Batch, Outputs, Rows


class Unlabeled(Strategy):
    """Adds ``extra`` rows without labels to every batch, which alignments and penalties see and the tasks do not.

    They are drawn uniformly, with replacement, from the training split's unlabeled rows; where it has none, nothing is
    added. An alignment that reads labels takes theirs for 0. Predictions are the plain model's.

    Source: unpaired and unlabelled data in a contrastive loss, Shi et al., ICLR 2021, arXiv:2007.01179.
    """

    forces: ClassVar[Mapping[str, Need]] = {}
    streams: ClassVar[bool] = False

    def __init__(self, modalities: tuple[str, ...], *, extra: int = 32) -> None:
        super().__init__()
        if extra < 0:
            raise UserError(f"unlabeled.extra: must be 0 (none are added) or more, got {extra}")
        self.extra = extra
        self.noise = Noise()

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "shown"]:
        if split.unlabeled == 0 or self.extra == 0:
            return rows
        return torch.cat([rows, split.labeled + self.noise.bits((self.extra,)).long() % split.unlabeled])

    def view(self, batch: Batch, rows: Int[Tensor, "shown"]) -> Batch:
        return batch

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "shown"],
        rows: Int[Tensor, "shown"],
    ) -> Float[Tensor, ""]:
        return outputs.prediction.new_zeros(())

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        return model(batch).prediction
