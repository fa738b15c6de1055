"""Hiding modalities at random, so that no prediction leans on one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.noise import Uniform
from mmsa_core.plugin import Need, Strategy, hyper
from mmsa_core.strategies._views import kept
from mmsa_core.tensors import Batch, Outputs, Rows


class ModalityDropout(Strategy):
    """Hides each modality of each training sample with probability ``p``, anew at every step.

    At least one that is available stays: where all would be hidden, any of them with the same chance. So with M
    modalities each is hidden with probability p - p^M / M. What stays is not scaled up. Predictions are the plain
    model's.

    Source: Neverova et al., TPAMI 2016, arXiv:1501.00102 (ModDrop; there all may be dropped).
    """

    forces: ClassVar[Mapping[str, Need]] = {}
    streams: ClassVar[bool] = False

    def __init__(self, modalities: tuple[str, ...], *, p: float = 0.2) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"modality_dropout.p: must lie between 0 (nothing is hidden) and 1 (one stays), got {p}")
        self.p = hyper(p)
        self.noise = Uniform()

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "batch"]:
        return rows

    def view(self, batch: Batch, rows: Int[Tensor, "batch"]) -> Batch:
        draws = self.noise(tuple(batch.available.shape))
        return batch._replace(available=kept(draws, self.p, batch.available))

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "batch"],
        rows: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return outputs.prediction.new_zeros(())

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        return model(batch).prediction
