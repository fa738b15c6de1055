"""Members that cannot be stacked: the same numbers as in a population, checkpoints, freezing, rates of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmsa_core import registry
from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec, Population, stackable
from mmsa_core.predict import predict
from mmsa_core.solo import SoloMembers
from mmsa_core.train import Objective, Progress, Verdict, fit
from tests.members import member, optimizer
from tests.strategies.course import parts

Splits = tuple[SplitTensors, SplitTensors]


@pytest.fixture(scope="module")
def with_texts(splits: Splits) -> Splits:
    """The planted splits with transcripts that say the label's sign."""

    def told(part: SplitTensors) -> SplitTensors:
        words = [f"{'very good' if y > 0 else 'not a good'} film {'!' * (i % 3)}" for i, y in enumerate(part.labels)]
        words[3] = ""
        return SplitTensors(replace(part.split, raw_text=tuple(words)), torch.device("cpu"))

    return told(splits[0]), told(splits[1])


def fine_tuned(model: Path, seed: int = 1, *, accumulate: int = 1, **settings: Any) -> MemberSpec:
    text = {"name": "bert", "model": str(model), "lr": 2e-3, **settings}
    tree = {"encoders": {"text": text, "audio": "pool"}, "width": 8, "heads": {"dim": 8}, "batch_size": 16, "epochs": 4}
    tree["optimizer"] = {"accumulate": accumulate}
    return MemberSpec(complete(MemberConfig.from_dict(tree)), seed)


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("labels", ["none", "ulgm"])
def test_equals_a_population(splits: Splits, accumulate: int, labels: str) -> None:
    """Two implementations of training, stacked and plain, agree: losses, predictions and what the labels became."""
    train, valid = splits
    settings = [{**optimizer(k), "accumulate": accumulate, "text": 0.5} for k in range(3)]
    specs = [member(k, optimizer=s, labels=labels) for k, s in enumerate(settings)]
    stacked, solo = Population(specs, train), SoloMembers(specs, train)
    assert len(solo) == 3 and solo.parameters == stacked.parameters
    for epoch in range(1, 4):
        torch.testing.assert_close(solo.train_epoch(epoch), stacked.train_epoch(epoch), rtol=1e-4, atol=1e-5)
        batch = valid.batch(specs[0].config)
        torch.testing.assert_close(solo.predict(batch), stacked.predict(batch), rtol=1e-3, atol=1e-4)
    for name, states in stacked.model_states().items():
        torch.testing.assert_close(solo.model_states()[name], states, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", registry.names("strategies"))
def test_every_strategy_equals_a_population(splits: Splits, name: str) -> None:
    """What a strategy learns on the way too: its state is part of the model's."""
    train, valid = splits
    settings = {"memory": 10, "replayed": 4} if name == "replay" else {}
    specs = [member(k, optimizer=optimizer(k), **parts(name, **settings)) for k in range(2)]
    stacked, solo = Population(specs, train), SoloMembers(specs, train)
    batch = valid.batch(specs[0].config)
    for epoch in range(1, 4):
        torch.testing.assert_close(solo.train_epoch(epoch), stacked.train_epoch(epoch), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(solo.predict(batch), stacked.predict(batch), rtol=1e-3, atol=1e-4)
    mine, theirs = solo.model_states(), stacked.model_states()
    assert mine.keys() == theirs.keys()
    for state, states in mine.items():
        torch.testing.assert_close(states, theirs[state], rtol=1e-3, atol=1e-3)
    again = SoloMembers(specs, train)
    again.restore({n: t.clone() for n, t in solo.state().items()})
    assert torch.equal(again.train_epoch(4), solo.train_epoch(4))
    assert torch.equal(again.predict(batch), solo.predict(batch))


def test_accumulated_batches_are_one_larger_batch(splits: Splits) -> None:
    """Without dropout the mean gradient of two batches of 16 is that of their union."""
    train = SplitTensors(_first(splits[0].split, 32), torch.device("cpu"))
    plain = {
        "encoders": {"text": {"name": "pool"}},
        "alignment": {},
        "heads": {"dim": 8, "dropout": 0.0},
        "labels": "none",
    }
    halves = member(1, **plain, batch_size=16, optimizer={"accumulate": 2})
    whole = member(1, **plain, batch_size=32, optimizer={"accumulate": 1})
    one, other = Population([halves], train), Population([whole], train)
    for epoch in range(1, 4):
        torch.testing.assert_close(one.train_epoch(epoch), other.train_epoch(epoch), rtol=1e-4, atol=1e-5)
    assert one.steps == other.steps == 3


def test_the_signature_says_that_it_trains_alone(tiny_bert: Path) -> None:
    one, other = fine_tuned(tiny_bert, 1), fine_tuned(tiny_bert, 2)
    assert not stackable(one.config) and stackable(member(1).config)
    assert one.signature() != other.signature() and one.config.signature() == other.config.signature()
    assert member(1).signature() == member(2).signature()


def test_the_whole_course_with_checkpoint(with_texts: Splits, tiny_bert: Path, tmp_path: Path) -> None:
    train, valid = with_texts
    specs = [fine_tuned(tiny_bert, seed, dropout=0.1) for seed in (1, 2)]
    whole = fit(specs, train, valid, objective=Objective())
    assert [len(r.curve) for r in whole.runs] == [4, 4] and whole.runs[0].value != whole.runs[1].value
    assert whole.runs[0].curve[0][1] > whole.runs[0].curve[-1][1], "it learns"
    path = tmp_path / "p.safetensors"

    def stop(progress: Progress) -> Verdict:
        return Verdict(stop=progress.epoch == 2)

    assert fit(specs, train, valid, objective=Objective(), on_epoch=stop, checkpoint=path).stopped
    again = fit(specs, train, valid, objective=Objective(), checkpoint=path)
    for a, b in zip(whole.runs, again.runs, strict=True):
        assert a.curve == b.curve and a.value == b.value
        assert a.state is not None and b.state is not None and a.state.keys() == b.state.keys()
        assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)
    alone = fit(specs[1:], train, valid, objective=Objective())
    assert alone.runs[0].curve == whole.runs[1].curve, "its company does not matter"


def test_a_dropped_member_leaves_the_other(with_texts: Splits, tiny_bert: Path) -> None:
    train, valid = with_texts
    specs = [fine_tuned(tiny_bert, seed) for seed in (1, 2)]
    done = fit(
        specs, train, valid, objective=Objective(), on_epoch=lambda p: Verdict(frozenset({0} if p.epoch == 2 else ()))
    )
    assert done.runs[0].dropped and len(done.runs[0].curve) == 2 and done.runs[0].state is None
    assert done.runs[1].curve == fit(specs[1:], train, valid, objective=Objective()).runs[0].curve


@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_exported_state_predicts_the_same(with_texts: Splits, tiny_bert: Path, freeze: int) -> None:
    train, valid = with_texts
    spec = fine_tuned(tiny_bert, freeze=freeze)
    run = fit([spec], train, valid, objective=Objective()).runs[0]
    assert run.state is not None and run.predictions is not None
    assert any("embeddings" in n for n in run.state) == (freeze == 0)
    states = {n: t[None] for n, t in run.state.items()}
    np.testing.assert_allclose(predict(spec.config, states, valid.split)[0], run.predictions, atol=1e-5)


def test_what_is_frozen_stays_and_the_rest_moves(with_texts: Splits, tiny_bert: Path) -> None:
    solo = SoloMembers([fine_tuned(tiny_bert, freeze=2)], with_texts[0])
    module = solo.members[0].member
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    solo.train_epoch(1)
    for n, p in module.named_parameters():
        assert torch.equal(p, before[n]) != p.requires_grad or "key.bias" in n, n


def test_the_body_has_its_own_rate_decay_and_warm_up(with_texts: Splits, tiny_bert: Path) -> None:
    spec = fine_tuned(tiny_bert, lr=0.5, weight_decay=0.25, warmup=2.0)
    solo = SoloMembers([spec], with_texts[0])
    decayed, plain, *others = solo.members[0].optimizer.param_groups
    assert (decayed["peak"], decayed["weight_decay"]) == (0.5, 0.25)
    assert (plain["peak"], plain["weight_decay"]) == (0.5, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in plain["params"])
    assert {g["peak"] for g in others} == {spec.config.optimizer.lr}
    named = sum(len(g["params"]) for g in solo.members[0].optimizer.param_groups)
    assert named == len(list(solo.members[0].member.parameters())), "every parameter is in one group"
    rates = []
    for epoch in (1, 2, 3):
        solo.train_epoch(epoch)
        rates.append((decayed["lr"], others[0]["lr"]))
    assert rates == [(0.25, 1e-3), (0.5, 1e-3), (0.5, 1e-3)], "3 steps an epoch, 6 of warm-up"


def test_bert_reads_text_alone(with_texts: Splits, tiny_bert: Path) -> None:
    config = complete(MemberConfig.from_dict({"encoders": {"audio": {"name": "bert", "model": str(tiny_bert)}}}))
    with pytest.raises(UserError, match=r"encoders.audio: bert reads text alone"):
        with_texts[0].batch(config)


def test_an_empty_text_counts_as_missing(with_texts: Splits, tiny_bert: Path) -> None:
    available = with_texts[0].batch(fine_tuned(tiny_bert).config).available
    assert available[:, 0].tolist() == [i != 3 for i in range(len(available))]


def _first(split: Any, rows: int) -> Any:
    return replace(
        split,
        ids=split.ids[:rows],
        features={m: f[:rows] for m, f in split.features.items()},
        lengths={m: n[:rows] for m, n in split.lengths.items()},
        labels=split.labels[:rows],
        unimodal={m: y[:rows] for m, y in split.unimodal.items()},
    )
