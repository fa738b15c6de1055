"""The encoders without recurrence against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmsa_core.encoders import pool
from mmsa_core.encoders.attention import AttentionPool
from mmsa_core.encoders.pool import Pool
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


def test_pool_prepares_large_data_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = make()
    whole = Pool.prepare(features)
    before = pool.CHUNK
    monkeypatch.setattr(pool, "CHUNK", 3)
    chunked = Pool.prepare(features)
    assert before > 3 and torch.equal(whole.values, chunked.values) and torch.equal(whole.mask, chunked.mask)


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
