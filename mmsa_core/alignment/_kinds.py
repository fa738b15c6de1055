"""Alignments whose aim takes more than two modalities that match."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from mmsa_core.plugin import Alignment

Need = Literal["training", "labels", "order", "common mean", "entropy"]


class ConditionalAlignment(Alignment, ABC):
    """An alignment that keeps the contract under conditions, which it declares.

    Attributes:
        needs: ``training``: it has parameters of its own, and its aim cannot be met before they are trained.
            ``labels``: rows belong together by their labels, not by being partners.
            ``order``: what a row is compared with depends on the order of the batch (up to a rotation).
            ``common mean``: a gap between the modalities' means costs more than a guess.
            ``entropy``: met as well as can be, the loss is still that of what remains unknown, and not near 0.
    """

    needs: ClassVar[frozenset[Need]]
