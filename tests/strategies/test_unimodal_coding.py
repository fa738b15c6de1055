"""The two views of a sample, and the loss that asks for their likeness, against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES
from mmsa_core.errors import UserError
from mmsa_core.strategies.unimodal_coding import UnimodalCoding, info_nce
from mmsa_core.tensors import Batch, Features, Outputs
from tests.strategies.course import Data, make_data, make_member, set_key, spoiled, step

NOTHING = {"features": 0.0, "steps": 0.0, "noise": 0.0}
ROWS = torch.arange(16)


def build(modalities: tuple[str, ...] = MODALITIES, /, **settings: Any) -> UnimodalCoding:
    strategy: UnimodalCoding = registry.build("strategies", "unimodal_coding", modalities, **settings)
    set_key(strategy, 5)
    for k, layer in enumerate(m for m in strategy.modules() if hasattr(m, "salt")):
        layer.salt = 1000003 * k  # type: ignore[assignment]
    return strategy


def views(strategy: UnimodalCoding, batch: Batch) -> tuple[Batch, Tensor]:
    """Return what the encoders are given, and the loss where an encoder is the mean over all its numbers' places."""
    asked = []

    def model(given: Batch) -> Outputs:
        asked.append(given)
        n = len(given.available)
        embeddings = tuple(f.values.sum(1) for f in given.features)
        zeros = torch.zeros(n)
        return Outputs(zeros, zeros[:, None][:, :0], zeros[:, None], (), embeddings, (), zeros[:, None])

    n = len(batch.available)
    outputs = model(batch)
    loss = strategy.loss(model, batch, outputs, torch.zeros(n), torch.arange(n))
    (_, given) = asked
    return given, loss


def halves(features: Features) -> tuple[Tensor, Tensor]:
    one, other = features.values.chunk(2)
    return one, other


def slow(a: NDArray[np.float64], b: NDArray[np.float64], valid: NDArray[np.bool_], temperature: float) -> float:
    """Return symmetric InfoNCE by the definition, sample by sample."""
    rows = [i for i in range(len(a)) if valid[i]]

    def cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in rows:
            scores = [math.exp(cosine(x[i], y[j]) / temperature) for j in rows]
            total -= math.log(math.exp(cosine(x[i], y[i]) / temperature) / sum(scores))
    return total / (2 * len(rows))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_equals_a_loop(temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 4, generator=g).double(), torch.randn(9, 4, generator=g).double()
    for valid in (torch.ones(9, dtype=torch.bool), torch.arange(9) % 3 != 1):
        found = info_nce(a, b, valid, temperature)
        assert float(found) == pytest.approx(slow(a.numpy(), b.numpy(), valid.numpy(), temperature), rel=1e-9)
        torch.testing.assert_close(info_nce(b, a, valid, temperature), found)


def test_info_nce_is_log_n_without_knowledge_and_least_where_views_agree() -> None:
    everyone = torch.ones(12, dtype=torch.bool)
    same = torch.ones(12, 5)
    assert float(info_nce(same, same, everyone, 0.1)) == pytest.approx(math.log(12), rel=1e-6)
    basis = torch.eye(12)
    assert float(info_nce(basis, basis, everyone, 0.1)) == pytest.approx(math.log(1 + 11 * math.exp(-10)), rel=1e-2)
    other = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    assert info_nce(basis, other, everyone, 0.1) > info_nce(basis, basis, everyone, 0.1)


@pytest.mark.parametrize("count", [0, 1])
def test_info_nce_of_fewer_than_two_is_0(count: int) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = info_nce(x, x + 1, torch.arange(5) < count, 0.1)
    (g,) = torch.autograd.grad(loss, x)
    assert loss == 0 and not g.any()


