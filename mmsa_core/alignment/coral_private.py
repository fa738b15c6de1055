"""The bounded private counterpart of covariance matching."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import covariance, guarded, norm, ratio
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class CoralPrivate(Alignment):
    """Pushes the covariances of two modalities apart: their cosine ``tr(Cx Cy) / (||Cx|| ||Cy||)``, in [0, 1].

    CORAL with a negative weight would do the same without end: scaling x by s makes it fall as ``-s^4``, so training
    inflates the features and never returns. The cosine is free of scale and 0 is reached when the modalities vary in
    orthogonal directions. Like CORAL it is blind to pairing and to means; unrelated white noise gives nearly 1.

    ``chance`` is 1: identical features. A constant modality gives 0.

    Source: this project; the bounded form of Sun and Saenko, ECCV Workshops 2016, arXiv:1607.01719, eq. 1.
    """

    role: ClassVar[Literal["shared", "private"]] = "private"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        cx, cy = covariance(pair.x, pair.valid), covariance(pair.y, pair.valid)
        return guarded(ratio((cx * cy).sum(), norm(cx) * norm(cy)), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        return pair.x.detach().new_ones(())
