"""What every fusion must do, for every file found in the folder and for one to three modalities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmsa_core import registry
from mmsa_core.noise import Dropout, salt_layers
from mmsa_core.plugin import Fusion, RegularizedFusion
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_near,
    assert_same_alone_and_together,
    float_settings,
    gradients,
    members,
)

NAMES = registry.names("fusion")
REGULARIZED = [n for n in NAMES if issubclass(registry.load("fusion", n), RegularizedFusion)]
ROWS, WIDTH = 9, 10
every = pytest.mark.parametrize("name", NAMES)
every_regularized = pytest.mark.parametrize("name", REGULARIZED)
any_number = pytest.mark.parametrize("modalities", [1, 2, 3])
any_junk = pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e9])


def build(name: str, modalities: int = 3, /, **settings: Any) -> Any:
    torch.manual_seed(0)
    fusion: Fusion = registry.build("fusion", name, modalities, WIDTH, **settings)
    return fusion


def make_parts(modalities: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return parts and availability: every subset occurs in the first rows; parts that are missing are zero."""
    parts = torch.randn(ROWS, modalities, WIDTH, generator=torch.Generator().manual_seed(seed))
    subsets = torch.arange(ROWS)[:, None] >> torch.arange(modalities) & 1
    available = subsets.flip(0).bool()
    return parts * available[:, :, None], available


def make_many(modalities: int = 3, seed: int = 0, rows: int = 24) -> tuple[Tensor, Tensor]:
    """Return parts and availability of enough rows for a penalty: each modality is missing in a quarter of them."""
    g = torch.Generator().manual_seed(seed)
    available = torch.rand(rows, modalities, generator=g) < 0.75
    return torch.randn(rows, modalities, WIDTH, generator=g).relu() * available[:, :, None], available


def scrambled(fused: Tensor) -> Tensor:
    """Return a loss whose gradient differs in every entry: no symmetry of a fusion, such as a fixed length, hides."""
    return (fused * torch.randn(fused.shape, generator=torch.Generator().manual_seed(7))).sum()


