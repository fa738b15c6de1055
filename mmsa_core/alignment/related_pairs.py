"""Telling which modalities belong together by a model of what both are made of."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.alignment._experts import Decoder, Expert, Gaussian, least, product
from mmsa_core.alignment._kinds import ConditionalAlignment, Need
from mmsa_core.alignment._moments import average, centred, count, detached, guarded, mean
from mmsa_core.alignment._similarity import among
from mmsa_core.errors import UserError
from mmsa_core.noise import Normal
from mmsa_core.plugin import hyper
from mmsa_core.tensors import Pair

STILL = 1e-4  # a variance of the embeddings that counts as little


class RelatedPairs(ConditionalAlignment):
    """Makes related pairs likelier than unrelated ones under a small multimodal variational autoencoder of the pair.

    One latent variable makes both modalities; what each says of it is multiplied (product of experts). The loss is
    ``(gamma - 1)`` times the negative evidence lower bound, of the pair and of each modality alone, plus the
    cross-entropy of finding the related pair among itself and ``negatives`` unrelated ones per direction: one modality
    shifted cyclically within the valid rows, with the noise of the row. Pairs are scored by pointwise mutual
    information, ``log p(x, y) - log p(x) - log p(y)``, each by its bound.

    Encoders and decoders see the embeddings standardised over the batch. The decoders' target has no gradient: the
    embeddings learn through the encoders what says more of the other modality, not to be easy to predict.

    ``chance`` is that of a model that knows means and variances alone, and a guess among the pairs.

    Source: Shi et al., ICLR 2021, arXiv:2007.01179; the autoencoder: Wu and Goodman, NeurIPS 2018, arXiv:1802.05335.
    Their loss ``-gamma log p(x, y) + log sum_j p(x, y_j)`` is ``gamma - 1`` times the negative log likelihood plus the
    cross-entropy if the related pair is among the y_j; we take it in, for over unrelated ones alone the loss has no
    lower bound. Marginals are subtracted: by likelihood alone unrelated modalities do not come out at a guess, as rows
    far from the mean lose to others, and the decoders widen to make up for it. The bound is taken per dimension and
    counts from the highest density that the decoders' variances (at least exp(-4)) allow, so that it is above 0 and
    does not drown the contrast.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"training", "order", "entropy"})

    def __init__(
        self, dim_x: int, dim_y: int, *, gamma: float = 2.0, latent: int = 8, hidden: int = 32, negatives: int = 5
    ) -> None:
        super().__init__()
        if gamma < 1:
            raise UserError(f"related_pairs.gamma: must be 1 (contrast alone) or more, got {gamma}")
        if negatives < 1:
            raise UserError(f"related_pairs.negatives: must be 1 or more, got {negatives}")
        self.gamma = hyper(gamma)
        self.negatives = negatives
        self.latent = latent
        self.dims = dim_x + dim_y
        self.expert_x, self.expert_y = Expert(dim_x, hidden, latent), Expert(dim_y, hidden, latent)
        self.decoder_x, self.decoder_y = Decoder(latent, hidden, dim_x), Decoder(latent, hidden, dim_y)
        self.noise = Normal()

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        values = _standard(pair.x, pair.valid), _standard(pair.y, pair.valid)
        x = _Side(values[0].detach(), self.expert_x(values[0]), self.decoder_x)
        y = _Side(values[1].detach(), self.expert_y(values[1]), self.decoder_y)
        moves = shifts(pair.valid, self.negatives).to(pair.x.dtype)
        noise = self._noise(pair)
        joint, y_alone = _bounds(x, y, moves, noise)
        swapped, x_alone = _bounds(y, x, moves, noise)
        wraps = torch.arange(len(moves), device=moves.device) >= count(pair)  # as many shifts as rows: the pair itself
        found = _log_share(joint - y_alone, ~wraps) + _log_share(swapped - x_alone, ~wraps)
        below = 2 * (self.decoder_x.highest() + self.decoder_y.highest()) - joint[0] - x_alone[0] - y_alone[0]
        loss = (self.gamma - 1) * below / (2 * self.dims) - found / 2
        return guarded(average(loss, pair.valid), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        squares = torch.cat([mean(_standard(v, pair.valid).square(), pair.valid) for v in (fixed.x, fixed.y)])
        candidates = 1 + (count(fixed) - 1).clamp(min=1, max=self.negatives)
        return (self.gamma - 1) * least(squares).mean() + candidates.log()

    def _noise(self, pair: Pair) -> Float[Tensor, "batch latent"]:
        """Return one draw per valid row, whatever rows lie between; the mean, 0, in evaluation."""
        shape = (len(pair.valid), self.latent)
        if not self.training:
            return pair.x.new_zeros(shape)
        drawn: Tensor = self.noise(shape).to(pair.x.dtype)
        return drawn[(pair.valid.cumsum(0) - 1).clamp(min=0)]


class _Side(NamedTuple):
    """One modality: what is to be explained, what it says of the latent variable, and its decoder."""

    target: Float[Tensor, "batch dim"]
    says: Gaussian
    decoder: Decoder


def shifts(valid: Bool[Tensor, "batch"], count: int) -> Bool[Tensor, "shift batch batch"]:
    """Return which row each valid row meets when the other modality is moved by 0, 1, ... ``count`` valid rows.

    As a matrix product, a row's gradient is summed in the same order on every device; an index's is not.
    """
    rank = valid.cumsum(0) - 1
    step = torch.arange(count + 1, device=valid.device)[:, None]
    wanted = (rank + step) % valid.sum().clamp(min=1)
    return (wanted[:, :, None] == rank) & valid[:, None] & valid


def _bounds(
    own: _Side, other: _Side, moves: Float[Tensor, "shift batch batch"], noise: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, "shift batch"], Float[Tensor, "shift batch"]]:
    """Return the evidence lower bound of each row with the row it meets, and of the latter alone."""
    moved = Gaussian(moves @ other.says.mean, moves @ other.says.precision)
    target = moves @ other.target
    stays = Gaussian(*(t.expand_as(m) for t, m in zip(own.says, moved, strict=True)))
    both, alone = product([stays, moved]), product([moved])
    noise = noise.expand_as(moved.mean)
    z = both.at(noise)
    together = own.decoder(z, own.target.expand(len(moves), -1, -1)) + other.decoder(z, target) - both.divergence()
    return together, other.decoder(alone.at(noise), target) - alone.divergence()


def _log_share(scores: Float[Tensor, "shift batch"], usable: Bool[Tensor, "shift"]) -> Float[Tensor, "batch"]:
    """Return the log of the first score's share in the softmax over the usable ones."""
    return among(scores.T, usable.expand(scores.shape[1], -1)).log_softmax(1)[:, 0]


def _standard(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    """Return the valid rows with columns of mean 0 and variance 1, less where a column hardly varies.

    Without that a unit that is all but dead would have a slope beyond all others, and clipping would leave them none.
    """
    moved = centred(values, valid)
    return moved * (mean(moved.square(), valid) + STILL).rsqrt()
