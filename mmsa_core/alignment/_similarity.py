"""Who resembles whom: cosines between rows, and cross-entropies over candidates that a mask allows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.alignment._moments import average, rows, unit


def cosines(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]
) -> Float[Tensor, "batch batch"]:
    """Return the cosine of every row of ``a`` with every row of ``b``; 0 where a row is not valid or has no length."""
    return unit(rows(a, valid), 1) @ unit(rows(b, valid), 1).T


def both_valid(valid: Bool[Tensor, "batch"]) -> Bool[Tensor, "batch batch"]:
    """Return the pairs of valid rows."""
    return valid[:, None] & valid


def different(valid: Bool[Tensor, "batch"]) -> Bool[Tensor, "batch batch"]:
    """Return the pairs of different valid rows."""
    return both_valid(valid) & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)


def among(
    logits: Float[Tensor, "batch other"], candidates: Bool[Tensor, "batch other"]
) -> Float[Tensor, "batch other"]:
    """Return ``logits`` with the lowest finite number where there is no candidate.

    Not -inf: a row without candidates must give a number, which is then left out.
    """
    return torch.where(candidates, logits, torch.full_like(logits, torch.finfo(logits.dtype).min))


def log_distribution(
    logits: Float[Tensor, "batch other"], candidates: Bool[Tensor, "batch other"]
) -> Float[Tensor, "batch other"]:
    """Return the log of each row's softmax over its candidates; 0 for all others, which have no part in a sum."""
    found = among(logits, candidates).log_softmax(1)
    return torch.where(candidates, found, torch.zeros_like(found))


def partner_loss(
    logits: Float[Tensor, "batch batch"], candidates: Bool[Tensor, "batch batch"], valid: Bool[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding the diagonal, over rows and over columns, averaged: symmetric InfoNCE."""
    held = among(logits, candidates)
    found = held.log_softmax(1).diagonal() + held.log_softmax(0).diagonal()
    return average(-found, valid) / 2
