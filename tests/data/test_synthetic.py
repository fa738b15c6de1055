"""The planted data has the truth that it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.source import SPLITS
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import SHAPES, Problem, noise_floor, planted, write_planted
from mmsa_core.errors import UserError


def pooled(split: Split, modality: str) -> np.ndarray:
    return split.features[modality].sum(1) / split.lengths[modality][:, None]


def linear_mae(splits: dict[str, Split], products: bool) -> float:
    """Return the test MAE of ridge regression on pooled features, with or without audio x vision products."""

    def design(split: Split) -> np.ndarray:
        parts = [pooled(split, m) for m in SHAPES]
        if products:
            parts.append((parts[1][:, :, None] * parts[2][:, None, :]).reshape(len(split), -1))
        return np.concatenate([*parts, np.ones((len(split), 1))], axis=1)

    x, y = design(splits["train"]), splits["train"].labels
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    return float(np.abs(design(splits["test"]) @ weights - splits["test"].labels).mean())


@pytest.mark.parametrize("seed", range(3))
def test_products_are_what_modules_needs(seed: int):
    splits, floor = planted(seed), noise_floor(seed)["test"]
    assert linear_mae(splits, products=True) < floor + 0.15
    assert linear_mae(splits, products=False) > floor + 0.4


@pytest.mark.parametrize("seed", range(3))
def test_nothing_helps_in_null(seed: int):
    splits, floor = planted(seed, problem="null"), noise_floor(seed, problem="null")["test"]
    assert floor < linear_mae(splits, products=False) < floor + 0.1
    assert linear_mae(splits, products=True) > linear_mae(splits, products=False) - 0.02
    for modality in ("audio", "vision"):
        r = [np.corrcoef(column, splits["train"].labels)[0, 1] for column in pooled(splits["train"], modality).T]
        assert np.abs(r).max() < 0.2


@pytest.mark.parametrize("problem", ["modules", "null"])
def test_noise_floor_is_the_mean_absolute_noise(problem: Problem):
    floor = noise_floor(0, train=20_000, valid=1, test=1, problem=problem)["train"]
    assert 0.22 < floor <= 0.3 * np.sqrt(2 / np.pi) + 0.005


def test_shapes_and_ids(tmp_path: Path):
    splits = planted(5, train=60, valid=20, test=30)
    videos = [{i.split("$_$")[0] for i in s.ids} for s in splits.values()]
    assert [len(v) for v in videos] == [12, 4, 6] and not videos[0] & videos[1] | videos[0] & videos[2] | videos[
        1
    ] & videos[2]
    for split in splits.values():
        assert np.abs(split.labels).max() <= 3
        for m, shape in SHAPES.items():
            assert split.features[m].shape == (len(split), shape.longest, shape.dim)
            assert split.lengths[m].min() >= shape.shortest and len(set(split.lengths[m].tolist())) > 1
            assert not split.features[m][~split.real_rows(m)].any()
    write_planted(tmp_path / "toy.npz", 5, train=60, valid=20, test=30)
    read = open_dataset(tmp_path / "toy.npz")
    for name in SPLITS:
        np.testing.assert_array_equal(read.split(name).labels, splits[name].labels)
        np.testing.assert_array_equal(read.split(name).lengths["text"], splits[name].lengths["text"])


def test_seed_decides_and_sizes_do_not_interfere():
    a, b, other = planted(1, train=30), planted(1, train=50), planted(2, train=30)
    np.testing.assert_array_equal(a["test"].features["audio"], b["test"].features["audio"])
    assert not np.array_equal(a["test"].labels, other["test"].labels)


def test_unknown_problem():
    with pytest.raises(UserError, match="problem: must be 'modules' or 'null', got 'xor'"):
        planted(0, problem="xor")  # type: ignore[arg-type]
