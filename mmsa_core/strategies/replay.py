"""Going through the domains one after the other, with a memory of those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.noise import Noise
from mmsa_core.plugin import Need, Strategy, hyper
from mmsa_core.strategies._scales import ErrorScales
from mmsa_core.tensors import Batch, Outputs, Rows


class Replay(Strategy):
    """Trains on one domain (video) after the other, and with every batch again on ``replayed`` rows of a memory.

    The memory of ``memory`` rows is a reservoir: of k rows met so far, each is in it with probability memory / k. It
    keeps with a row the best prediction at the time, of the fusion or of the unimodal heads (where there are some), as
    judged by the label. Of the rows drawn from it, with replacement, the loss is ``supervised`` times the mean absolute
    error plus ``distill`` times the squared distance of the prediction to what is kept. Alignments and penalties see
    these rows too; label generators do not.

    Predictions combine the fusion's and those of the unimodal heads of available modalities, weighted by scale^-2, the
    scale being a running mean of the absolute error in training. With ``memory`` or ``replayed`` at 0 nothing is
    replayed.

    Source: Sarfraz et al., 2024, arXiv:2405.02766 (SAMM); the reservoir: Vitter, ACM TOMS 1985, algorithm R.
    Deviations: the best branch is chosen when a row is stored, by its distance to the label, not at every step by the
    probability of the class; only the fusion's prediction is drawn to what is kept, and unimodal heads learn from
    their labels alone; branches are weighted by their errors instead of calibrated confidences; every epoch goes
    through all domains anew, where the paper's never return. Its alignment of the modalities' structures is an
    alignment's affair.
    """

    forces: ClassVar[Mapping[str, Need]] = {}
    streams: ClassVar[bool] = True

    def __init__(
        self,
        modalities: tuple[str, ...],
        *,
        memory: int = 500,
        replayed: int = 32,
        supervised: float = 1.0,
        distill: float = 1.0,
    ) -> None:
        super().__init__()
        if memory < 0 or replayed < 0:
            raise UserError(f"replay: memory and replayed must be 0 (no replay) or more, got {memory} and {replayed}")
        if supervised < 0 or distill < 0:
            raise UserError(f"replay: supervised and distill must be 0 or more, got {supervised} and {distill}")
        self.supervised, self.distill = hyper(supervised), hyper(distill)
        self.appended = replayed if memory > 0 else 0
        self.rows = nn.Buffer(torch.zeros(memory, dtype=torch.int64))
        self.predictions = nn.Buffer(torch.zeros(memory))
        self.seen = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.scales = ErrorScales(1 + len(modalities))
        self.drawing, self.storing = Noise(), Noise()

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "shown"]:
        if self.appended == 0:
            return rows
        own = rows[torch.arange(self.appended, device=rows.device) % len(rows)]  # until there is anything in memory
        return torch.cat([rows, torch.where(self.seen > 0, self.rows[self._places()], own)])

    def view(self, batch: Batch, rows: Int[Tensor, "shown"]) -> Batch:
        return batch

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "shown"],
        rows: Int[Tensor, "shown"],
    ) -> Float[Tensor, ""]:
        n = len(rows) - self.appended
        loss = outputs.prediction.new_zeros(())
        if self.appended > 0:
            again = outputs.prediction[n:]
            error = (again - labels[n:]).abs().mean()
            drift = (again - self.predictions[self._places()]).square().mean()
            loss = torch.where(self.seen > 0, self.supervised * error + self.distill * drift, loss)
        with torch.no_grad():
            self._learn(outputs.first(n), batch.available[:n], labels[:n], rows[:n])
        return loss

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        answers, there = _branches(model(batch), batch.available)
        return (self.scales.weights(there, 2.0) * answers).sum(1)

    def _places(self) -> Int[Tensor, "{self.appended}"]:
        """Return the places in memory of the rows that this step replays; the same at every call before it learns."""
        filled = self.seen.clamp(min=1, max=len(self.rows))
        return self.drawing.bits((self.appended,)).long() % filled

    def _learn(
        self,
        outputs: Outputs,
        available: Bool[Tensor, "batch modality"],
        labels: Float[Tensor, "batch"],
        rows: Int[Tensor, "batch"],
    ) -> None:
        answers, there = _branches(outputs, available)
        errors = (answers - labels[:, None]).abs()
        self.scales.update(errors, there)
        best = torch.where(there, errors, torch.inf).argmin(1, keepdim=True)
        if len(self.rows) > 0:
            self._store(rows, answers.gather(1, best)[:, 0])

    def _store(self, rows: Int[Tensor, "batch"], predictions: Float[Tensor, "batch"]) -> None:
        """Offer the memory one row after the other: the k-th takes a place drawn from k, if there is such a place.

        Where several take the same one, the last has it.
        """
        count = torch.arange(len(rows), device=rows.device)
        met = self.seen + 1 + count
        drawn = self.storing.bits((len(rows),)).long() % met
        place = torch.where(met <= len(self.rows), met - 1, drawn)
        takes = place[:, None] == torch.arange(len(self.rows), device=rows.device)
        last = torch.where(takes, count[:, None], -1).amax(0)
        taken, row = last >= 0, last.clamp(min=0)
        self.rows.copy_(torch.where(taken, rows[row], self.rows))
        self.predictions.copy_(torch.where(taken, predictions[row], self.predictions))
        self.seen.add_(len(rows))


def _branches(
    outputs: Outputs, available: Bool[Tensor, "batch modality"]
) -> tuple[Float[Tensor, "batch branch"], Bool[Tensor, "batch branch"]]:
    """Return the predictions of the fusion and of each modality's head, and which of them there are."""
    heads = outputs.unimodal.shape[1] > 0
    unimodal = outputs.unimodal if heads else outputs.prediction.new_zeros(available.shape)
    there = available if heads else torch.zeros_like(available)
    fused = torch.ones_like(there[:, :1])
    return torch.cat([outputs.prediction[:, None], unimodal], 1), torch.cat([fused, there], 1)
