"""Unimodal labels that say what a modality alone can know."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.labels._table import constant
from mmsa_core.plugin import LabelGenerator
from mmsa_core.tensors import LabelTable, Outputs


class OutOfFoldLabels(LabelGenerator):
    """Teach every unimodal head what a ridge regression on that modality alone predicts of the multimodal label.

    The regression reads the time-averaged features and is cross-fitted by video: no label is predicted by a model that
    saw a clip of the same video, because predictions of rows that a model was fitted to are too sure of themselves. A
    row without the modality does not count.

    Source: the pseudo-labels of Zhang et al., NeurIPS 2023, arXiv:2306.12795 (Learning Unseen Modality Interaction),
    whose second branch learns what frozen unimodal networks say. Deviations: a regression in place of a network's
    softmax; out of fold instead of in sample; and it is the unimodal heads that learn, so that the prediction is the
    fused head's alone instead of the mean of two branches.
    """

    def __init__(self, table: LabelTable, fused: int, post: int) -> None:
        super().__init__()
        assert table.out_of_fold is not None
        made = table.out_of_fold()
        self.table = constant(made.labels)
        self.counts = constant(made.counts)

    def targets(
        self, rows: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
        return self.table[rows], self.counts[rows]

    def update(self, rows: Int[Tensor, "batch"], outputs: Outputs, epoch: Int[Tensor, ""]) -> None:
        """Nothing is learned."""