def test_info_nce_of_rows_without_length_is_finite() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    loss = info_nce(x, x, torch.ones(4, dtype=torch.bool), 0.1)
    (g,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == pytest.approx(math.log(4), rel=1e-6) and not g.any()


def test_without_alterations_both_views_are_the_sample() -> None:
    data = make_data()
    given, loss = views(build(**NOTHING), data.batch)
    for k in (1, 2):
        for half in halves(given.features[k]):
            assert torch.equal(half, data.batch.features[k].values)
        assert torch.equal(given.features[k].mask, data.batch.features[k].mask.repeat(2, 1))
    least = sum(
        slow(x, x, valid, 0.1) / math.log(valid.sum())
        for x, valid in (
            (data.batch.features[k].values.sum(1).double().numpy(), data.batch.available[:, k].numpy()) for k in (1, 2)
        )
    )
    assert float(loss) == pytest.approx(0.1 * least, rel=1e-4)


def test_the_loss_is_the_weighted_sum_over_chance() -> None:
    data = make_data()
    strategy = build(weight=0.3, temperature=0.4)
    given, loss = views(strategy, data.batch)
    expected = 0.0
    for k in (1, 2):
        one, other = (h.sum(1).double().numpy() for h in halves(given.features[k]))
        valid = data.batch.available[:, k].numpy()
        expected += slow(one, other, valid, 0.4) / math.log(valid.sum())
    assert float(loss) == pytest.approx(0.3 * expected, rel=1e-4)


def test_views_are_drawn_independently_and_anew() -> None:
    data = make_data()
    strategy = build()
    given, _ = views(strategy, data.batch)
    set_key(strategy, 6)
    later, _ = views(strategy, data.batch)
    seen = [*halves(given.features[1]), *halves(later.features[1]), data.batch.features[1].values]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[i + 1 :])


