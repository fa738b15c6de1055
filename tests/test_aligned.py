"""Where an alignment acts: weighted and normalised, on pairs and on a frozen teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors, widths
from mmsa_core.model import Member, complete
from mmsa_core.population import Population
from mmsa_core.solo import SoloMembers
from tests.members import member, several

Splits = tuple[SplitTensors, SplitTensors]
TAUGHT = {"audio-teacher": {"name": "contrastive", "weight": 0.5}, "text-teacher": {"name": "cka", "place": "encoder"}}


def made(splits: Splits, config: MemberConfig) -> Member:
    train = splits[0]
    torch.manual_seed(0)
    return Member(config, widths(train.batch(config), config), train.table(config), train.rows)


def test_a_teacher_trains_in_populations_and_alone(splits: Splits) -> None:
    specs = several(3, alignment=TAUGHT)
    stacked, solo = Population(specs, splits[0]), SoloMembers(specs, splits[0])
    for epoch in (1, 2, 3):
        torch.testing.assert_close(solo.train_epoch(epoch), stacked.train_epoch(epoch), rtol=1e-4, atol=1e-5)
    assert not any("teacher" in n for n in stacked.model_states())


def test_the_loss_is_the_alignment_of_student_and_teacher(splits: Splits) -> None:
    """By hand: the average over time of the text's features through the fixed matrix, valid where both are there."""
    config = member(1, alignment=TAUGHT).config
    module = made(splits, config).eval()
    data = splits[0].batch(config)
    outputs = module.model(data)
    _, taught = module.pairs
    text = data.features[0]
    length = text.mask.sum(1)
    embeddings = torch.stack([v[:n].sum(0) / max(1, int(n)) for v, n in zip(text.values, length, strict=True)])
    x, y = taught.student(outputs.projections[1]), embeddings @ taught.teacher
    valid = data.available[:, 0] & data.available[:, 1]
    x, y = (torch.nn.functional.normalize(t[valid], dim=1) for t in (x, y))
    logits, own = x @ y.T / 0.1, torch.arange(int(valid.sum()))
    cross = torch.nn.functional.cross_entropy
    expected = 0.5 * (cross(logits, own) + cross(logits.T, own)) / 2 / torch.log(valid.sum().float())
    torch.testing.assert_close(taught(outputs, data, splits[0].labels), expected, rtol=1e-4, atol=1e-5)


def test_the_teacher_learns_nothing_and_the_student_does(splits: Splits) -> None:
    config = member(1, alignment=TAUGHT, labels="none").config
    module = made(splits, config)
    (loss,) = module(splits[0].batch(config), torch.arange(45), splits[0].labels, torch.tensor(1))
    loss.backward()
    assert not any("teacher" in n for n, _ in module.named_parameters())
    assert module.pairs[1].student.weight.grad.abs().max() > 0


def test_refusals(tiny_bert: Path) -> None:
    with pytest.raises(UserError, match=r"unknown key 'audio-teacher'"):
        MemberConfig.from_dict({"encoders": {"audio": "pool"}, "alignment": {"audio-teacher": "cka"}})
    bert = {"name": "bert", "model": str(tiny_bert)}
    tree = {"encoders": {"text": bert, "audio": "pool"}, "alignment": {"audio-teacher": "cka"}}
    config = complete(MemberConfig.from_dict(tree))
    with pytest.raises(UserError, match=r"alignment.audio-teacher: the teacher is the frozen features of text"):
        made_of_texts(config)


def made_of_texts(config: MemberConfig) -> Member:
    from mmsa_core.data.synthetic import planted

    split = planted(0, train=4, valid=2, test=2)["train"]
    train = SplitTensors(replace(split, raw_text=("a good film",) * 4), torch.device("cpu"))
    return Member(config, widths(train.batch(config), config), train.table(config), train.rows)
