"""Matching dimension by dimension through correlation over the batch."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import centred, detached, guarded, unit
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class Barlow(Alignment):
    """Makes the cross-correlation matrix the identity: ``sum_i (1 - R_ii)^2 + off_diagonal * sum_{i != j} R_ij^2``.

    Uses pairing; free of scale and mean, so collapse does not help: a constant column counts as uncorrelated, and
    costs 1. In [0, 4 d + off_diagonal d (d - 1)].

    ``chance`` is the exact mean over all pairings of the same rows.

    Source: Zbontar et al., ICML 2021, arXiv:2103.03230, eq. 1.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, off_diagonal: float = 5e-3) -> None:
        super().__init__()
        self.off_diagonal = hyper(off_diagonal)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _standard(pair)
        r = x.T @ y
        own = r.diagonal()
        others = r.square().sum() - own.square().sum()
        return guarded((1 - own).square().sum() + self.off_diagonal * others, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _standard(detached(pair))
        alive_x, alive_y = x.square().sum(0), y.square().sum(0)  # 1, or 0 for a constant column
        own = (alive_x * alive_y).sum()
        others = alive_x.sum() * alive_y.sum() - own
        return x.shape[1] + (own + self.off_diagonal * others) / (pair.valid.sum() - 1).clamp(min=1)


def _standard(pair: Pair) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
    """Return both modalities with columns of mean 0 and length 1."""
    return unit(centred(pair.x, pair.valid), 0), unit(centred(pair.y, pair.valid), 0)
