"""Letting each modality see the similarities between samples that the fused representation sees."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.alignment._moments import average, detached, guarded
from mmsa_core.alignment._similarity import cosines, different, log_distribution
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class InterAlignment(Alignment):
    """Makes each modality rank the rows of the batch as the fused representation does: KL(fused || modality).

    For each row the softmax of its cosines with all other rows, divided by ``temperature``, is a distribution; the
    fused one is the teacher, without gradient. Averaged over the rows and the two modalities. The modalities need not
    match coordinate by coordinate, so the widths may differ.

    ``chance`` is the exact mean over all pairings of the teacher's rows with the modality's:
    ``KL(fused || uniform) + KL(uniform || modality)``. A collapsed modality (all similarities alike) comes out at 1 as
    well as one with a structure of its own. The KL against uniform rows alone would leave out the second term, and put
    unrelated modalities at 2 times chance, more the more structure they have.

    Source: MCLEA's inter-modal alignment loss (IAL), Lin et al., COLING 2022, arXiv:2209.00891. Its two directions are
    those between two knowledge graphs; one batch has one view, whose similarities are symmetric, so they coincide, and
    we average over the two modalities. The mean is over rows, not over entries as in its code, so that a weight means
    the same for every batch size; its factor ``zoom`` is left to the weight; the diagonal is left out, not -1e9.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = False

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = hyper(temperature)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        others = different(pair.valid)
        teacher = self._log_rows(pair.joint.detach(), pair, others)
        gaps = [_weighted(teacher, teacher - self._log_rows(v, pair, others), others) for v in (pair.x, pair.y)]
        return guarded(average(gaps[0] + gaps[1], pair.valid) / 2, pair.valid).to(pair.x.dtype)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed, others = detached(pair), different(pair.valid)
        teacher = self._log_rows(fixed.joint, fixed, others)
        known = average(_weighted(teacher, teacher, others), pair.valid)
        spread = [self._log_rows(v, fixed, others).sum() / others.sum().clamp(min=1) for v in (fixed.x, fixed.y)]
        return (known - (spread[0] + spread[1]) / 2).clamp(1e-8).to(pair.x.dtype)

    def _log_rows(
        self, values: Float[Tensor, "batch dim"], pair: Pair, others: Bool[Tensor, "batch batch"]
    ) -> Float[Tensor, "batch batch"]:
        """Return the log of each row's distribution over the other rows.

        In double: such distributions are all but uniform, and the divergences as small as float32's rounding.
        """
        values = values.double()
        return log_distribution(cosines(values, values, pair.valid) / self.temperature, others)


def _weighted(
    log_weights: Float[Tensor, "batch batch"], values: Float[Tensor, "batch batch"], others: Bool[Tensor, "batch batch"]
) -> Float[Tensor, "batch"]:
    """Return each row's mean of ``values`` under its distribution."""
    return torch.where(others, log_weights.exp() * values, torch.zeros_like(values)).sum(1)
