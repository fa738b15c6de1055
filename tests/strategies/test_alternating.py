"""Alternation: which modality is shown, what the projection is and protects, and how predictions are combined."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES
from mmsa_core.errors import UserError
from mmsa_core.loader import take
from mmsa_core.model import Member
from mmsa_core.strategies._views import alone
from mmsa_core.strategies.alternating import Alternating, block_means, shrunk
from tests.strategies.course import Data, make_data, make_member, predicted, step, viewed

ROWS = torch.arange(16)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def closed_form(rows: Tensor, alpha: float) -> Tensor:
    eye = torch.eye(rows.shape[1]).double()
    return alpha * torch.linalg.inv(alpha * eye + rows.T @ rows)


def strategy_of(member: Member) -> Alternating:
    found = member.model.strategy
    assert isinstance(found, Alternating)
    return found


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 2.0])
def test_recursive_least_squares_equals_the_closed_form(alpha: float) -> None:
    rows = random(7, 5)
    found = torch.eye(5).double()
    for part in rows.split(3):  # one part after the other, as the steps of a cycle bring them
        found = shrunk(found, part, alpha)
    torch.testing.assert_close(found, closed_form(rows, alpha), rtol=1e-9, atol=1e-12)


def test_a_part_at_once_is_the_block_formula() -> None:
    first, rows, alpha = closed_form(random(2, 6, seed=1), 0.3), random(4, 6), 0.3
    inner = torch.linalg.inv(alpha * torch.eye(4).double() + rows @ first @ rows.T)
    torch.testing.assert_close(shrunk(first, rows, alpha), first - first @ rows.T @ inner @ rows @ first)


def test_what_was_seen_shrinks_by_its_length() -> None:
    h = random(1, 6)
    found = shrunk(torch.eye(6).double(), h, 0.1) @ h[0]
    torch.testing.assert_close(found, 0.1 / (0.1 + h.square().sum()) * h[0])


def test_it_is_symmetric_at_least_0_and_only_ever_shrinks() -> None:
    before = torch.eye(6).double()
    for seed in range(10):
        after = shrunk(before, random(2, 6, seed=seed), 0.2)
        torch.testing.assert_close(after, after.T)
        assert torch.linalg.eigvalsh(after).min() > -1e-12
        assert torch.linalg.eigvalsh(before - after).min() > -1e-12 and not torch.equal(before, after)
        before = after


def test_rows_of_zeros_change_nothing() -> None:
    before = closed_form(random(2, 6), 0.1)
    assert torch.equal(shrunk(before, torch.zeros(3, 6).double(), 0.1), before)


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.1])
def test_rounding_cannot_break_it(size: float, spread: float) -> None:
    """Many rows that are (nearly) alike, in float32 and far longer than alpha: what is left of them is rounding."""
    found, rows = torch.eye(8), []
    for seed in range(6):
        row = random(1, 8, seed=seed) * size
        rows.append((row * (1 + spread * random(16, 8, seed=100 + seed))).float())
        found = shrunk(found, rows[-1], torch.tensor(1e-4))
    values = torch.linalg.eigvalsh((found + found.T) / 2)
    assert values.min() > -1e-5 and values.max() < 1 + 1e-5
    if size > 1:
        assert ((found @ rows[-1].T).norm(dim=0) < 1e-3 * rows[-1].norm(dim=1)).all()


@pytest.mark.parametrize("blocks", [1, 3, 20])
def test_block_means_equal_a_loop(blocks: int) -> None:
    x, shown = random(11, 4), torch.arange(11) % 4 != 2
    found = block_means(torch.where(shown[:, None], x, torch.tensor(float("nan")).double()), shown, blocks)
    assert found.shape == (blocks, 4)
    for b in range(blocks):
        own = [x[i] for i in range(11) if i * blocks // 11 == b and shown[i]]
        expected = torch.stack(own).mean(0) if own else torch.zeros(4).double()
        torch.testing.assert_close(found[b], expected)


@pytest.mark.parametrize("modalities", [MODALITIES, ("text", "vision"), ("audio",)])
def test_step_k_shows_modality_k_alone(modalities: tuple[str, ...]) -> None:
    data = make_data(modalities, missing=False)
    member = make_member("alternating", data, modalities)
    for k in range(7):
        _, _, view = viewed(member, data, ROWS)
        assert view.available.sum(0).tolist() == [16 if m == k % len(modalities) else 0 for m in range(len(modalities))]
        step(member, data, ROWS)


def test_a_sample_that_lacks_it_shows_the_next_that_it_has() -> None:
    data = make_data()
    member = make_member("alternating", data)
    for k in range(4):
        _, whole, view = viewed(member, data, ROWS)
        for there, seen in zip(whole.available.tolist(), view.available.tolist(), strict=True):
            order = [(k + j) % 3 for j in range(3)]
            first = next((m for m in order if there[m]), None)
            assert seen == [m == first for m in range(3)]
        step(member, data, ROWS)


def by_hand(data: Data, modality: int) -> Data:
    """Return the data with one modality left."""
    only = torch.arange(len(data.batch.features)) == modality
    return data._replace(batch=data.batch._replace(available=data.batch.available & only))


def test_without_projection_it_is_plain_alternation() -> None:
    """Bit for bit a joint model that is given one modality."""
    data = make_data(missing=False)
    member, joint = make_member("alternating", data, projection=False), make_member("none", data)
    assert strategy_of(member).projector.numel() == 0
    for k in range(5):
        (loss, grads), (same, others) = step(member, data, ROWS), step(joint, by_hand(data, k % 3), ROWS)
        assert torch.equal(loss, same) and all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_projection_changes_the_gradient_of_one_weight_alone() -> None:
    data = make_data()
    member, plain = make_member("alternating", data), make_member("alternating", data, projection=False)
    names = [n for n, _ in member.named_parameters()]
    for k in range(6):
        projector = strategy_of(member).projector.clone()
        (loss, grads), (same, others) = step(member, data, ROWS), step(plain, data, ROWS)
        assert torch.equal(loss, same)
        for name, mine, theirs in zip(names, grads, others, strict=True):
            if name == "model.head.first.weight":
                torch.testing.assert_close(mine, theirs @ projector)
                assert torch.equal(mine, theirs) == (k % 3 == 0)
            else:
                assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("block", [1, 4])
def test_a_cycle_gathers_what_the_head_was_given(block: int) -> None:
    data = make_data()
    member = make_member("alternating", data, block=block, alpha=0.2)
    eye, seen = torch.eye(8), []
    for k in range(7):
        expected = closed_form(torch.cat(seen).double(), 0.2).float() if seen else eye
        torch.testing.assert_close(strategy_of(member).projector, expected, rtol=1e-4, atol=1e-5)
        assert not seen or not torch.allclose(expected, eye, atol=1e-3)
        _, _, view = viewed(member, data, ROWS)
        seen.append(block_means(member.model(view).fusion.detach(), view.available.any(1), block))
        step(member, data, ROWS)
        if k % 3 == 2:
            seen = []


@pytest.mark.parametrize("projection", [True, False])
def test_the_head_keeps_its_answers_for_the_modality_before(projection: bool) -> None:
    """A step of plain gradient descent on the first layer, on vision after audio: with a row of H per sample the
    audio's answers stay. Samples are fewer than dimensions, else nothing would be left to learn."""
    before, moved = answers(projection, block=4)
    change = (moved - before).norm() / before.norm()
    assert change < 1e-3 if projection else change > 0.05


