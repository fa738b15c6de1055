"""Everything side by side, each modality at one length and with one learned weight."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present, unit
from mmsa_core.plugin import Fusion


class WeightedConcat(Fusion):
    """Puts the modalities side by side at length 1 times a learned weight: ``[w_1 n(z_1) .. w_M n(z_M)]``.

    ``w = softmax`` of one learned number per modality (equal at the start), ``n`` scales a sample's part to length 1;
    ``dim`` is modalities times width. The cosine of two samples with the same modalities is exactly
    ``sum_m w_m^2 cos_m / sum_m w_m^2``.

    The paper has no missing modalities. Here the softmax is over those a sample has, so that its weights always sum to
    1: a sample of one modality is not shorter for want of the others. A missing one and a part of length 0 give 0.

    Source: Lin et al., COLING 2022, arXiv:2209.00891 (MCLEA), joint embedding.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.dim = modalities * width
        self.logits = nn.Parameter(torch.zeros(modalities))

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        # the lowest finite number, not -inf: a sample without any modality must not give NaN
        lowest = torch.full_like(self.logits, torch.finfo(parts.dtype).min)
        weights = torch.where(available, self.logits, lowest).softmax(1)
        return (weights[:, :, None] * unit(present(parts, available))).flatten(1)
