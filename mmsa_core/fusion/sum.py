"""The smallest fusion: no parameters and no extra width."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.fusion._masked import present
from mmsa_core.plugin import Fusion


class Sum(Fusion):
    """Adds the modalities; ``dim`` is the width. A missing one adds 0, and the rest is not scaled up for it.

    Source: additive fusion, see Liang et al., ACM Computing Surveys 2024, arXiv:2209.03430.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.dim = width

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        return present(parts, available).sum(1)
