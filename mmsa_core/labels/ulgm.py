"""Self-MM's self-supervised unimodal labels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmsa_core.plugin import LabelGenerator, hyper
from mmsa_core.tensors import LabelTable, Outputs

EPSILON = 1e-8


class UnimodalLabelGeneration(LabelGenerator):
    """Move each unimodal label away from the multimodal one by how far its representation lies between the classes.

    Every training row keeps its representations; their class means are the centres. From the second epoch on a batch's
    labels move, before its representations are stored, by the relative distance to the centres; the running mean weighs
    epoch n with 2/(n+1). A label counts by tanh of its distance to the multimodal label, so all unimodal losses are
    exactly zero in the first two epochs; ``floor`` adds a constant to that weight (0 is the original).

    ``exclude_zero`` keeps rows with label 0 out of the positive centre (MMSA since 2022; False is the authors' own
    code). Deviations: an empty class leaves the labels as they are (the original makes them NaN), class sums are kept
    up to date by differences instead of being summed anew at every step, and labels are clamped to the range of the
    training labels (the original's H, set by hand).

    Source: Yu et al., AAAI 2021, arXiv:2102.04830, eq. 7-12 and section 3.3; the authors' and MMSA's code for the
    order.
    """

    def __init__(
        self, table: LabelTable, fused: int, post: int, *, exclude_zero: bool = True, floor: float = 0.0
    ) -> None:
        super().__init__()
        rows, tasks = len(table.labels), table.modalities + 1
        self.exclude_zero = exclude_zero
        self.widths = [fused] + [post] * table.modalities
        self.floor = hyper(floor)
        self.bound = hyper(float(table.labels.abs().max()))
        self.labels = nn.Buffer(table.labels[:, None].repeat(1, tasks))
        self.features = nn.Buffer(torch.zeros(rows, sum(self.widths)))
        members = self._classes(self.labels)
        self.counts = nn.Buffer(members.sum(0))
        self.sums = nn.Buffer(torch.zeros(2, sum(self.widths)))

    def targets(
        self, rows: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
        labels = self.labels[rows]
        return labels[:, 1:], torch.tanh((labels[:, 1:] - labels[:, :1]).abs()) + self.floor

    def update(self, rows: Int[Tensor, "batch"], outputs: Outputs, epoch: Int[Tensor, ""]) -> None:
        features = torch.cat([outputs.fused, *outputs.representations], 1).detach()
        old_features, old_labels = self.features[rows], self.labels[rows]
        new_labels = torch.where(epoch > 1, self._moved(old_labels, features, epoch), old_labels)
        before, after = self._classes(old_labels), self._classes(new_labels)
        self.sums.add_(self._class_sums(after, features) - self._class_sums(before, old_features))
        self.counts.add_((after - before).sum(0))
        self.features[rows] = features
        self.labels[rows] = new_labels

    def _classes(self, labels: Float[Tensor, "batch task"]) -> Float[Tensor, "batch 2 task"]:
        """Return membership in the positive and in the negative class."""
        positive = labels > 0 if self.exclude_zero else labels >= 0
        return torch.stack([positive, labels < 0], 1).float()

    def _class_sums(
        self, classes: Float[Tensor, "batch 2 task"], features: Float[Tensor, "batch all"]
    ) -> Float[Tensor, "2 all"]:
        parts = features.split(self.widths, 1)
        return torch.cat([classes[:, :, k].T @ part for k, part in enumerate(parts)], 1)

    def _moved(
        self, labels: Float[Tensor, "batch task"], features: Float[Tensor, "batch all"], epoch: Int[Tensor, ""]
    ) -> Float[Tensor, "batch task"]:
        """Return the labels after this epoch's step of the running mean."""
        repeats = torch.tensor(self.widths, device=features.device)
        centres = self.sums / torch.repeat_interleave(
            self.counts.clamp(min=1), repeats, 1, output_size=sum(self.widths)
        )
        gaps = (features[:, None] - centres).square().split(self.widths, 2)
        distance = torch.stack([g.sum(2) for g in gaps], 2).sqrt()
        relative = (distance[:, 1] - distance[:, 0]) / (distance[:, 0] + EPSILON)
        fused, own = relative[:, :1], relative[:, 1:]
        target = labels[:, :1]
        moved = 0.5 * own / (fused + EPSILON) * target + 0.5 * (target + own - fused)
        moved = torch.minimum(torch.maximum(moved, -self.bound), self.bound)
        known = (self.counts > 0).all(0)
        usable = known[1:] & known[:1]
        mean = (epoch - 1) / (epoch + 1) * labels[:, 1:] + 2 / (epoch + 1) * moved
        return torch.cat([target, torch.where(usable, mean, labels[:, 1:])], 1)
