"""One modality a step through one shared head, which keeps its answers for the modality before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.plugin import Need, ProjectingStrategy, hyper
from mmsa_core.strategies._scales import ErrorScales
from mmsa_core.strategies._views import alone
from mmsa_core.tensors import Batch, Outputs, Rows


class Alternating(ProjectingStrategy):
    """Shows one modality a step, in turn, and combines the predictions made of each alone.

    All modalities share the head: the sum of one is its projection. A sample that lacks the modality of the step shows
    the next that it has.

    ``projection``: the weight of the head's first layer learns from P x in place of its input x, so that its answers
    for directions that earlier modalities took hardly change: P h = alpha / (alpha + |h|^2) h. P starts every cycle
    through the modalities as the identity and becomes P - P H' (alpha I + H P H')^-1 H P after each step, H being the
    means of ``block`` parts of what the step handed to the head; 1, the mean of the batch, protects one direction.

    Predictions weigh each available modality by its scale^-``sharpness``, the scale being a running mean of its
    absolute error in training: 1 corresponds to the paper's weights by entropy, 2 to precisions, 0 weighs all alike.

    Source: Zhang et al., CVPR 2024, arXiv:2311.10707 (MLA). Deviations: each batch is shown to one modality, not to all
    in turn. P starts anew in every cycle: it only ever shrinks, and would end by stopping the head altogether, first
    where each modality's own inputs lie. ``alpha`` is constant. P is the formula's; the released code divides by a
    matrix, element by element, in a function that never runs. Weights are a modality's, not a sample's: a regression
    has no entropy. The head's other layers and its biases are not projected, and AdamW scales and carries on what is:
    with it the protection is partial.
    """

    forces: ClassVar[Mapping[str, Need]] = {
        "fusion": Need("sum", "one head reads whichever modality is shown, and only a sum of one modality is itself"),
        "alignment": Need("none", "a step shows one modality, which leaves no pair to compare"),
    }
    streams: ClassVar[bool] = False

    def __init__(
        self,
        modalities: tuple[str, ...],
        dim: int,
        *,
        alpha: float = 0.1,
        sharpness: float = 1.0,
        block: int = 1,
        projection: bool = True,
    ) -> None:
        super().__init__()
        if alpha <= 0:
            raise UserError(f"alternating.alpha: must be above 0, got {alpha}; set projection: false for no projection")
        if sharpness < 0:
            raise UserError(f"alternating.sharpness: must be 0 (all alike) or more, got {sharpness}")
        if block < 1:
            raise UserError(f"alternating.block: must be 1 (the batch's mean) or more, got {block}")
        self.alpha, self.sharpness = hyper(alpha), hyper(sharpness)
        self.block, self.projection = block, projection
        self.step = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.projector = nn.Buffer(torch.eye(dim if projection else 0))
        self.scales = ErrorScales(len(modalities))

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "batch"]:
        return rows

    def view(self, batch: Batch, rows: Int[Tensor, "batch"]) -> Batch:
        count = batch.available.shape[1]
        turn = (torch.arange(count, device=rows.device) - self.step) % count
        waits = torch.where(batch.available, turn, count)
        return batch._replace(available=batch.available & (waits == waits.amin(1, keepdim=True)))

    def project(self, x: Float[Tensor, "shown dim"]) -> Float[Tensor, "shown dim"]:
        return x @ self.projector if self.projection else x

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "batch"],
        rows: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        shown = batch.available
        with torch.no_grad():
            errors = (outputs.prediction - labels).abs()
            self.scales.update(errors[:, None].expand(-1, shown.shape[1]), shown)
            self.step.add_(1)
            if self.projection:
                starts = self.step % shown.shape[1] == 0
                means = block_means(outputs.fusion, shown.any(1), self.block)
                projector = shrunk(self.projector, means, self.alpha)
                self.projector.copy_(torch.where(starts, torch.eye(len(projector), device=rows.device), projector))
        return outputs.prediction.new_zeros(())

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        answers = [model(alone(batch, m)).prediction for m in range(len(batch.features))]
        return (self.scales.weights(batch.available, self.sharpness) * torch.stack(answers, 1)).sum(1)


def block_means(
    x: Float[Tensor, "batch dim"], shown: Bool[Tensor, "batch"], blocks: int
) -> Float[Tensor, "{blocks} dim"]:
    """Return the means over the ``shown`` rows of runs of about equal length; 0 for a run without any."""
    run = torch.arange(len(x), device=x.device) * blocks // len(x)
    belongs = (run == torch.arange(blocks, device=x.device)[:, None]) & shown
    total = belongs.to(x.dtype) @ torch.where(shown[:, None], x, torch.zeros_like(x))
    return total / belongs.sum(1, keepdim=True).clamp(min=1)


def shrunk(
    projector: Float[Tensor, "dim dim"], rows: Float[Tensor, "row dim"], alpha: Float[Tensor, ""] | float
) -> Float[Tensor, "dim dim"]:
    """Return P - P R' (alpha I + R P R')^-1 R P for the rows R, one row after the other (recursive least squares).

    Beside the square of a row so long that rounding hides ``alpha``, it counts for what rounding leaves: less would
    make the rounding grow from row to row.
    """
    rounding = 16 * torch.finfo(rows.dtype).eps
    for row in rows.unbind(0):
        seen = projector @ row
        least = torch.clamp(rounding * row.square().sum(), min=alpha)
        projector = projector - torch.outer(seen, seen) / (least + (row @ seen).clamp(min=0))
    return projector
