"""Fusion that fills in what is missing: each modality learns to predict the others."""

from __future__ import annotations

from itertools import permutations
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import average, guarded, present, unit
from mmsa_core.plugin import RegularizedFusion, hyper


class CrossPrediction(RegularizedFusion):
    """Puts the modalities side by side, a missing one replaced by what the others predict of it.

    ``z_j := mean over the available i of G_ij(z_i)``, each G_ij a Linear to ``hidden``, ReLU and a Linear back; ``dim``
    is modalities times width. Samples that miss nothing are as in ``concat``; those without any modality are 0.

    The penalty makes each prediction find its target: symmetric InfoNCE over cosines divided by ``temperature``
    between ``G_ij(z_i)`` and ``z_j``, which is detached (or the two would agree on a constant), over the samples with
    both; divided by log n, the guess; mean over the ordered pairs. It is blind to the lengths of predictions, which the
    task alone teaches, where modalities are missing in training.

    The paper predicts to learn representations and has no missing modalities; its contrast within a modality
    (augmented views) and its sentiment-based one are not part of the fusion.

    Source: Lin and Hu, Findings of EMNLP 2022, arXiv:2210.14556 (MMCL), instance-based cross-modal prediction.
    """

    weights: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self, modalities: int, width: int, *, hidden: int = 32, weight: float = 0.1, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.dim = modalities * width
        self.weight = hyper(weight)
        self.temperature = hyper(temperature)
        self.directions = tuple(permutations(range(modalities), 2))
        self.predictors = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)) for _ in self.directions
        )

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        known = present(parts, available)
        found = self._predict(known)
        filled = []
        for j, part in enumerate(known.unbind(1)):
            sources = [i for i, target in self.directions if target == j]
            guess = torch.zeros_like(part)
            for i in sources:
                guess = guess + torch.where(available[:, i, None], found[i, j], torch.zeros_like(guess))
            count = sum((available[:, i].to(part.dtype) for i in sources), part.new_zeros(len(part)))
            filled.append(torch.where(available[:, j, None], part, guess / count.clamp(min=1)[:, None]))
        return torch.cat(filled, 1)

    def penalty(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, ""]:
        known = present(parts, available)
        losses = [
            info_nce(guess, known[:, j].detach(), available[:, i] & available[:, j], self.temperature)
            for (i, j), guess in self._predict(known).items()
        ]
        loss: Tensor = self.weight * average(losses, parts)
        return loss

    def _predict(
        self, known: Float[Tensor, "batch modality width"]
    ) -> dict[tuple[int, int], Float[Tensor, "batch width"]]:
        """Return what each modality i predicts of each other j, by ``(i, j)``."""
        return {(i, j): g(known[:, i]) for (i, j), g in zip(self.directions, self.predictors, strict=True)}


def info_nce(
    guess: Float[Tensor, "batch width"],
    target: Float[Tensor, "batch width"],
    valid: Bool[Tensor, "batch"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return the symmetric InfoNCE over log n, for the n valid rows; 0 where there are fewer than two."""
    cosines = unit(guess) @ unit(target).T / temperature
    both = valid[:, None] & valid
    # the lowest finite number, not -inf: a row without candidates must give a number, which is then left out
    logits = torch.where(both, cosines, torch.full_like(cosines, torch.finfo(cosines.dtype).min))
    found = logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()
    n = valid.sum()
    loss = torch.where(valid, -found, torch.zeros_like(found)).sum() / (2 * n.clamp(min=1))
    return guarded(loss / n.clamp(min=2).to(loss.dtype).log(), valid)
