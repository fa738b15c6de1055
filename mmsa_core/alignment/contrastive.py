"""Telling a sample's other modality from those of the rest of the batch."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import average, count, detached, guarded
from mmsa_core.alignment._similarity import both_valid, cosines, different, partner_loss
from mmsa_core.errors import UserError
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class Contrastive(Alignment):
    """Makes each row find its partner in the other modality: symmetric InfoNCE over cosines divided by ``temperature``.

    Uses pairing; free of scale. Exactly log n on constant features. Its value depends on the batch size n.

    ``soften`` (in units of the label) makes a negative count by how far its label is: the other row j weighs
    ``1 - exp(-|label_i - label_j| / soften)`` in the softmax of row i, so that equal labels do not repel each other.
    At 0 all weigh 1.

    ``chance`` is the guess, all similarities alike: log n, or the mean log of 1 plus the weights of the negatives, but
    at least log 2: a batch of labels that hardly differ has nothing to tell apart, and must not be scaled up. Unrelated
    features with a low temperature do worse than a guess (confident and wrong): 1.2 to 1.6 times chance at temperature
    0.1 for white noise of 16 to 32 dimensions.

    Source: van den Oord et al., 2018, arXiv:1807.03748, eq. 4; symmetric: Radford et al., ICML 2021, arXiv:2103.00020;
    for sentiment: Zhang et al., LREC-COLING 2024, arXiv:2403.06355 (between the modalities, not with CLIP as the
    teacher; ``soften`` is this project's).
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 0.1, soften: float = 0.0) -> None:
        super().__init__()
        if soften < 0:
            raise UserError(f"contrastive.soften: must be 0 (all negatives count alike) or more, got {soften}")
        self.temperature = hyper(temperature)
        self.soften = hyper(soften)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        weights = self._weights(pair)
        counted = weights > 0
        logits = cosines(pair.x, pair.y, pair.valid) / self.temperature
        logits = logits + torch.where(counted, weights, torch.ones_like(weights)).log()
        return guarded(partner_loss(logits, both_valid(pair.valid) & counted, pair.valid), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        weights = self._weights(fixed).detach()
        guess = torch.where(both_valid(pair.valid), weights, torch.zeros_like(weights)).sum(1)
        soft = average(guess.clamp(min=1).log(), pair.valid).clamp(min=math.log(2))
        return torch.where(self.soften > 0, soft, count(fixed).clamp(min=2).log())

    def _weights(self, pair: Pair) -> Float[Tensor, "batch batch"]:
        """Return how much each row counts in the softmax of another: 1 for a row's own partner."""
        labels = torch.where(pair.valid, pair.labels, torch.zeros_like(pair.labels))
        gaps = (labels[:, None] - labels).abs()
        soft = self.soften > 0
        weights = -torch.expm1(-gaps / torch.where(soft, self.soften, torch.ones_like(self.soften)))
        return torch.where(soft & different(pair.valid), weights, torch.ones_like(weights))
