"""Every fusion against a loop or a closed form."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmsa_core.fusion.attention import Attention
from mmsa_core.fusion.concat import Concat
from mmsa_core.fusion.cross_prediction import CrossPrediction
from mmsa_core.fusion.gated import Gated
from mmsa_core.fusion.low_rank import LowRank
from mmsa_core.fusion.mag import MAG
from mmsa_core.fusion.misa import MISA
from mmsa_core.fusion.mult import MulT
from mmsa_core.fusion.slots import Slots, reorganise
from mmsa_core.fusion.sum import Sum
from mmsa_core.fusion.tensor import TensorFusion
from mmsa_core.fusion.weighted_concat import WeightedConcat

ALL = torch.ones(5, 3, dtype=torch.bool)
SUBSETS = torch.tensor(list(itertools.product([True, False], repeat=3)))
"""All eight subsets of three modalities, from everything to nothing."""


def make(modalities: int = 3, width: int = 4) -> Tensor:
    return torch.randn(5, modalities, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_subsets(width: int = 4, seed: int = 0) -> Tensor:
    """Return one row of parts per subset; what is missing is NaN."""
    parts = torch.randn(8, 3, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(SUBSETS[:, :, None], parts, torch.nan)


def scatter(module: nn.Module) -> None:
    """Give every parameter a random value, those that start at 0 or 1 too."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


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


