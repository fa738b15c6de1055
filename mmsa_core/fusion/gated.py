"""Fusion that decides per sample and dimension how much of each modality passes."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present
from mmsa_core.plugin import Fusion


class Gated(Fusion):
    """Adds the modalities, each dimension weighted by a gate that sees all of them; ``dim`` is the width.

    ``sum_m g_m * z_m`` with ``g = sigmoid(W [z_1 .. z_M] + b)``; a missing modality is 0 behind any gate. The gated
    multimodal unit has tanh around the parts and ties two gates to a sum of 1; the projections before us replace both.

    Source: Arevalo et al., ICLR Workshops 2017, arXiv:1702.01992.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.dim = width
        self.gate = nn.Linear(modalities * width, modalities * width)

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        known = present(parts, available)
        gates: Tensor = self.gate(known.flatten(1)).sigmoid().view_as(known)
        return (gates * known).sum(1)
