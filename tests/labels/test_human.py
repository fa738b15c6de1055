"""Human unimodal labels: those of the file, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmsa_core.data.dataset import open_dataset
from mmsa_core.labels.human import HumanLabels
from mmsa_core.loader import SplitTensors
from mmsa_core.population import Population
from tests.members import member


@pytest.mark.data
def test_chsims_text_labels_are_those_of_the_file(real_data: Path) -> None:
    path = real_data / "chsims2281_labels_text.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the real data sets")
    with np.load(path) as file:
        human, multimodal = file["train/regression_labels_T"], file["train/regression_labels"]
    train = SplitTensors(open_dataset(path, ["text"]).split("train"), torch.device("cpu"))
    specs = [member(k, encoders={"text": "linear"}, alignment={}, labels="human", batch_size=256) for k in (1, 2)]
    population = Population(specs, train)
    population.train_epoch(1)
    generator = population.template.labels
    assert isinstance(generator, HumanLabels) and len(human) == 1368
    rows = torch.randperm(len(human), generator=torch.Generator().manual_seed(0))
    labels, weights = generator.targets(rows)
    np.testing.assert_array_equal(labels.numpy(), human[rows.numpy(), None])
    assert torch.equal(weights, torch.ones(1368, 1))
    for held in population.buffers["labels.table"]:
        np.testing.assert_array_equal(held.numpy(), human[:, None])
    assert not np.array_equal(human, multimodal)