def test_weighted_concat_is_the_loop() -> None:
    fusion = WeightedConcat(3, 4).double()
    scatter(fusion)
    parts, logits = make_subsets(), fusion.logits.detach().numpy()
    expected = np.zeros((8, 12))
    for n, subset in enumerate(SUBSETS.tolist()):
        there = [m for m in range(3) if subset[m]]
        for m in there:
            weight = np.exp(logits[m]) / sum(np.exp(logits[k]) for k in there)
            z = parts[n, m].numpy()
            expected[n, 4 * m : 4 * m + 4] = weight * z / np.sqrt((z**2).sum())
    np.testing.assert_allclose(fusion(parts, SUBSETS).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("subset", [s for s in SUBSETS.tolist() if any(s)])
def test_weighted_concat_averages_cosines_by_squared_weights(subset: list[bool]) -> None:
    """reference/methods.md 8(e): cos(J_i, J_j) = sum_m w_m^2 cos_m / sum_m w_m^2, whatever the modalities they have."""
    fusion = WeightedConcat(3, 4).double()
    scatter(fusion)
    available = torch.tensor([subset]).expand(5, 3)
    parts = make()
    weights = fusion.logits.detach()[available[0]].softmax(0)
    z = parts[:, available[0]]
    cosines = F.cosine_similarity(z[:, None], z[None], dim=-1)
    expected = (weights.square() * cosines).sum(-1) / weights.square().sum()
    joint = fusion(parts, available).detach()
    torch.testing.assert_close(F.cosine_similarity(joint[:, None], joint[None], dim=-1), expected)


def test_weighted_concat_starts_equal_ignores_lengths_and_leaves_0_at_0() -> None:
    fusion = WeightedConcat(3, 4).double()
    parts = make()
    parts[1, 2] = 0
    parts.requires_grad_()
    fused = fusion(parts, ALL)
    lengths = fused.view(5, 3, 4).norm(dim=2)
    expected = torch.full((5, 3), 1 / 3, dtype=torch.float64)
    expected[1, 2] = 0
    torch.testing.assert_close(lengths, expected)
    scales = torch.tensor([0.1, 3.0, 100.0])[None, :, None]
    torch.testing.assert_close(fusion(parts * scales, ALL), fused)
    (g,) = torch.autograd.grad(fused.sum(), [parts])
    assert torch.isfinite(g).all() and not g[1, 2].any()


def test_mag_is_the_loop() -> None:
    fusion = MAG(3, 4, beta=0.75).double()
    scatter(fusion)
    parts = make_subsets()
    w = {n: p.detach().numpy() for n, p in fusion.named_parameters()}
    bounded = 0
    for n, subset in enumerate(SUBSETS.tolist()):
        z = [parts[n, m].numpy() if subset[m] else np.zeros(4) for m in range(3)]
        shift = np.zeros(4)
        for m in (1, 2):
            if subset[m]:
                both = np.concatenate([z[m], z[0]])
                gate = np.maximum(w[f"gates.{m - 1}.weight"] @ both + w[f"gates.{m - 1}.bias"], 0)
                shift += gate * (w[f"values.{m - 1}.weight"] @ z[m] + w[f"values.{m - 1}.bias"])
        length, limit = np.sqrt((shift**2).sum()), 0.75 * np.sqrt((z[0] ** 2).sum())
        if subset[0] and length > limit:
            bounded += 1
            shift = shift * limit / length
        np.testing.assert_allclose(fusion(parts, SUBSETS)[n].detach().numpy(), z[0] + shift, rtol=1e-9, atol=1e-12)
    assert 0 < bounded < 3, "the test must see shifts on both sides of the bound"


def test_mag_moves_the_first_modality_no_further_than_beta_allows() -> None:
    parts = make()
    for size in (0.1, 1.0, 100.0):
        fusion = MAG(3, 4, beta=0.5).double()
        scatter(fusion)
        moved = (fusion(parts * torch.tensor([1.0, size, size])[:, None], ALL) - parts[:, 0]).norm(dim=1)
        limit = 0.5 * parts[:, 0].norm(dim=1)
        assert (moved <= limit * (1 + 1e-9)).all()
        assert size < 100 or torch.allclose(moved, limit)
    assert torch.equal(MAG(3, 4, beta=0.0).double()(parts, ALL), parts[:, 0])


def test_mag_alone_is_the_identity() -> None:
    parts = make()
    assert torch.equal(MAG(1, 4).double()(parts[:, :1], ALL[:, :1]), parts[:, 0])
    fusion = MAG(3, 4).double()
    scatter(fusion)
    only_text = torch.tensor([[True, False, False]]).expand(5, 3)
    assert torch.equal(fusion(parts, only_text), parts[:, 0])


def test_mag_without_the_first_modality_is_the_shift_alone() -> None:
    fusion = MAG(3, 4, beta=0.01).double()
    scatter(fusion)
    parts = make()
    loose = copy.deepcopy(fusion)
    loose.beta.fill_(1e9)
    without = torch.tensor([[False, True, True]]).expand(5, 3)
    no_text = torch.cat([torch.full((5, 1, 4), 1e-6, dtype=torch.float64), parts[:, 1:]], 1)
    expected = loose(no_text, ALL)  # a text of almost no length and no bound
    torch.testing.assert_close(fusion(parts, without), expected, rtol=1e-4, atol=1e-4)
    assert fusion(parts, without).norm(dim=1).gt(0.1).all()


def test_slots_share_out_every_token_exactly() -> None:
    """reference/methods.md 5(e): sum_k X'_k = sum_n X_n, because the rows of S sum to 1."""
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 7, 3, generator=g, dtype=torch.float64)
    scores = 3 * torch.randn(5, 7, 4, generator=g, dtype=torch.float64)
    slots = reorganise(tokens, scores)
    assert slots.shape == (5, 4, 3)
    torch.testing.assert_close(slots.sum(1), tokens.sum(1), rtol=1e-13, atol=1e-13)
    one_hot = torch.full_like(scores, -1e4)
    one_hot[:, torch.arange(7), torch.arange(7) % 4] = 0
    torch.testing.assert_close(reorganise(tokens, one_hot)[:, 1], tokens[:, 1] + tokens[:, 5])


@pytest.mark.parametrize("average", [False, True])
def test_slots_are_the_loop(average: bool) -> None:
    fusion = Slots(3, 4, slots=5, tokens=2, size=3, dim=6, average=average).double()
    scatter(fusion)
    parts = make_subsets()
    for n, subset in enumerate(SUBSETS.tolist()):
        total = torch.zeros(5, 3, dtype=torch.float64)
        for m in range(3):
            if subset[m]:
                tokens = fusion.cut[m](parts[n, m]).view(2, 3)
                slots = torch.zeros(5, 3, dtype=torch.float64)
                for token in tokens:
                    shares = fusion.share[m](token).softmax(0)
                    assert shares.sum().item() == pytest.approx(1)
                    for k in range(5):
                        slots[k] += shares[k] * token
                total += torch.stack([fusion.adapt[m](slot) for slot in slots])
        if average:
            total /= max(sum(subset), 1)
        torch.testing.assert_close(fusion(parts, SUBSETS)[n], fusion.out(total.flatten()))


