"""Matching the distances between samples."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import detached, guarded, rows, square_distances, unit
from mmsa_core.alignment._similarity import different
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair

EPS = 1e-6  # added to squared distances: float32 leaves about 1e-7 between equal rows, and the root's slope is infinite


class Relational(Alignment):
    """Makes samples lie as far from each other in one modality as in the other: distance-wise relational distillation.

    Rows are scaled to length 1; their distances, divided by the mean distance of different rows, are compared by
    SmoothL1, each modality being the target of the other, without gradient, and the two directions averaged. Uses
    pairing; free of rotation and of each row's scale, so the widths may differ.

    ``chance`` is half the sum of both variances of the distances, the mean over all pairings wherever no two distances
    differ by more than 1 mean (SmoothL1 is a square there), and above it otherwise.

    Source: Structure-aware alignment of SAMM, Sarfraz et al., 2024, arXiv:2405.02766; Park et al., CVPR 2019,
    arXiv:1904.05068, eq. 4. We compare embeddings, not logits: of one regression output only the sign would be left of
    a row of length 1. The diagonal is left out of both means, and the root has an eps, for its gradient.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = False

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _relative_distances(pair.x, pair), _relative_distances(pair.y, pair)
        gaps = F.smooth_l1_loss(x, y.detach(), reduction="none") + F.smooth_l1_loss(y, x.detach(), reduction="none")
        return guarded(_mean(gaps, pair) / 2, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        x, y = _relative_distances(fixed.x, fixed), _relative_distances(fixed.y, fixed)
        return (_mean((x - 1).square() + (y - 1).square(), fixed) / 2).clamp(1e-6)


def _relative_distances(values: Float[Tensor, "batch dim"], pair: Pair) -> Float[Tensor, "batch batch"]:
    """Return the distances between rows of length 1, with mean 1 over different valid rows."""
    directions = unit(rows(values, pair.valid), 1)
    distances = (square_distances(directions, directions) + EPS).sqrt()
    return distances / _mean(distances, pair).clamp(min=EPS)


def _mean(values: Float[Tensor, "batch batch"], pair: Pair) -> Float[Tensor, ""]:
    """Return the mean over pairs of different valid rows; 0 where there are none."""
    others = different(pair.valid)
    return torch.where(others, values, torch.zeros_like(values)).sum() / others.sum().clamp(min=1)
