"""The recurrence against PyTorch's own modules on packed sequences, alone and under vmap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils.rnn import pack_padded_sequence

from mmsa_core.recurrence import Cell, LastState, stacked_gru

INPUTS, HIDDEN, TIME = 5, 7, 9
LENGTHS = torch.tensor([9, 1, 4, 9, 2, 7])
both = pytest.mark.parametrize("cell", ["lstm", "gru"])


def sequences(seed: int, lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor]:
    mask = torch.arange(TIME) < lengths[:, None]
    values = torch.randn(len(lengths), TIME, INPUTS, generator=torch.Generator().manual_seed(seed))
    return values * mask[:, :, None], mask


def layer(cell: Cell, seed: int) -> LastState:
    torch.manual_seed(seed)
    return LastState(cell, INPUTS, HIDDEN)


def gradients(state: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, state.numel()).view_as(state)  # no symmetry for a gradient to hide in
    return torch.autograd.grad((state * weights).sum(), wanted)


@both
def test_equals_torch_on_packed_sequences(cell: Cell) -> None:
    mine = layer(cell, 0)
    theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(INPUTS, HIDDEN, batch_first=True)
    own = [mine.w_ih, mine.w_hh, mine.b_ih, mine.b_hh]
    reference = [theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0, theirs.bias_hh_l0]
    with torch.no_grad():
        for a, b in zip(reference, own, strict=True):
            a.copy_(b)
    values, mask = sequences(1)
    x, y = values.clone().requires_grad_(), values.clone().requires_grad_()
    state = mine(x, mask)
    last = theirs(pack_padded_sequence(y, LENGTHS, batch_first=True, enforce_sorted=False))[1]
    expected = (last[0] if cell == "lstm" else last)[0]
    torch.testing.assert_close(state, expected)
    found = gradients(state, [x, *own])
    for a, b in zip(found, gradients(expected, [y, *reference]), strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not found[0][~mask].any()


@both
def test_the_same_under_vmap_and_alone(cell: Cell) -> None:
    made = [layer(cell, seed) for seed in range(3)]
    inputs = [sequences(seed, LENGTHS.roll(seed)) for seed in range(3)]
    values = torch.stack([v for v, _ in inputs]).requires_grad_()
    mask = torch.stack([m for _, m in inputs])
    parameters, _ = stack_module_state(made)
    together = vmap(lambda own, v, m: functional_call(made[0], own, (v, m)))(parameters, values, mask)
    loss = sum((s * torch.linspace(-1, 2, s.numel()).view_as(s)).sum() for s in together)
    joint = dict(zip(["values", *parameters], torch.autograd.grad(loss, [values, *parameters.values()]), strict=True))
    for k, module in enumerate(made):
        v = values[k].detach().requires_grad_()
        state = module(v, mask[k])
        torch.testing.assert_close(together[k], state)
        own = dict(module.named_parameters())
        alone = gradients(state, [v, *own.values()])
        for name, g in zip(["values", *own], alone, strict=True):
            torch.testing.assert_close(joint[name][k], g, rtol=1e-4, atol=1e-5)


@both
def test_one_sequence_for_all_members(cell: Cell) -> None:
    made = [layer(cell, seed) for seed in range(3)]
    values, mask = sequences(0)
    parameters, _ = stack_module_state(made)
    together = vmap(lambda own: functional_call(made[0], own, (values, mask)))(parameters)
    for k, module in enumerate(made):
        torch.testing.assert_close(together[k], module(values, mask))


@both
def test_an_empty_sequence_gives_zero_and_no_gradient(cell: Cell) -> None:
    values, mask = sequences(0, torch.tensor([3, 0, 9]))
    module = layer(cell, 0)
    x = values.clone().requires_grad_()
    state = module(x, mask)
    assert not state[1].any() and state[0].any() and state[2].any()
    found = gradients(state, [x, *module.parameters()])
    assert not found[0][1].any() and all(torch.isfinite(g).all() for g in found)
    nothing, none = sequences(0, torch.tensor([0, 0]))
    assert torch.equal(module(nothing, none), torch.zeros(2, HIDDEN))


def stacked(members: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Return inputs [member, batch, time, inputs] and the GRUs' weights."""
    made = [layer("gru", seed).to(dtype) for seed in range(members)]
    values = torch.stack([sequences(seed)[0] for seed in range(members)]).to(dtype)
    return values, *(torch.stack(list(w)) for w in zip(*(m.parameters() for m in made), strict=True))


def test_gradients_of_the_stacked_gru() -> None:
    tensors = [t.detach().requires_grad_() for t in stacked(2, torch.float64)]
    tensors[0] = tensors[0].detach()[:, :2, :3].requires_grad_()
    assert torch.autograd.gradcheck(stacked_gru, tensors)


def test_a_stacked_gru_does_not_depend_on_the_others() -> None:
    tensors = [t.detach().requires_grad_() for t in stacked(17)]
    states = stacked_gru(*tensors)
    weights = torch.linspace(-1, 2, states.numel()).view_as(states)
    found = torch.autograd.grad((states * weights).sum(), tensors)
    with torch.no_grad():
        assert torch.equal(stacked_gru(*tensors), states)
    for rows in ([0, 1], [16, 16], [3, 8, 16]):
        part = [t.detach()[rows].requires_grad_() for t in tensors]
        fewer = stacked_gru(*part)
        assert torch.equal(fewer, states[rows])
        for mine, theirs in zip(torch.autograd.grad((fewer * weights[rows]).sum(), part), found, strict=True):
            assert torch.equal(mine, theirs[rows])


def test_one_gru_for_all_members() -> None:
    """Only the sequences have a member axis."""
    module = layer("gru", 0)
    values, mask = torch.stack([sequences(seed)[0] for seed in range(3)]), sequences(0)[1]
    together = vmap(lambda v: module(v, mask))(values)
    alone = torch.stack([module(v, mask) for v in values])
    torch.testing.assert_close(together, alone)
    own = list(module.parameters())
    for a, b in zip(gradients(together, own), gradients(alone, own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