def long_sequences(time: int = 30, dim: int = 20, rows: int = 300) -> Data:
    """Return audio and vision of ones: frames 0 to ``time`` / 2 are real."""
    mask = (torch.arange(time) < time // 2).expand(rows, -1)
    features = Features(torch.ones(rows, time, dim) * torch.where(mask, 1.0, 9.0)[:, :, None], mask)
    data = make_data(("audio", "vision"), labeled=rows)
    return data._replace(batch=Batch((features, features), torch.ones(rows, 2, dtype=torch.bool)))


def test_cutoff_takes_features_in_all_frames_and_whole_frames_at_the_stated_rate() -> None:
    batch = long_sequences().batch
    for settings, dim in (({"features": 0.3}, 1), ({"steps": 0.2}, 2)):
        (rate,) = settings.values()
        given, _ = views(build(("audio", "vision"), **{**NOTHING, **settings}), batch)
        real = given.features[0].values[:, :15]
        gone = (real == 0).all(dim)
        assert torch.equal(gone.unsqueeze(dim).expand_as(real), real == 0)
        assert abs(float(gone.float().mean()) - rate) < 0.01
        assert not torch.equal(given.features[0].values, given.features[1].values), "each modality has its own draws"


def test_noise_has_the_stated_size() -> None:
    given, _ = views(build(("audio", "vision"), **{**NOTHING, "noise": 0.4}), long_sequences().batch)
    added = given.features[0].values[:, :15] - 1
    assert abs(float(added.mean())) < 0.01 and float(added.std()) == pytest.approx(0.4, rel=0.02)


def test_padding_is_as_it_was() -> None:
    batch = long_sequences().batch
    given, _ = views(build(("audio", "vision"), features=0.5, steps=0.5, noise=2.0), batch)
    assert (given.features[0].values[:, 15:] == 9).all()


@pytest.mark.parametrize("junk", [float("nan"), 1e9])
def test_padding_has_no_influence(junk: float) -> None:
    data = make_data()
    member = make_member("unimodal_coding", data, weight=1.0)
    padded = tuple(
        Features(torch.where(f.mask[:, :, None], f.values, torch.tensor(junk)), f.mask) for f in data.batch.features
    )
    (loss, grads), (same, others) = (
        step(member, d, ROWS) for d in (data, data._replace(batch=data.batch._replace(features=padded)))
    )
    assert torch.equal(loss, same) and all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_one_frame_and_one_feature_stay() -> None:
    given, _ = views(build(("audio", "vision"), features=1.0, steps=1.0, noise=0.0), long_sequences().batch)
    assert ((given.features[0].values[:, :15] != 0).flatten(1).sum(1) == 1).all()
    data = make_data(("audio", "vision"))
    single = Batch(tuple(Features(f.values[:, :1], f.mask[:, :1]) for f in data.batch.features), data.batch.available)
    given, _ = views(build(("audio", "vision"), **{**NOTHING, "steps": 0.9}), single)
    assert torch.equal(given.features[0].values, single.features[0].values.repeat(2, 1, 1))


def test_text_is_left_alone_and_costs_no_more_than_a_frame() -> None:
    data = make_data(("text", "audio"))
    given, _ = views(build(("text", "audio")), data.batch)
    assert given.features[0].values.shape[1] == 1 and not given.features[0].mask.any()
    assert not given.available[:, 0].any() and torch.equal(given.available[:, 1], data.batch.available[:, 1].repeat(2))


def test_only_the_coded_encoders_feel_it() -> None:
    data = make_data()
    on, off = (make_member("unimodal_coding", data, weight=w) for w in (0.5, 0.0))
    names = [n for n, _ in on.named_parameters()]
    (_, grads), (_, others) = step(on, data, ROWS), step(off, data, ROWS)
    moved = {n for n, a, b in zip(names, grads, others, strict=True) if not torch.equal(a, b)}
    assert moved and all(n.startswith(("model.encoders.1.", "model.encoders.2.")) for n in moved)
    assert {n.split(".")[2] for n in moved} == {"1", "2"}


def test_without_audio_and_vision_there_is_nothing_to_code() -> None:
    data = make_data(("text",))
    coded, plain = (make_member(n, data, ("text",)) for n in ("unimodal_coding", "none"))
    (loss, grads), (same, others) = step(coded, data, ROWS), step(plain, data, ROWS)
    assert torch.equal(loss, same) and all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_samples_without_the_modality_are_no_candidates() -> None:
    """The loss is that of the samples that have it, with draws of their own."""
    data = make_data(("audio",))
    there = data.batch.available[:, 0]
    everyone, _ = views(build(("audio",), **NOTHING), data.batch)
    some = Batch((Features(*(t[there] for t in data.batch.features[0])),), data.batch.available[there])
    (_, loss), (_, expected) = (views(build(("audio",), **NOTHING), b) for b in (data.batch, some))
    torch.testing.assert_close(loss, expected)
    assert len(everyone.available) == 48 and not there.all()
    hidden = Batch(spoiled(data.batch, ~data.batch.available, 1e9).features, data.batch.available)
    assert torch.equal(views(build(("audio",), **NOTHING), hidden)[1], loss)


def test_dropout_of_the_encoder_is_a_difference_between_the_views() -> None:
    data = make_data(("audio",), missing=False)
    kinds = [{"name": "attention", "dim": 8, "hidden": 8, "heads": 2, "dropout": p} for p in (0.0, 0.5)]
    losses = []
    for encoder in kinds:
        settings = {**NOTHING, "weight": 1.0, "changes": {"encoders": {"audio": encoder}}}
        on = make_member("unimodal_coding", data, ("audio",), **settings)
        off = make_member("unimodal_coding", data, ("audio",), **{**settings, "weight": 0.0})
        losses.append(step(on, data, ROWS)[0] - step(off, data, ROWS)[0])
    assert losses[1] > losses[0] + 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight and noise must be 0 or more and temperature above 0, got -1.0, 0.1 and 0.1"),
        ({"temperature": 0.0}, "temperature above 0, got 0.1, 0.1 and 0.0"),
        ({"features": 1.5}, "features and steps must lie between 0 and 1, got 1.5 and 0.1"),
    ],
)
def test_refusals(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**settings)
