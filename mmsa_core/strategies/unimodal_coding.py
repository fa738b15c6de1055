"""Making audio and vision keep what survives small changes of their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.noise import Normal, Uniform
from mmsa_core.plugin import Need, Strategy, hyper
from mmsa_core.strategies._views import empty, kept
from mmsa_core.tensors import Batch, Features, Outputs, Rows

CODED = ("audio", "vision")
TINY = 1e-12


class UnimodalCoding(Strategy):
    """Adds a contrastive loss to audio and vision: of each, two altered views of a sample should be encoded alike.

    A view lacks each feature (in all frames) with probability ``features`` and each frame with probability ``steps``,
    at least one of either stays, and has Gaussian noise of standard deviation ``noise``; padding is as it was. What is
    altered are the prepared features: those of an encoder that pools over time have a single frame, which stays.

    The loss is ``weight`` times the sum over the two (those in use) of symmetric InfoNCE between the views' embeddings,
    cosines divided by ``temperature``, over its chance value log n. Samples without the modality are no candidates. The
    two views differ by the encoder's dropout too. Batch and predictions are the plain model's.

    Source: uni-modal contrastive coding of MMCL, Lin and Hu, Findings of EMNLP 2022, arXiv:2210.14556; cutoff: Shen et
    al., 2020, arXiv:2009.13818. MMCL has published no code: how strongly views are altered is this project's choice.
    """

    forces: ClassVar[Mapping[str, Need]] = {}
    streams: ClassVar[bool] = False

    def __init__(
        self,
        modalities: tuple[str, ...],
        *,
        weight: float = 0.1,
        temperature: float = 0.1,
        features: float = 0.1,
        steps: float = 0.1,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        if weight < 0 or noise < 0 or temperature <= 0:
            raise UserError(
                "unimodal_coding: weight and noise must be 0 or more and temperature above 0, got "
                f"{weight}, {noise} and {temperature}"
            )
        if not (0 <= features <= 1 and 0 <= steps <= 1):
            raise UserError(f"unimodal_coding: features and steps must lie between 0 and 1, got {features} and {steps}")
        self.weight, self.temperature = hyper(weight), hyper(temperature)
        self.features, self.steps, self.noise = hyper(features), hyper(steps), hyper(noise)
        self.coded = tuple(k for k, m in enumerate(modalities) if m in CODED)
        self.alterations = nn.ModuleList(_Alteration() for _ in self.coded)

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "batch"]:
        return rows

    def view(self, batch: Batch, rows: Int[Tensor, "batch"]) -> Batch:
        return batch

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "batch"],
        rows: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        total = outputs.prediction.new_zeros(())
        if not self.coded:
            return total
        embeddings = model(self._views(batch)).embeddings
        for k in self.coded:
            one, other = embeddings[k].chunk(2)
            valid = batch.available[:, k]
            total = total + info_nce(one, other, valid, self.temperature) / valid.sum().clamp(min=2).log()
        weighted: Tensor = self.weight * total
        return weighted

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        return model(batch).prediction

    def _views(self, batch: Batch) -> Batch:
        """Return both views, one after the other in one batch, so that their dropout differs; the text is left out."""
        twice = [Features(torch.cat([f.values, f.values]), torch.cat([f.mask, f.mask])) for f in batch.features]
        altered = [empty(f) for f in twice]
        for k, alter in zip(self.coded, self.alterations, strict=True):
            altered[k] = alter(twice[k], self.features, self.steps, self.noise)
        there = [a if k in self.coded else torch.zeros_like(a) for k, a in enumerate(batch.available.unbind(1))]
        return Batch(tuple(altered), torch.stack(there, 1).repeat(2, 1))


class _Alteration(nn.Module):
    """Cutoff and noise of one modality."""

    def __init__(self) -> None:
        super().__init__()
        self.columns, self.frames, self.jitter = Uniform(), Uniform(), Normal()

    def forward(
        self, given: Features, features: Float[Tensor, ""], steps: Float[Tensor, ""], noise: Float[Tensor, ""]
    ) -> Features:
        batch, time, dim = given.values.shape
        every = torch.ones((batch, dim), dtype=torch.bool, device=given.mask.device)
        columns = kept(self.columns((batch, dim)), features, every)
        frames = kept(self.frames((batch, time)), steps, given.mask)
        noisy = given.values + noise * self.jitter((batch, time, dim))
        cut = torch.where(columns[:, None] & frames[:, :, None], noisy, torch.zeros_like(noisy))
        return Features(torch.where(given.mask[:, :, None], cut, given.values), given.mask)


def info_nce(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    valid: Bool[Tensor, "batch"],
    temperature: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding each valid row's partner among the valid rows, both ways, averaged; 0 for
    fewer than two."""
    logits = _unit(a, valid) @ _unit(b, valid).T / temperature
    # the lowest finite number, not -inf: a row without candidates must give a number, which is then left out
    held = torch.where(valid[:, None] & valid, logits, torch.full_like(logits, torch.finfo(logits.dtype).min))
    found = held.log_softmax(0).diagonal() + held.log_softmax(1).diagonal()
    return torch.where(valid, -found, torch.zeros_like(found)).sum() / (2 * valid.sum().clamp(min=1))


def _unit(x: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    """Return the valid rows with length 1; a row of length 0 stays, without a gradient."""
    x = torch.where(valid[:, None], x, torch.zeros_like(x))
    squares = x.square().sum(1, keepdim=True)
    none = squares <= TINY
    return torch.where(none, torch.zeros_like(x), x * torch.where(none, torch.ones_like(squares), squares).rsqrt())
