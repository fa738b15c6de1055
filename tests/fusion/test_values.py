"""Every fusion against a loop or a closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mmsa_core.fusion.attention import Attention
from mmsa_core.fusion.concat import Concat
from mmsa_core.fusion.gated import Gated
from mmsa_core.fusion.low_rank import LowRank
from mmsa_core.fusion.sum import Sum
from mmsa_core.fusion.tensor import TensorFusion

ALL = torch.ones(5, 3, dtype=torch.bool)


def make(modalities: int = 3, width: int = 4) -> Tensor:
    return torch.randn(5, modalities, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outer(vectors: list[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the flattened outer product of ``[1; v]`` by a loop over all index tuples, the last index fastest."""
    with_1 = [np.concatenate([[1.0], v]) for v in vectors]
    ranges = [range(len(v)) for v in with_1]
    return np.array(
        [np.prod([v[i] for v, i in zip(with_1, index, strict=True)]) for index in itertools.product(*ranges)]
    )


def test_concat_and_sum() -> None:
    parts = make()
    assert torch.equal(Concat(3, 4)(parts, ALL), torch.cat([parts[:, 0], parts[:, 1], parts[:, 2]], 1))
    torch.testing.assert_close(Sum(3, 4)(parts, ALL), parts[:, 0] + parts[:, 1] + parts[:, 2])


def test_gated_is_the_loop() -> None:
    torch.manual_seed(0)
    fusion = Gated(3, 4).double()
    available = ALL.clone()
    available[1, 2] = False
    parts = make() * available[:, :, None]
    w, b = fusion.gate.weight.detach().numpy(), fusion.gate.bias.detach().numpy()
    expected = np.zeros((5, 4))
    for n in range(5):
        gates = 1 / (1 + np.exp(-(w @ parts[n].flatten().numpy() + b)))
        for m, i in itertools.product(range(3), range(4)):
            expected[n, i] += gates[4 * m + i] * parts[n, m, i]
    np.testing.assert_allclose(fusion(parts, available).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_tensor_is_a_linear_map_of_the_outer_product(modalities: int) -> None:
    torch.manual_seed(0)
    fusion = TensorFusion(modalities, 4, hidden=2, dim=6).double()
    parts, available = make(modalities), ALL[:, :modalities].clone()
    available[0, 0] = False
    w, b = fusion.out.weight.detach().numpy(), fusion.out.bias.detach().numpy()
    reduced = [layer(parts[:, m]).relu().detach().numpy() for m, layer in enumerate(fusion.reduce)]
    for n in range(5):
        product = outer([reduced[m][n] * available[n, m].item() for m in range(modalities)])
        np.testing.assert_allclose(fusion(parts, available)[n].detach().numpy(), w @ product + b, rtol=1e-9)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_low_rank_is_the_outer_product_contracted_with_the_factors(modalities: int) -> None:
    """reference/methods.md 11: LMF equals TFN whose weight tensor is the sum over r of w_r a (x) b (x) c."""
    torch.manual_seed(0)
    fusion = LowRank(modalities, 4, rank=3, dim=2).double()
    torch.nn.init.normal_(fusion.weights)
    torch.nn.init.normal_(fusion.bias)
    parts = make(modalities)
    found = fusion(parts, ALL[:, :modalities]).detach().numpy()
    factors, w, b = (p.detach().numpy() for p in (fusion.factors, fusion.weights, fusion.bias))
    for n, o in itertools.product(range(5), range(2)):
        whole = np.zeros(5**modalities)
        for r in range(3):
            term = np.ones(1)
            for m in range(modalities):
                term = np.outer(term, factors[m, r, :, o]).ravel()
            whole += w[r] * term
        expected = whole @ outer([parts[n, m].numpy() for m in range(modalities)]) + b[o]
        assert found[n, o] == pytest.approx(expected, rel=1e-9)


def test_low_rank_starts_at_unit_size_whatever_the_width() -> None:
    for width in (8, 128):
        torch.manual_seed(0)
        fused = LowRank(3, width, rank=4, dim=256)(torch.randn(256, 3, width), torch.ones(256, 3, dtype=torch.bool))
        assert 0.5 < fused.std() < 2


def test_attention_agrees_with_torch_and_ignores_missing_tokens() -> None:
    torch.manual_seed(0)
    width, heads = 8, 2
    fusion = Attention(3, width, heads=heads, size=width // heads).double()
    reference = torch.nn.MultiheadAttention(width, heads, batch_first=True).double()
    with torch.no_grad():
        layers = (fusion.query, fusion.key, fusion.value)
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        reference.in_proj_bias.zero_()
        reference.out_proj.load_state_dict(fusion.out.state_dict())
    parts, available = make(3, width), ALL.clone()
    available[0, 1] = available[2, 0] = available[2, 2] = False
    parts = parts * available[:, :, None]
    tokens = parts + fusion.which
    seen = fusion.norm(tokens)
    looked, _ = reference(seen, seen, seen, key_padding_mask=~available)
    for n in range(5):
        expected = (tokens + looked)[n][available[n]].mean(0)
        torch.testing.assert_close(fusion(parts, available)[n], expected)


def test_attention_of_a_sample_without_modalities_is_0() -> None:
    fusion = Attention(3, 4)
    assert not fusion(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)).any()