def penalty_and_gradients(fusion: RegularizedFusion, parts: Tensor, available: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the penalty and its gradients: of the parts first, then of every parameter."""
    parts = parts.clone().requires_grad_()
    penalty = fusion.penalty(parts, available)
    return penalty, gradients(penalty, [parts, *fusion.parameters()])


class Penalty(nn.Module):
    """The penalty of a fusion as a module, for what runs modules."""

    def __init__(self, fusion: Any) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, parts: Tensor, available: Tensor) -> Tensor:
        penalty: Tensor = self.fusion.penalty(parts, available)
        return penalty


def test_some_were_found() -> None:
    assert len(NAMES) >= 3 and len(REGULARIZED) >= 2


@every
@any_number
def test_shape_and_gradients_for_any_subset(name: str, modalities: int) -> None:
    fusion = build(name, modalities)
    parts, available = make_parts(modalities)
    parts.requires_grad_()
    fused = fusion(parts, available)
    assert fused.shape == (ROWS, fusion.dim) and torch.isfinite(fused).all()
    (g,) = gradients(scrambled(fused), [parts])
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
@any_number
@any_junk
def test_what_a_missing_modality_holds_does_not_matter(name: str, modalities: int, junk: float) -> None:
    fusion = build(name, modalities)
    clean, available = make_parts(modalities)
    dirty = torch.where(available[:, :, None], clean, torch.tensor(junk))
    results = []
    for parts in (clean, dirty):
        parts = parts.clone().requires_grad_()
        fused = fusion(parts, available)
        results.append([fused, *gradients(scrambled(fused), [parts, *fusion.parameters()])])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)
    assert not results[1][1][~available].any()


@every
def test_divergence_shows_in_its_own_row_alone(name: str) -> None:
    fusion = build(name)
    parts, available = make_parts()
    healthy = fusion(parts, available)
    for row, modality in available.nonzero().tolist():
        sick = parts.clone()
        sick[row, modality, 0] = float("nan")
        fused = fusion(sick, available)
        assert fused[row].isnan().any(), "divergence must show, not pass for a part of length 0"
        others = torch.arange(ROWS) != row
        assert torch.equal(fused[others], healthy[others])


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
    loss = (fused * torch.randn_like(fused)).sum()
    if isinstance(fusion, RegularizedFusion):  # as in training: some parameters serve the penalty alone
        loss = loss + fusion.penalty(parts, available)
    own = dict(fusion.named_parameters())
    for n, g in zip(own, gradients(loss, list(own.values())), strict=True):
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


@every_regularized
def test_weights_are_float_arguments(name: str) -> None:
    weights = registry.load("fusion", name).weights
    assert weights and len(set(weights)) == len(weights)
    assert set(weights) <= {p.name for p in registry.card("fusion", name).parameters if p.kind == "float"}


@every_regularized
@any_number
def test_penalty_is_a_scalar_at_or_above_0(name: str, modalities: int) -> None:
    penalty, found = penalty_and_gradients(build(name, modalities), *make_many(modalities))
    assert penalty.shape == () and torch.isfinite(penalty) and penalty >= 0
    assert all(torch.isfinite(g).all() for g in found)


@every_regularized
def test_penalty_teaches_the_encoders_of_all_modalities(name: str) -> None:
    parts, available = make_many()
    penalty, (g, *_) = penalty_and_gradients(build(name), parts, available)
    assert penalty > 0
    assert all(g[:, m].any() for m in range(3)) and not g[~available].any()


@every_regularized
@pytest.mark.parametrize("rows", [0, 1])
def test_penalty_of_less_than_two_rows_is_0(name: str, rows: int) -> None:
    parts, _ = make_many()
    available = (torch.arange(len(parts)) < rows)[:, None].expand(-1, 3)
    penalty, found = penalty_and_gradients(build(name), parts, available)
    assert penalty == 0 and not any(g.any() for g in found)
    alone, found = penalty_and_gradients(build(name), parts[:1], available[:1])
    assert alone == 0 and not any(g.any() for g in found)


@every_regularized
@any_number
@pytest.mark.parametrize("case", ["constant", "zero", "huge", "tiny", "equal rows in pairs", "apart"])
def test_penalty_of_degenerate_parts_is_finite(name: str, modalities: int, case: str) -> None:
    parts, available = make_many(modalities)
    parts, available = {
        "constant": (torch.full_like(parts, 2.5), available),
        "zero": (torch.zeros_like(parts), available),
        "huge": (parts * 1e4, available),
        "tiny": (parts * 1e-6, available),
        "equal rows in pairs": (torch.cat([parts, parts]), torch.cat([available, available])),
        # no sample has two modalities
        "apart": (parts, torch.arange(len(parts))[:, None] % modalities == torch.arange(modalities)),
    }[case]
    penalty, found = penalty_and_gradients(build(name, modalities), parts, available)
    assert torch.isfinite(penalty) and 0 <= penalty < 100
    assert all(torch.isfinite(g).all() for g in found)


@every_regularized
@any_number
@any_junk
def test_what_a_missing_modality_holds_does_not_matter_to_the_penalty(name: str, modalities: int, junk: float) -> None:
    fusion = build(name, modalities)
    parts, available = make_many(modalities)
    clean = penalty_and_gradients(fusion, parts, available)
    dirty = penalty_and_gradients(fusion, torch.where(available[:, :, None], parts, torch.tensor(junk)), available)
    assert torch.equal(clean[0], dirty[0])
    assert all(torch.equal(a, b) for a, b in zip(clean[1], dirty[1], strict=True))
    # nor does a row that has nothing at all
    longer = torch.cat([parts, torch.full((1, modalities, WIDTH), junk)])
    penalty, (g, *rest) = penalty_and_gradients(
        fusion, longer, torch.cat([available, torch.zeros(1, modalities, dtype=torch.bool)])
    )
    assert_near(penalty, clean[0])
    for mine, theirs in zip([g[:-1], *rest], clean[1], strict=True):
        assert_near(mine, theirs)


@every_regularized
def test_divergence_shows_in_the_penalty(name: str) -> None:
    parts, available = make_many()
    for modality in range(3):
        sick = parts.clone()
        sick[available[:, modality].nonzero()[0, 0], modality] = float("nan")
        assert build(name).penalty(sick, available).isnan()


@every_regularized
def test_order_of_the_batch_does_not_matter_to_the_penalty(name: str) -> None:
    parts, available = make_many()
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(3))
    penalty, (g, *rest) = penalty_and_gradients(build(name), parts, available)
    other, (h, *others) = penalty_and_gradients(build(name), parts[order], available[order])
    assert_near(penalty, other)
    assert_near(g[order], h)
    for mine, theirs in zip(rest, others, strict=True):
        assert_near(mine, theirs)


@every_regularized
@any_number
def test_weights_of_0_are_the_same_as_no_penalty(name: str, modalities: int) -> None:
    fusion = build(name, modalities, **dict.fromkeys(registry.load("fusion", name).weights, 0.0))
    parts, available = make_many(modalities)
    parts.requires_grad_()
    wanted = [parts, *fusion.parameters()]
    loss = scrambled(fusion(parts, available))
    absent = gradients(loss, wanted)
    with_it = scrambled(fusion(parts, available)) + fusion.penalty(parts, available)
    assert torch.equal(with_it, loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients(with_it, wanted), absent, strict=True))


@every_regularized
def test_each_weight_scales_a_term_of_its_own(name: str) -> None:
    parts, available = make_many()
    weights = registry.load("fusion", name).weights

    def penalty(**values: float) -> Tensor:
        found: Tensor = build(name, **{**dict.fromkeys(weights, 0.0), **values}).penalty(parts, available)
        return found

    terms = {w: penalty(**{w: 0.2}) for w in weights}
    assert all(t > 0 for t in terms.values())
    for w, term in terms.items():
        torch.testing.assert_close(penalty(**{w: 0.6}), 3 * term)
    torch.testing.assert_close(penalty(**dict.fromkeys(weights, 0.2)), sum(terms.values()))


@every_regularized
@any_number
def test_penalties_are_the_same_alone_and_together(name: str, modalities: int) -> None:
    made: list[nn.Module] = [Penalty(m) for m in members("fusion", name, modalities, WIDTH)]
    several = [make_many(modalities, seed) for seed in range(3)]
    inputs = [torch.stack([p for p, _ in several]), torch.stack([a for _, a in several])]
    assert_same_alone_and_together(made, inputs, lambda run, *given: run(*given))


@every_regularized
def test_a_member_that_diverged_does_not_disturb_the_penalty_of_the_others(name: str) -> None:
    fusion = build(name)
    parts, available = make_many()

    def run(other: float) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([parts, torch.full_like(parts, other)]).requires_grad_()
        both = torch.func.vmap(lambda p: fusion.penalty(p, available))(stacked)
        return both, gradients(both.sum(), [stacked])[0]

    (healthy, g), (beside_nan, h) = run(1.0), run(float("nan"))
    assert torch.equal(healthy[0], beside_nan[0]) and torch.equal(g[0], h[0]) and beside_nan[1].isnan()
