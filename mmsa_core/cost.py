"""What a configuration costs, known before it is trained: the numbers it trains, or the time a prediction takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from mmsa_core.loader import SplitTensors, take, widths
from mmsa_core.model import SentimentModel
from mmsa_core.population import MemberSpec, initialised

WARM_UP, ROUNDS = 5, 30


@dataclass(frozen=True)
class Cost:
    """What to measure: ``parameters``, or the ``latency`` of predictions of ``batch`` utterances at a time."""

    kind: Literal["parameters", "latency"]
    batch: int = 1


def measure(cost: Cost, member: MemberSpec, train: SplitTensors, valid: SplitTensors) -> float:
    """Return a member's cost: the number of its trained parameters, or milliseconds per utterance."""
    return float(parameters(member, train)) if cost.kind == "parameters" else latency(member, valid, cost.batch)


def parameters(member: MemberSpec, train: SplitTensors) -> int:
    """Return how many numbers of a member are trained, those that only training needs among them."""
    (made,) = initialised([member], train.batch(member.config), train)
    return sum(p.numel() for p in made.parameters() if p.requires_grad)


def latency(member: MemberSpec, valid: SplitTensors, batch: int) -> float:
    """Return the milliseconds per utterance of predicting ``batch`` of them at once, on the device of ``valid``.

    It is the median over 30 rounds, after 5 to warm up, of the model alone: features are on the device already, padded
    to the longest of the split. Time is the process's CPU time on a CPU, where neighbours disturb wall time, with as
    many threads as torch is set to, and wall time elsewhere. A split of fewer rows is predicted whole.
    """
    device, data = valid.device, valid.batch(member.config)
    rows = torch.arange(min(batch, len(valid)), device=device)
    shown = take(data, rows)
    seconds = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = SentimentModel(member.config, widths(data, member.config)).to(device).eval()
        for _ in range(WARM_UP + ROUNDS):
            start = _now(device)
            model(shown)
            seconds.append(_now(device) - start)
    return 1000 * median(seconds[WARM_UP:]) / len(rows)


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
