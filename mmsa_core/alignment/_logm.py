"""The logarithm of covariance matrices with a gradient that stays finite where eigenvalues coincide."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor


def log_matrix(matrix: Float[Tensor, "dim dim"], eps: Float[Tensor, ""]) -> Float[Tensor, "dim dim"]:
    """Return ``log(matrix + eps I)`` of a positive semi-definite matrix.

    A matrix that is not finite gives NaN, not the eigen-solver's error, which would end the other members too.
    """
    finite = matrix.isfinite().all()
    safe = torch.where(finite, matrix, torch.zeros_like(matrix))
    log = cast(tuple[Tensor, Tensor, Tensor], _LogMatrix.apply(safe, eps))[0]  # type: ignore[no-untyped-call]
    return torch.where(finite, log, torch.full_like(log, torch.nan))


class _LogMatrix(torch.autograd.Function):
    """Autograd's own rule for eigenvectors divides by differences of eigenvalues; that of the logarithm need not.

    By Daleckii and Krein the derivative is ``Q (K * (Q' G Q)) Q'``, where ``K`` holds the divided differences of log.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # in double: LAPACK's single-precision solver gave NaN, or gave up, on 1 % of covariances with zero columns
        values, vectors = (t.to(matrix.dtype) for t in torch.linalg.eigh(matrix.double()))
        shifted = values.clamp(min=0) + eps
        return vectors @ (shifted.log()[:, None] * vectors.mT), shifted, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, shifted, vectors = output
        ctx.mark_non_differentiable(shifted, vectors)
        ctx.save_for_backward(shifted, vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        shifted, vectors = ctx.saved_tensors
        inner = vectors.mT @ grads[0] @ vectors
        return vectors @ (divided_differences(shifted) * inner) @ vectors.mT, None


def divided_differences(values: Float[Tensor, "dim"]) -> Float[Tensor, "dim dim"]:
    """Return ``(log a - log b) / (a - b)`` for all pairs, and its limit ``1 / a`` where they coincide."""
    a, b = values[:, None], values[None, :]
    total = a + b
    gap = (a - b) / total
    close = gap.abs() < 0.1
    same = gap == 0
    small = torch.where(close & ~same, gap, torch.full_like(gap, 0.05))
    near = torch.where(same, torch.ones_like(gap), torch.atanh(small) / small) * 2 / total
    far = (a.log() - b.log()) / torch.where(close, torch.ones_like(gap), a - b)
    return torch.where(close, near, far)