@pytest.mark.parametrize("average", [False, True])
def test_slots_do_not_know_the_order_of_modalities(average: bool) -> None:
    fusion = Slots(3, 4, average=average).double()
    scatter(fusion)
    parts = make_subsets()
    fused = fusion(parts, SUBSETS)
    for order in itertools.permutations(range(3)):
        moved = copy.deepcopy(fusion)
        for layers in ("cut", "share", "adapt"):
            setattr(moved, layers, nn.ModuleList(getattr(moved, layers)[m] for m in order))
        torch.testing.assert_close(moved(parts[:, order], SUBSETS[:, order]), fused)


def test_mult_is_the_loop() -> None:
    fusion = MulT(3, 4, tokens=2, size=3, layers=2, heads=2).double()
    scatter(fusion)
    parts = make_subsets()
    fused = fusion(parts, SUBSETS).view(8, 3, 3)
    for n, subset in enumerate(SUBSETS.tolist()):
        tokens = {m: fusion.cut[m](parts[n, m]).view(2, 3) for m in range(3) if subset[m]}
        for m in range(3):
            if m not in tokens:
                assert not fused[n, m].any()
                continue
            others = [t for k in tokens if k != m for t in tokens[k]]
            found = look(list(tokens[m]), others, list(fusion.streams[m]))
            torch.testing.assert_close(fused[n, m], torch.stack(found).mean(0))


def look(own: list[Tensor], others: list[Tensor], blocks: list[nn.Module]) -> list[Tensor]:
    """Return the tokens of one modality of one sample after all layers, by loops over tokens and heads."""
    for block in blocks if others else []:
        seen = [block.other_norm(t) for t in others]
        moved = []
        for token in own:
            heads = []
            for head in range(2):
                rows = slice(3 * head, 3 * head + 3)
                query = block.query.weight[rows] @ block.own_norm(token)
                scores = torch.stack([query @ (block.key.weight[rows] @ t) / 3**0.5 for t in seen]).softmax(0)
                heads.append(sum(s * (block.value.weight[rows] @ t) for s, t in zip(scores, seen, strict=True)))
            looked = token + block.out(torch.cat(heads))
            moved.append(looked + block.back(block.forth(block.norm(looked)).relu()))
        own = moved
    return own


def test_mult_without_company_keeps_its_own_tokens() -> None:
    for modalities, subset in ((1, [True]), (2, [False, True]), (3, [False, True, False])):
        fusion = MulT(modalities, 4, tokens=2, size=3).double()
        scatter(fusion)
        parts, available = make(modalities), torch.tensor([subset]).expand(5, modalities)
        m = subset.index(True)
        fused = fusion(parts, available).view(5, modalities, 3)
        assert torch.equal(fused[:, m], fusion.cut[m](parts[:, m]).view(5, 2, 3).mean(1))
        assert not fused[:, torch.arange(modalities) != m].any()


def test_misa_is_the_loop() -> None:
    fusion = MISA(3, 4, hidden=2, dim=6).double()
    scatter(fusion)
    parts = make_subsets()
    for n, subset in enumerate(SUBSETS.tolist()):
        shared, private = torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
        for m in range(3):
            if subset[m]:
                z = parts[n, m]
                z = (z - z.mean()) / (z.var(unbiased=False) + 1e-5).sqrt()
                shared[m] = torch.sigmoid(fusion.shared.weight @ z + fusion.shared.bias)
                private[m] = torch.sigmoid(fusion.private[m].weight @ z + fusion.private[m].bias)
        expected = fusion.out(torch.cat([shared.flatten(), private.flatten()]))
        torch.testing.assert_close(fusion(parts, SUBSETS)[n], expected)


def test_cross_prediction_is_concat_with_what_is_missing_predicted() -> None:
    fusion = CrossPrediction(3, 4, hidden=5).double()
    scatter(fusion)
    parts = make_subsets()
    predictors = dict(zip(fusion.directions, fusion.predictors, strict=True))
    assert len(predictors) == 6
    fused = fusion(parts, SUBSETS).view(8, 3, 4)
    for n, subset in enumerate(SUBSETS.tolist()):
        there = [i for i in range(3) if subset[i]]
        for j in range(3):
            if subset[j]:
                assert torch.equal(fused[n, j], parts[n, j])
            elif there:
                guesses = [predictors[i, j](parts[n, i]) for i in there]
                torch.testing.assert_close(fused[n, j], torch.stack(guesses).mean(0))
            else:
                assert not fused[n, j].any()
    everything = make()
    assert torch.equal(fusion(everything, ALL), Concat(3, 4)(everything, ALL))
    alone = CrossPrediction(1, 4).double()
    assert torch.equal(alone(everything[:, :1], ALL[:, :1]), everything[:, 0])
