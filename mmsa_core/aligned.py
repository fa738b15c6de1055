"""Where an alignment acts: on a pair of modalities, or on one and a frozen teacher; with its weight and normalised."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core import registry
from mmsa_core.config import PairConfig
from mmsa_core.errors import UserError
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Batch, Outputs, Pair


class AlignedPair(nn.Module):
    """One pair's alignment with its weight, place and normalisation by the chance value."""

    def __init__(self, config: PairConfig, positions: tuple[int, int], dims: tuple[int, int], place: str) -> None:
        super().__init__()
        if registry.load("alignment", config.alignment.name).equal_dims and dims[0] != dims[1]:
            raise UserError(
                f"{place}: {config.alignment.name} at the encoder output needs encoders of equal dim, got {dims[0]} "
                f"and {dims[1]}; set place: projection, or the same dim for both encoders"
            )
        self.positions = positions
        self.at_encoder = config.place == "encoder"
        self.asked = _Asked(config, dims)

    def forward(self, outputs: Outputs, batch: Batch, labels: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
        """Return the weighted loss of this pair."""
        source = outputs.embeddings if self.at_encoder else outputs.projections
        i, j = self.positions
        valid = batch.available[:, i] & batch.available[:, j]
        loss: Tensor = self.asked(Pair(source[i], source[j], valid, labels, outputs.fused))
        return loss


class TaughtModality(nn.Module):
    """An alignment of one modality with a frozen teacher: the text's features, averaged over time.

    With features of a sentence encoder (``data: {text_model: ...}``) that is the sentence's embedding. The modality
    passes a linear map of its own, so that it may keep what the teacher does not know; the teacher comes to the same
    width by a fixed random matrix, which about keeps angles.

    Source: the contrast of each modality with a frozen, shared embedding of Zhang et al., LREC-COLING 2024,
    arXiv:2403.06355 (CLIP there, for text and images; sequences of audio and vision features have no such encoder).
    """

    def __init__(self, config: PairConfig, position: int, dim: int, inputs: int) -> None:
        super().__init__()
        self.position = position
        self.at_encoder = config.place == "encoder"
        self.student = nn.Linear(dim, dim)
        self.teacher = nn.Buffer(torch.randn(inputs, dim) / dim**0.5, persistent=False)
        self.asked = _Asked(config, (dim, dim))

    def forward(self, outputs: Outputs, batch: Batch, labels: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
        """Return the weighted loss of this modality."""
        text = batch.features[0]  # text comes first wherever there is any
        real = text.mask[:, :, None]
        frames = torch.where(real, text.values, torch.zeros_like(text.values))
        embedding = frames.sum(1) / text.mask.sum(1).clamp(min=1)[:, None]
        source = outputs.embeddings if self.at_encoder else outputs.projections
        valid = batch.available[:, 0] & batch.available[:, self.position]
        pair = Pair(self.student(source[self.position]), embedding @ self.teacher, valid, labels, outputs.fused)
        loss: Tensor = self.asked(pair)
        return loss


class _Asked(nn.Module):
    """An alignment with its weight, divided by its chance value where ``normalize`` says so."""

    def __init__(self, config: PairConfig, dims: tuple[int, int]) -> None:
        super().__init__()
        self.normalize = config.normalize
        self.weight = hyper(config.weight)
        self.alignment: Alignment = registry.build("alignment", config.alignment.name, *dims, **config.alignment.params)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        loss = self.alignment(pair)
        if self.normalize:
            loss = loss / self.alignment.chance(pair)
        weighted: Tensor = self.weight * loss
        return weighted
