"""Matching partners directly while keeping both modalities from collapsing."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import covariance, detached, guarded, mean, rows
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class VICReg(Alignment):
    """Moves partners together, keeps every dimension's deviation above 1 and decorrelates the dimensions.

    ``invariance * mean (x - y)^2 + variance * hinge + covariance * (sum of squared covariances / d)``, the last two
    summed over both modalities, the hinge being the mean over dimensions of ``max(0, 1 - sqrt(var + 1e-4))``.

    ``chance`` is the exact mean over all pairings of the same rows: only the invariance term depends on pairing, so a
    loss at rest is above 0 wherever the other two terms are.

    Source: Bardes et al., ICLR 2022, arXiv:2105.04906.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(
        self, dim_x: int, dim_y: int, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        super().__init__()
        self.dim = dim_x
        self.invariance = hyper(invariance)
        self.variance = hyper(variance)
        self.covariance = hyper(covariance)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        gap = mean((rows(pair.x, pair.valid) - rows(pair.y, pair.valid)).square(), pair.valid).mean()
        return guarded(self.invariance * gap + self._spread(pair), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        x, y = rows(fixed.x, fixed.valid), rows(fixed.y, fixed.valid)
        squares = mean(x.square(), fixed.valid) + mean(y.square(), fixed.valid)
        gap = (squares - 2 * mean(x, fixed.valid) * mean(y, fixed.valid)).mean()
        return (self.invariance * gap + self._spread(fixed)).clamp(1e-6)

    def _spread(self, pair: Pair) -> Float[Tensor, ""]:
        """Return the terms that do not depend on pairing, over both modalities."""
        return self._spread_of(covariance(pair.x, pair.valid)) + self._spread_of(covariance(pair.y, pair.valid))

    def _spread_of(self, c: Float[Tensor, "dim dim"]) -> Float[Tensor, ""]:
        variances = c.diagonal()
        hinge = (1 - (variances + 1e-4).sqrt()).clamp(min=0).mean()
        others = (c.square().sum() - variances.square().sum()) / self.dim
        return self.variance * hinge + self.covariance * others
