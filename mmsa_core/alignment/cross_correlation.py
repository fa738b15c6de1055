"""Making every dimension of one modality uncorrelated with every dimension of the other."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import centred, detached, guarded, norm, unit
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class CrossCorrelation(Alignment):
    """Removes linear dependence between two modalities: the mean squared correlation of their dimensions, in [0, 1].

    Uses pairing; free of scale and mean. A constant column counts as uncorrelated.

    ``chance`` is the Cauchy-Schwarz bound ``||R_xx|| ||R_yy|| / (d_x d_y)``, which identical features reach; unrelated
    ones have the mean ``1 / (n - 1)`` before division by it.

    Source: the cross-correlation matrix of Zbontar et al., ICML 2021, arXiv:2103.03230, eq. 2, used as a penalty.
    """

    role: ClassVar[Literal["shared", "private"]] = "private"
    equal_dims: ClassVar[bool] = False

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _standard(pair)
        return guarded((x.T @ y).square().mean(), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _standard(detached(pair))
        return (norm(x.T @ x) * norm(y.T @ y) / (x.shape[1] * y.shape[1])).clamp(1e-6)


def _standard(pair: Pair) -> tuple[Float[Tensor, "batch dim_x"], Float[Tensor, "batch dim_y"]]:
    """Return both modalities with columns of mean 0 and length 1."""
    return unit(centred(pair.x, pair.valid), 0), unit(centred(pair.y, pair.valid), 0)
