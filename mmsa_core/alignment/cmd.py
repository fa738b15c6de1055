"""Matching distributions moment by moment."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import centred, detached, guarded, mean, root
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class CMD(Alignment):
    """Matches means and central moments up to order ``moments`` by Euclidean distance (MISA's similarity loss).

    Without the paper's factors 1 / |b - a|^k, as in MISA: meant for bounded features; with unbounded ones the highest
    moment rules. Blind to pairing and to dependence between dimensions. Shifting one modality by c in every dimension
    costs exactly ``c sqrt(d)``.

    ``chance`` takes every distance at right angles, ``sqrt(|a|^2 + |b|^2)`` per order. Unrelated features of like
    distribution come out far lower, as pairing does not count.

    Source: Zellinger et al., ICLR 2017, arXiv:1702.08811; as a similarity loss: Hazarika et al., ACM MM 2020,
    arXiv:2005.03545.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, moments: int = 5) -> None:
        super().__init__()
        self.moments = moments

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        gaps = self._moments(pair.x, pair) - self._moments(pair.y, pair)
        return guarded(root(gaps.square().sum(1)).sum(), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        squares = self._moments(fixed.x, fixed).square() + self._moments(fixed.y, fixed).square()
        return root(squares.sum(1)).sum().clamp(1e-6)

    def _moments(self, values: Float[Tensor, "batch dim"], pair: Pair) -> Float[Tensor, "moment dim"]:
        moved = centred(values, pair.valid)
        central = [mean(moved**k, pair.valid) for k in range(2, self.moments + 1)]
        return torch.stack([mean(values, pair.valid), *central])
