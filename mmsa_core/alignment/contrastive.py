"""Telling a sample's other modality from those of the rest of the batch."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import count, detached, guarded, rows, unit
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class Contrastive(Alignment):
    """Makes each row find its partner in the other modality: symmetric InfoNCE over cosines divided by ``temperature``.

    Uses pairing; free of scale. Exactly log n on constant features. Its value depends on the batch size n.

    ``chance`` is log n: the guess. Unrelated features with a low temperature do worse than a guess (confident and
    wrong): 1.2 to 1.6 times chance at temperature 0.1 for white noise of 16 to 32 dimensions.

    Source: van den Oord et al., 2018, arXiv:1807.03748, eq. 4; symmetric: Radford et al., ICML 2021, arXiv:2103.00020.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = hyper(temperature)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = unit(rows(pair.x, pair.valid), 1), unit(rows(pair.y, pair.valid), 1)
        cosines = x @ y.T / self.temperature
        both = pair.valid[:, None] & pair.valid
        # the lowest finite number, not -inf: a row without candidates must give a number, which is then left out
        logits = torch.where(both, cosines, torch.full_like(cosines, torch.finfo(cosines.dtype).min))
        found = logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()
        loss = torch.where(pair.valid, -found, torch.zeros_like(found)).sum() / (2 * pair.valid.sum().clamp(min=1))
        return guarded(loss, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        return count(detached(pair)).clamp(min=2).log()
