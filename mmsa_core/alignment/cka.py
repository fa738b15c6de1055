"""Matching the similarity structure of the samples."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import covariance, cross_covariance, detached, guarded, norm, ratio
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class CKA(Alignment):
    """Matches which samples resemble each other: 1 less linear centred kernel alignment, in [0, 1].

    Uses pairing; free of scale, mean and rotation, so the widths may differ. Constant features give 1.

    ``chance`` is the exact mean over all pairings of the same rows, ``1 - tr Cx tr Cy / ((n - 1) ||Cx|| ||Cy||)``: the
    estimate is biased, and wide features in a small batch look alike by accident.

    Source: Kornblith et al., ICML 2019, arXiv:1905.00414.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = False

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        cx, cy = covariance(pair.x, pair.valid), covariance(pair.y, pair.valid)
        likeness = ratio(cross_covariance(pair).square().sum(), norm(cx) * norm(cy))
        return guarded(1 - likeness, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        x, y, valid, *_ = detached(pair)
        cx, cy = covariance(x, valid), covariance(y, valid)
        likeness = ratio(cx.trace() * cy.trace(), norm(cx) * norm(cy)) / (valid.sum() - 1).clamp(min=1)
        return (1 - likeness).clamp(1e-2)  # two rows always look alike: then the loss is rounding noise, and stays so
