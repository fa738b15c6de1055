"""What every label generator must do, for every file found in the folder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from mmsa_core import registry
from mmsa_core.plugin import LabelGenerator
from mmsa_core.tensors import LabelTable, OutOfFold, Outputs
from tests.contracts.stacking import assert_floats_are_buffers, float_settings

NAMES = registry.names("labels")
ROWS, FUSED, POST = 12, 6, 4
BATCHES = [torch.tensor([3, 0, 7, 11, 5]), torch.tensor([1, 2, 4, 6, 8]), torch.tensor([9, 10])]
every = pytest.mark.parametrize("name", NAMES)


def make_table(modalities: int = 3, sign: str = "both") -> LabelTable:
    labels = torch.linspace(-2.5, 3, ROWS)
    labels[4] = 0.0
    labels = {"both": labels, "positive": labels.abs() + 0.1, "negative": -labels.abs() - 0.1, "zero": 0 * labels}[sign]
    unimodal = labels[:, None] + torch.linspace(-0.4, 0.5, modalities)
    predicted = OutOfFold(0.7 * unimodal, (torch.arange(ROWS * modalities) % 5 > 0).float().view(ROWS, modalities))
    return LabelTable(labels, unimodal, modalities, lambda: predicted)


def build(name: str, table: LabelTable, variant: int = 0) -> LabelGenerator:
    made: LabelGenerator = registry.build("labels", name, table, FUSED, POST, **float_settings("labels", name, variant))
    return made


def representations(rows: Tensor, epoch: int, modalities: int = 3, seed: int = 0) -> tuple[Tensor, ...]:
    """Return the fused representation and every modality's for training rows, after a ReLU."""
    random = torch.Generator().manual_seed(1000 * seed + epoch)
    every_row = torch.randn(ROWS, FUSED + modalities * POST, generator=random).relu()
    return every_row[rows].split([FUSED] + [POST] * modalities, 1)


def outputs(fused: Tensor, *parts: Tensor) -> Outputs:
    n = len(fused)
    return Outputs(torch.zeros(n), torch.zeros(n, len(parts)), fused, parts, (), (), fused)


def course(generator: LabelGenerator, epochs: int = 3, modalities: int = 3, seed: int = 0) -> list[Tensor]:
    """Go through the training rows as training does; return all targets and weights on the way."""
    seen = []
    for epoch in range(1, epochs + 1):
        for rows in BATCHES:
            seen += generator.targets(rows)
            given = representations(rows, epoch, modalities, seed)
            generator.update(rows, outputs(*given), torch.tensor(epoch))
    return [*seen, *generator.targets(torch.arange(ROWS))]


def test_some_were_found() -> None:
    assert len(NAMES) >= 3


@every
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_shapes_and_range(name: str, modalities: int) -> None:
    table = make_table(modalities)
    generator = build(name, table)
    targets, weights = generator.targets(BATCHES[0])
    assert targets.shape == weights.shape == (5, modalities)
    for t in course(generator, modalities=modalities):
        assert torch.isfinite(t).all() and t.shape[1] == modalities
        assert t.abs().max() <= table.labels.abs().max() + 0.5
    assert (generator.targets(BATCHES[0])[1] >= 0).all()
    assert not list(generator.parameters())


