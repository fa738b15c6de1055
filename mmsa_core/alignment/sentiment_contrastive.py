"""Bringing samples together across modalities by how alike their sentiment is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._kinds import ConditionalAlignment, Need
from mmsa_core.alignment._moments import average, count, detached, guarded
from mmsa_core.alignment._similarity import among, cosines, different, log_distribution
from mmsa_core.errors import UserError
from mmsa_core.plugin import hyper
from mmsa_core.tensors import Pair


class SentimentContrastive(ConditionalAlignment):
    """Makes each row resemble the other modality's rows of like label: supervised contrast graded by label distance.

    ``- sum_j k_ij log softmax_j(cos(x_i, y_j) / temperature)`` over the other rows j, and the same from y to x; the
    targets ``k_ij`` are proportional to ``exp(-|label_i - label_j| / scale)`` (``scale`` in units of the label) and sum
    to 1 in each row. A row's own partner is no candidate. As ``scale`` goes to 0 only equal labels attract.

    It is a cross-entropy: features that follow the labels perfectly still cost the entropy of the targets, so the loss
    at rest is above 0, more so for a large ``scale``. ``chance`` is log(n - 1), the guess, exact for constant features
    and any labels (at least log 2: two rows have nothing to choose from).

    Source: the sentiment-based contrastive loss of MMCL, Lin and Hu, Findings of EMNLP 2022, arXiv:2210.14556, between
    the modalities themselves (its predictions of one from the other: ``cross_prediction``); its formula is rebuilt from
    the abstract, with the kernel of Dufumier et al., MICCAI 2021, arXiv:2106.08808, for labels on a line.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 0.1, scale: float = 0.5) -> None:
        super().__init__()
        if scale <= 0:
            raise UserError(f"sentiment_contrastive.scale: must be above 0, got {scale}")
        self.temperature = hyper(temperature)
        self.scale = hyper(scale)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        others = different(pair.valid)
        labels = torch.where(pair.valid, pair.labels, torch.zeros_like(pair.labels))
        targets = among(-(labels[:, None] - labels).abs() / self.scale, others).softmax(1)
        logits = cosines(pair.x, pair.y, pair.valid) / self.temperature
        found = log_distribution(logits, others) + log_distribution(logits.T, others)
        return guarded(average(-(targets * found).sum(1), pair.valid) / 2, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        return (count(detached(pair)) - 1).clamp(min=2).log()
