"""The encoders without recurrence against loops."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from mmsa_core.encoders import linear, pool
from mmsa_core.encoders.attention import AttentionPool
from mmsa_core.encoders.linear import MeanLinear
from mmsa_core.encoders.pool import Pool
from mmsa_core.plugin import Encoder
from mmsa_core.tensors import Features


def make() -> Features:
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 0])[:, None]
    values = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    return Features(values * mask[:, :, None], mask)


def test_pool_prepares_mean_deviation_and_maximum_of_real_frames() -> None:
    features = make()
    found = Pool.prepare(features)
    assert found.values.shape == (4, 1, 9) and found.mask.tolist() == [[True], [True], [True], [False]]
    for n, length in enumerate([5, 1, 3]):
        real = features.values[n, :length].numpy()
        expected = np.concatenate([real.mean(0), real.std(0), real.max(0)])
        np.testing.assert_allclose(found.values[n, 0].numpy(), expected, rtol=1e-12, atol=1e-15)
    assert not found.values[3].any()


@pytest.mark.parametrize(("module", "encoder"), [(pool, Pool), (linear, MeanLinear)])
def test_large_data_is_prepared_in_chunks(
    module: ModuleType, encoder: type[Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make()
    whole = encoder.prepare(features)
    before = module.CHUNK
    monkeypatch.setattr(module, "CHUNK", 3)
    chunked = encoder.prepare(features)
    assert before > 3 and torch.equal(whole.values, chunked.values) and torch.equal(whole.mask, chunked.mask)


def test_linear_is_an_affine_map_of_the_mean_of_real_frames() -> None:
    features = make()
    encoder = MeanLinear(3, dim=2).double()
    with torch.no_grad():
        encoder.out.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]))
        encoder.out.bias.copy_(torch.tensor([0.25, -1.0]))
    prepared = MeanLinear.prepare(features)
    assert prepared.values.shape == (4, 1, 3) and prepared.mask.tolist() == [[True], [True], [True], [False]]
    found = encoder(prepared).tolist()
    for n, length in enumerate([5, 1, 3, 0]):
        frames = features.values[n, :length].tolist()
        a, b, c = ([sum(f[j] for f in frames) / length for j in range(3)]) if frames else (0.0, 0.0, 0.0)
        assert found[n] == pytest.approx([a - 2 * b + 0.5 * c + 0.25, 3 * b + c - 1])


def test_dropout_of_linear_drops_the_inputs_and_keeps_their_mean() -> None:
    """One input of 1 to a weight of 1: the output is 0 or 1 / (1 - p), each in its share of samples."""
    encoder = MeanLinear(1, dim=1, dropout=0.6)
    with torch.no_grad():
        encoder.out.weight.fill_(1.0)
        encoder.out.bias.zero_()
    ones = Features(torch.ones(10_000, 1, 1), torch.ones(10_000, 1, dtype=torch.bool))
    out = encoder.train()(ones)
    kept = out > 0
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 2.5))
    assert 0.38 < kept.float().mean() < 0.42  # 4 standard errors
    assert torch.equal(encoder.eval()(ones), torch.ones(10_000, 1))


def test_attention_is_the_loop() -> None:
    torch.manual_seed(0)
    features = make()
    encoder = AttentionPool(3, dim=4, hidden=6, heads=2).double()
    found = encoder(features)
    for n, length in enumerate([5, 1, 3, 0]):
        frames = encoder.project(features.values[n, :length]).relu()
        scores = encoder.heads(encoder.score(frames).tanh())
        means = []
        for head in range(2):
            exponentials = [torch.exp(scores[t, head]) for t in range(length)]
            terms = [e / sum(exponentials) * frames[t] for t, e in enumerate(exponentials)]
            means.append(sum(terms, torch.zeros(6, dtype=torch.float64)))
        torch.testing.assert_close(found[n], encoder.out(torch.cat(means)))