def test_the_batchs_mean_protects_one_direction() -> None:
    before, moved = answers(True, block=1)
    assert (moved.mean(0) - before.mean(0)).norm() < 1e-3 * before.mean(0).norm()
    assert (moved - before).norm() > 1e-2 * before.norm()


def answers(projection: bool, block: int) -> tuple[Tensor, Tensor]:
    """Return what the head's first layer says of audio, before and after a step on vision, without its bias."""
    data = make_data(("audio", "vision"), missing=False)
    rows = torch.arange(4)
    member = make_member("alternating", data, ("audio", "vision"), projection=projection, block=block, alpha=1e-5)
    weight = member.model.head.first.weight
    inputs = member.model(alone(take(data.batch, rows), 0)).fusion.detach()
    step(member, data, rows)
    before = inputs @ weight.detach().T
    _, grads = step(member, data, rows)
    names = [n for n, _ in member.named_parameters()]
    gradient = grads[names.index("model.head.first.weight")]
    assert gradient.norm() > 1e-3
    return before, inputs @ (weight.detach() - 20 * gradient).T


def test_scales_are_learned_from_the_modality_shown() -> None:
    data = make_data()
    member = make_member("alternating", data)
    for _ in range(6):
        expected = deepcopy(strategy_of(member).scales)
        _, whole, view = viewed(member, data, ROWS)
        errors = (member.model(view).prediction.detach() - data.labels[ROWS]).abs()
        expected.update(errors[:, None].expand(-1, 3), view.available)
        step(member, data, ROWS)
        assert torch.equal(strategy_of(member).scales.errors, expected.errors)
        assert torch.equal(strategy_of(member).scales.counts, expected.counts)
        assert (whole.available.sum(1) >= view.available.sum(1)).all()


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 2.0])
def test_predictions_are_the_weighted_answers_of_each_modality_alone(sharpness: float) -> None:
    data = make_data()
    member = make_member("alternating", data, sharpness=sharpness)
    for _ in range(6):
        step(member, data, ROWS)
    scales = strategy_of(member).scales
    own = (scales.errors / scales.counts) ** -sharpness
    found = predicted(member, data.batch)
    member.eval()
    one = [member.model.outputs(by_hand(data, m).batch).prediction.detach() for m in range(3)]
    for i, there in enumerate(data.batch.available):
        given = [m for m in range(3) if there[m]] or [0, 1, 2]
        each = [float(one[m][i]) for m in given]
        total = sum(float(own[m]) for m in given)
        expected = sum(float(own[m]) * e for m, e in zip(given, each, strict=True)) / total
        assert float(found[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_one_modality_available_is_its_own_answer_and_none_is_finite() -> None:
    data = make_data()
    member = make_member("alternating", data)
    step(member, data, ROWS)
    found = predicted(member, data.batch)
    member.eval()
    plain = member.model.outputs(data.batch).prediction.detach()
    count = data.batch.available.sum(1)
    torch.testing.assert_close(found[count <= 1], plain[count <= 1])
    assert (count == 0).any() and torch.isfinite(found).all() and not torch.isclose(found, plain)[count > 1].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, r"alternating.alpha: must be above 0, got 0.0; set projection: false"),
        ({"sharpness": -1.0}, r"alternating.sharpness: must be 0 .* or more, got -1.0"),
        ({"block": 0}, r"alternating.block: must be 1 .* or more, got 0"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.build("strategies", "alternating", MODALITIES, 8, **settings)
