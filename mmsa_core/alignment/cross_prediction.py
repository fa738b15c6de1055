"""Predicting each modality's representation from the other's."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core.alignment._kinds import ConditionalAlignment, Need
from mmsa_core.alignment._moments import count, detached, guarded, rows
from mmsa_core.alignment._perceptron import perceptron
from mmsa_core.alignment._similarity import both_valid, cosines, partner_loss
from mmsa_core.plugin import hyper
from mmsa_core.tensors import Pair


class CrossPrediction(ConditionalAlignment):
    """Makes a small network guess each row's other modality, well enough to tell it from the rest of the batch.

    Symmetric InfoNCE between the predictions ``G(x)`` and y, without gradient into y, and the same from y to x,
    averaged; cosines divided by ``temperature``. The modalities need not look alike: what one says of the other is
    enough, so the widths may differ. Without the stopped gradient or the negatives the predictions would collapse.

    ``chance`` is log n: the guess.

    Source: the cross-modal prediction (CMCP) of MMCL with its instance-based contrast, Lin and Hu, Findings of EMNLP
    2022, arXiv:2210.14556; rebuilt from the abstract. Its pseudo-Siamese network is one predictor per direction here.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"training"})

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 0.1, hidden: int = 32) -> None:
        super().__init__()
        self.temperature = hyper(temperature)
        self.to_y = perceptron(dim_x, hidden, dim_y)
        self.to_x = perceptron(dim_y, hidden, dim_x)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        loss = self._guess(self.to_y, pair.x, pair.y, pair) + self._guess(self.to_x, pair.y, pair.x, pair)
        return guarded(loss / 2, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        return count(detached(pair)).clamp(min=2).log()

    def _guess(
        self,
        predictor: nn.Sequential,
        source: Float[Tensor, "batch dim_source"],
        target: Float[Tensor, "batch dim_target"],
        pair: Pair,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of finding each row's target by its prediction."""
        guess = predictor(rows(source, pair.valid))
        logits = cosines(guess, target.detach(), pair.valid) / self.temperature
        return partner_loss(logits, both_valid(pair.valid), pair.valid)