@every
def test_deterministic(name: str) -> None:
    one, other = (course(build(name, make_table())) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every
def test_the_table_is_not_written_to(name: str) -> None:
    table, fresh = make_table(), make_table()
    course(build(name, table))
    assert torch.equal(table.labels, fresh.labels)
    assert table.unimodal is not None and fresh.unimodal is not None and torch.equal(table.unimodal, fresh.unimodal)
    assert table.out_of_fold is not None and fresh.out_of_fold is not None
    assert all(torch.equal(a, b) for a, b in zip(table.out_of_fold(), fresh.out_of_fold(), strict=True))


@every
def test_an_update_moves_only_its_own_rows(name: str) -> None:
    generator = build(name, make_table())
    course(generator)
    before, _ = generator.targets(torch.arange(ROWS))
    generator.update(BATCHES[1], outputs(*representations(BATCHES[1], 9)), torch.tensor(4))
    after, _ = generator.targets(torch.arange(ROWS))
    others = torch.ones(ROWS, dtype=torch.bool)
    others[BATCHES[1]] = False
    assert torch.equal(before[others], after[others])


@every
def test_order_within_a_batch_does_not_matter(name: str) -> None:
    one, other = build(name, make_table()), build(name, make_table())
    course(one)
    course(other)
    turn = torch.tensor([4, 2, 0, 1, 3])
    one.update(BATCHES[0], outputs(*representations(BATCHES[0], 9)), torch.tensor(4))
    other.update(BATCHES[0][turn], outputs(*representations(BATCHES[0][turn], 9)), torch.tensor(4))
    for a, b in zip(one.targets(torch.arange(ROWS)), other.targets(torch.arange(ROWS)), strict=True):
        torch.testing.assert_close(a, b)


@every
@pytest.mark.parametrize("sign", ["both", "positive", "negative", "zero"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_constant_features_and_missing_classes_are_finite(name: str, sign: str, value: float) -> None:
    generator = build(name, make_table(sign=sign))
    for epoch in range(1, 5):
        for rows in BATCHES:
            same = [torch.full_like(r, value) for r in representations(rows, epoch)]
            generator.update(rows, outputs(*same), torch.tensor(epoch))
            for t in generator.targets(rows):
                assert torch.isfinite(t).all()


@every
def test_no_gradient_is_kept(name: str) -> None:
    generator = build(name, make_table())
    given = [r.requires_grad_() for r in representations(BATCHES[0], 1)]
    with torch.no_grad():
        generator.update(BATCHES[0], outputs(*given), torch.tensor(2))
    assert not any(t.requires_grad for t in (*generator.targets(BATCHES[0]), *generator.buffers()))


@every
def test_members_keep_their_own_state_under_vmap(name: str) -> None:
    """Members meet the rows in an order of their own and have other representations."""
    count = 3
    together = [build(name, make_table(), variant=k) for k in range(count)]
    alone = [build(name, make_table(), variant=k) for k in range(count)]
    _, state = stack_module_state(together)
    template = together[0]

    def step(own: dict[str, Tensor], rows: Tensor, epoch: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = functional_call(Step(template), renamed(own), (rows, epoch, *given))
        return result

    for epoch in (1, 2, 3, 4):
        for rows in BATCHES:
            own_rows = torch.stack([(rows + k) % ROWS for k in range(count)])
            given = [representations(own_rows[k], epoch, seed=k) for k in range(count)]
            stacked = [torch.stack(parts) for parts in zip(*given, strict=True)]
            dims = (0, 0, None, *(0 for _ in stacked))
            joint = vmap(step, in_dims=dims)(state, own_rows, torch.tensor(epoch), *stacked)
            for k, generator in enumerate(alone):
                for a, b in zip(joint, generator.targets(own_rows[k]), strict=True):
                    torch.testing.assert_close(a[k], b, rtol=1e-4, atol=1e-5)
                generator.update(own_rows[k], outputs(*given[k]), torch.tensor(epoch))


class Step(torch.nn.Module):
    """``targets`` and ``update`` as a forward pass, for ``functional_call``."""

    def __init__(self, generator: LabelGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, rows: Tensor, epoch: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        found = self.generator.targets(rows)
        self.generator.update(rows, outputs(*given), epoch)
        return found


def renamed(own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"generator.{n}": t for n, t in own.items()}


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("labels", name, make_table(), FUSED, POST)


@every
def test_state_goes_on_where_it_was(name: str) -> None:
    """All buffers together are the state, as a population's checkpoint holds them."""
    one, other = build(name, make_table()), build(name, make_table())
    course(one)
    saved = {n: b.clone() for n, b in one.named_buffers()}
    for n, b in other.named_buffers():
        b.copy_(saved[n])
    for a, b in zip(course(one, seed=1), course(other, seed=1), strict=True):
        assert torch.equal(a, b)


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("labels", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200
