"""The plain fusion: everything side by side."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.fusion._masked import present
from mmsa_core.plugin import Fusion


class Concat(Fusion):
    """Puts the modalities side by side; ``dim`` is modalities times width.

    Source: early fusion as in Yu et al., AAAI 2021, arXiv:2102.04830 (Self-MM).
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.dim = modalities * width

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        return present(parts, available).flatten(1)
