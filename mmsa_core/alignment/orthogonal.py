"""Making two modalities' feature directions orthogonal over the batch."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import centred, detached, guarded, norm, unit
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class Orthogonal(Alignment):
    """Makes two modalities share no direction: the mean squared entry of ``X'Y``, rows centred and of length 1.

    In [0, n^2 / (d_x d_y)] for n rows (MISA's difference loss takes the mean, not the sum, of the squares).
    We do not detach the row lengths as MISA does: detached, the gradient rewards shrinking the features, although the
    value does not change.

    ``chance`` is the Cauchy-Schwarz bound ``||X'X|| ||Y'Y|| / (d_x d_y)``, which identical features reach.
    Unrelated ones come out at about ``d / (n + d)`` of it: the finite batch, not a shared direction.

    Source: Hazarika et al., ACM MM 2020, arXiv:2005.03545; Bousmalis et al., NeurIPS 2016, arXiv:1608.06019.
    """

    role: ClassVar[Literal["shared", "private"]] = "private"
    equal_dims: ClassVar[bool] = False

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _directions(pair)
        return guarded((x.T @ y).square().mean(), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        x, y = _directions(detached(pair))
        return (norm(x.T @ x) * norm(y.T @ y) / (x.shape[1] * y.shape[1])).clamp(1e-6)


def _directions(pair: Pair) -> tuple[Float[Tensor, "batch dim_x"], Float[Tensor, "batch dim_y"]]:
    """Return the centred rows of both modalities, scaled to length 1."""
    return unit(centred(pair.x, pair.valid), 1), unit(centred(pair.y, pair.valid), 1)
