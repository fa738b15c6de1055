"""LSTM and GRU sequences that run under ``vmap``: one native (oneDNN or cuDNN) call per member.

PyTorch has no batching rule for its recurrent kernels, and decomposing them is 4 to 10 times slower on a CPU than a
call per member, so the rule here is that call.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Cell = Literal["lstm", "gru"]


def run(
    cell: Cell, x: Float[Tensor, "batch time inputs"], weights: tuple[Tensor, ...]
) -> Float[Tensor, "batch time hidden"]:
    """Run one member's one-layer recurrence; ``weights`` are w_ih, w_hh, b_ih and b_hh as in :class:`torch.nn.LSTM`."""
    start = x.new_zeros(1, x.shape[0], weights[1].shape[1])
    flat = [w.contiguous() for w in weights]
    if cell == "lstm":
        return torch.lstm(x, (start, start), flat, True, 1, 0.0, True, False, True)[0]
    return torch.gru(x, start, flat, True, 1, 0.0, True, False, True)[0]


class Recurrence(torch.autograd.Function):
    """:func:`run` with a rule for ``vmap``."""

    @staticmethod
    def forward(cell: Cell, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        return run(cell, x, (w_ih, w_hh, b_ih, b_hh))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.cell = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run again with autograd: only a module used outside a population comes here."""
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            output = run(ctx.cell, inputs[0], tuple(inputs[1:]))
        return None, *torch.autograd.grad(output, inputs, gradient)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], cell: Cell, *tensors: Tensor) -> tuple[Tensor, int]:
        """Call the kernel once per member; autograd records the calls as they are."""
        columns = [
            [t] * info.batch_size if dim is None else t.unbind(dim) for t, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return torch.stack([run(cell, x, tuple(w)) for x, *w in zip(*columns, strict=True)]), 0


class LastState(nn.Module):
    """A one-layer, one-directional recurrence that returns the state after each sequence's last real row."""

    def __init__(self, cell: Cell, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.hidden = hidden
        made = (nn.LSTM if cell == "lstm" else nn.GRU)(inputs, hidden)
        self.w_ih, self.w_hh = made.weight_ih_l0, made.weight_hh_l0
        self.b_ih, self.b_hh = made.bias_ih_l0, made.bias_hh_l0

    def forward(
        self, values: Float[Tensor, "batch time inputs"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch {self.hidden}"]:
        states: Tensor = Recurrence.apply(  # type: ignore[no-untyped-call]  # torch's
            self.cell, values, self.w_ih, self.w_hh, self.b_ih, self.b_hh
        )
        length = mask.sum(1)
        last = (length - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.hidden)
        state = torch.gather(states, 1, last)[:, 0]
        return torch.where(length[:, None] > 0, state, torch.zeros((), dtype=state.dtype, device=state.device))
