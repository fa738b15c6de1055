"""What every fusion must do, for every file found in the folder and for one to three modalities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.noise import Dropout, salt_layers
from mmsa_core.plugin import Fusion
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_near,
    assert_same_alone_and_together,
    float_settings,
    gradients,
    members,
)

NAMES = registry.names("fusion")
ROWS, WIDTH = 9, 10
every = pytest.mark.parametrize("name", NAMES)
any_number = pytest.mark.parametrize("modalities", [1, 2, 3])


def build(name: str, modalities: int = 3) -> Fusion:
    torch.manual_seed(0)
    fusion: Fusion = registry.build("fusion", name, modalities, WIDTH)
    return fusion


def make_parts(modalities: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return parts and availability: every subset occurs in the first rows; parts that are missing are zero."""
    parts = torch.randn(ROWS, modalities, WIDTH, generator=torch.Generator().manual_seed(seed))
    subsets = torch.arange(ROWS)[:, None] >> torch.arange(modalities) & 1
    available = subsets.flip(0).bool()
    return parts * available[:, :, None], available


def test_some_were_found() -> None:
    assert len(NAMES) >= 3


@every
@any_number
def test_shape_and_gradients_for_any_subset(name: str, modalities: int) -> None:
    fusion = build(name, modalities)
    parts, available = make_parts(modalities)
    parts.requires_grad_()
    fused = fusion(parts, available)
    assert fused.shape == (ROWS, fusion.dim) and torch.isfinite(fused).all()
    (g,) = gradients(fused.square().sum(), [parts])
    assert torch.isfinite(g).all() and g[available].abs().sum(1).gt(0).all()


@every
@any_number
@pytest.mark.parametrize("case", ["all missing", "constant", "one row"])
def test_degenerate_batches_are_finite(name: str, modalities: int, case: str) -> None:
    fusion = build(name, modalities)
    rows = 1 if case == "one row" else ROWS
    parts = torch.full((rows, modalities, WIDTH), 0.0 if case == "all missing" else 2.5, requires_grad=True)
    fused = fusion(parts, torch.full((rows, modalities), case != "all missing"))
    assert fused.shape == (rows, fusion.dim) and torch.isfinite(fused).all()
    for g in gradients(fused.square().sum(), [parts, *fusion.parameters()]):
        assert torch.isfinite(g).all()


@every
def test_a_sample_does_not_depend_on_the_others(name: str) -> None:
    fusion = build(name)
    parts, available = make_parts()
    fused = fusion(parts, available)
    order = torch.arange(ROWS).flip(0)
    assert_near(fusion(parts[order], available[order]), fused[order])
    for i in range(ROWS):
        assert_near(fusion(parts[i : i + 1], available[i : i + 1])[0], fused[i])


@every
def test_every_modality_counts(name: str) -> None:
    fusion = build(name)
    parts, _ = make_parts()
    available = torch.ones(ROWS, 3, dtype=torch.bool)
    whole = fusion(parts + 0.1, available)
    for m in range(3):
        without = torch.arange(3) != m
        assert not torch.allclose(fusion((parts + 0.1) * without[:, None], available & without), whole)


@every
def test_gradients_reach_every_parameter(name: str) -> None:
    fusion = build(name)
    parts, available = make_parts()
    fused = fusion(parts, available)
    own = dict(fusion.named_parameters())
    for n, g in zip(own, gradients((fused * torch.randn_like(fused)).sum(), list(own.values())), strict=True):
        assert g.abs().max() > 1e-6, n


@every
@any_number
@pytest.mark.parametrize("training", [True, False])
def test_members_give_the_same_alone_and_together(name: str, modalities: int, training: bool) -> None:
    made = [m.train(training) for m in members("fusion", name, modalities, WIDTH)]
    several = [make_parts(modalities, seed) for seed in range(3)]
    inputs = [torch.stack([p for p, _ in several]), torch.stack([a for _, a in several])]
    assert_same_alone_and_together(made, inputs, lambda run, *given: run(*given))


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("fusion", name, 3, WIDTH)


@every
def test_dropout_acts_in_training_alone(name: str) -> None:
    settings = float_settings("fusion", name, 0)
    torch.manual_seed(0)
    fusion = registry.build("fusion", name, 3, WIDTH, **{k: 0.5 if k == "dropout" else v for k, v in settings.items()})
    salt_layers(fusion)
    parts, available = make_parts()
    dropped, kept = fusion.train()(parts, available), fusion.eval()(parts, available)
    assert torch.equal(dropped, kept) == (not any(isinstance(m, Dropout) for m in fusion.modules()))


@every
def test_state_round_trip(name: str) -> None:
    one, other = members("fusion", name, 3, WIDTH, count=2)
    parts, available = make_parts()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(parts, available), other.eval()(parts, available))


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("fusion", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200
