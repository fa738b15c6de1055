"""What every encoder of features must do, for every file found in the folder; those of pre-trained models have their
own contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.noise import Dropout, salt_layers
from mmsa_core.plugin import Encoder
from mmsa_core.tensors import Features
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_near,
    assert_same_alone_and_together,
    float_settings,
    gradients,
    members,
    stackable_encoders,
)

NAMES = stackable_encoders()
ROWS, TIME, WIDTH, DIM = 7, 6, 5, 12
every = pytest.mark.parametrize("name", NAMES)


def make_features(seed: int = 0, time: int = TIME) -> Features:
    """Return sequences of 1 to ``time`` frames; the last one is empty."""
    lengths = torch.tensor([time, 1, 2, 3, 4, time, 0]).clamp(max=time)
    mask = torch.arange(time) < lengths[:, None]
    values = torch.randn(ROWS, time, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Features(values * mask[:, :, None], mask)


def prepared(name: str, features: Features) -> Features:
    result: Features = registry.load("encoders", name).prepare(features)
    return result


def build(name: str, features: Features) -> Encoder:
    """Return an encoder for prepared features."""
    torch.manual_seed(0)
    encoder: Encoder = registry.build("encoders", name, features.values.shape[-1], dim=DIM)
    return encoder


def parameter_gradients(encoder: Encoder, features: Features) -> tuple[Tensor, list[Tensor]]:
    out = encoder(features)
    weights = torch.linspace(-1, 2, out.numel()).view_as(out)
    return out, gradients((out * weights).sum(), list(encoder.parameters()))


def test_some_were_found() -> None:
    assert len(NAMES) >= 2


@every
def test_shape_and_finite_with_an_empty_sequence(name: str) -> None:
    features = prepared(name, make_features())
    encoder = build(name, features)
    out, grads = parameter_gradients(encoder, features)
    assert encoder.dim == DIM and out.shape == (ROWS, DIM) and torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in grads)


@every
@pytest.mark.parametrize("case", ["one row", "all empty", "constant", "one frame"])
def test_degenerate_batches_are_finite(name: str, case: str) -> None:
    f = make_features()
    features = {
        "one row": Features(f.values[:1], f.mask[:1]),
        "all empty": Features(torch.zeros_like(f.values), torch.zeros_like(f.mask)),
        "constant": Features(torch.full_like(f.values, 2.0), torch.ones_like(f.mask)),
        "one frame": Features(f.values[:, :1], torch.ones_like(f.mask[:, :1])),
    }[case]
    features = prepared(name, features)
    out, grads = parameter_gradients(build(name, features), features)
    assert out.shape == (len(features.values), DIM) and torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in grads)


@every
@pytest.mark.parametrize("junk", [1e9, -1e9, float("nan")])
def test_padding_never_changes_the_result(name: str, junk: float) -> None:
    f = make_features()
    longer = Features(
        torch.nn.functional.pad(f.values, (0, 0, 0, 4)).masked_fill(
            ~torch.nn.functional.pad(f.mask, (0, 4))[:, :, None], junk
        ),
        torch.nn.functional.pad(f.mask, (0, 4)),
    )
    features, padded = prepared(name, f), prepared(name, longer)
    encoder = build(name, features)
    out, grads = parameter_gradients(encoder, features)
    other, other_grads = parameter_gradients(encoder, padded)
    assert_near(other, out, rtol=1e-5)
    for a, b in zip(other_grads, grads, strict=True):
        assert_near(a, b)


@every
def test_padding_of_prepared_features_never_reaches_the_result(name: str) -> None:
    features = prepared(name, make_features())
    encoder = build(name, features)
    dirty = features._replace(values=features.values.masked_fill(~features.mask[:, :, None], 1e9))
    out, grads = parameter_gradients(encoder, features)
    other, other_grads = parameter_gradients(encoder, dirty)
    assert torch.equal(other, out)
    assert all(torch.equal(a, b) for a, b in zip(other_grads, grads, strict=True))


@every
def test_real_frames_change_the_result(name: str) -> None:
    f = make_features()
    moved = f.values.clone()
    moved[0, TIME // 2] += 1
    features = prepared(name, f)
    encoder = build(name, features)
    out, other = encoder(features), encoder(prepared(name, Features(moved, f.mask)))
    assert not torch.allclose(out[0], other[0]) and torch.allclose(out[1:], other[1:])


@every
def test_a_sample_does_not_depend_on_the_others(name: str) -> None:
    features = prepared(name, make_features())
    encoder = build(name, features)
    out = encoder(features)
    for i in range(ROWS):
        assert_near(encoder(Features(features.values[i : i + 1], features.mask[i : i + 1]))[0], out[i])
    order = torch.arange(ROWS).flip(0)
    assert_near(encoder(Features(features.values[order], features.mask[order])), out[order])


@every
def test_gradients_reach_every_parameter(name: str) -> None:
    features = prepared(name, make_features())
    encoder = build(name, features)
    _, grads = parameter_gradients(encoder, features)
    found = dict(zip(dict(encoder.named_parameters()), grads, strict=True))
    assert found
    for n, g in found.items():
        assert g.abs().max() > 1e-6, n


@every
@pytest.mark.parametrize("training", [True, False])
def test_members_give_the_same_alone_and_together(name: str, training: bool) -> None:
    several = [prepared(name, make_features(seed)) for seed in range(3)]
    masks = torch.stack([f.mask for f in several])
    values = torch.stack([f.values for f in several])
    made = [m.train(training) for m in members("encoders", name, values.shape[-1])]

    def call(run: object, values: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = run(Features(values, mask))  # type: ignore[operator]
        return out

    assert_same_alone_and_together(made, [values, masks], call)


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("encoders", name, WIDTH)


@every
def test_dropout_acts_in_training_alone(name: str) -> None:
    features = prepared(name, make_features())
    torch.manual_seed(0)
    settings = {k: 0.5 if k == "dropout" else v for k, v in float_settings("encoders", name, 0).items()}
    encoder = registry.build("encoders", name, features.values.shape[-1], **settings)
    salt_layers(encoder)
    dropped, kept = encoder.train()(features), encoder.eval()(features)
    assert torch.equal(dropped, kept) == (not any(isinstance(m, Dropout) for m in encoder.modules()))


@every
def test_state_round_trip(name: str) -> None:
    features = prepared(name, make_features())
    one, other = members("encoders", name, features.values.shape[-1], count=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(features), other.eval()(features))


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("encoders", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200
