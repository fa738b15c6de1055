"""The one door to mmsa_core: trains a task's population, reports its epochs, and finds the member that breaks it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mmsa_core.config import MemberConfig
from mmsa_core.cost import measure
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec
from mmsa_core.train import MemberRun, Objective, Progress, Verdict, fit, marks
from search.populations import Outcome, Reply, Report, Result, Slot, Task, split_task

MALLOC = {-1: 2**31 - 1, -2: 2**26, -4: 0}
"""Options of ``mallopt``: M_TRIM_THRESHOLD, M_TOP_PAD (bytes) and M_MMAP_MAX of ``malloc.h``."""


class Worker:
    """Holds the data on one device and trains one task after another."""

    def __init__(self, train: Split, valid: Split, device: torch.device) -> None:
        keep_memory()
        self.train = SplitTensors(train, device)
        self.valid = SplitTensors(valid, device)

    def run(self, task: Task, report: Report) -> Result:
        """Train a task. Whatever goes wrong inside fails the member that causes it, with its reason, and no other.

        When training raises, the population is halved until the guilty member stands alone. For want of memory no
        member is guilty: a task of several trials comes back as too large.
        """
        try:
            return self._fit(task, report)
        except Exception as error:
            reason, too_large = explain(error), is_want_of_memory(error)
        if self.train.device.type == "cuda":
            torch.cuda.empty_cache()
        if too_large and len({s.trial for s in task.slots}) > 1:
            return Result([], False, 0.0, 0, too_large=True)
        halves = split_task(task)
        if len(halves) == 1:
            return Result([Outcome(failure=reason)], False, 0.0, 0)
        first, second = halves
        return _join(self._whole(first, report), self._whole(second, _shifted(report, len(first.slots))))

    def _whole(self, task: Task, report: Report) -> Result:
        """Train a half; one that is too large by itself is halved again here, as its other half is trained already."""
        result = self.run(task, report)
        if not result.too_large:
            return result
        first, second = split_task(task)
        return _join(self._whole(first, report), self._whole(second, _shifted(report, len(first.slots))))

    def _fit(self, task: Task, report: Report) -> Result:
        members = [member(slot) for slot in task.slots]
        cost = None if task.cost is None else measure(task.cost, members[0], self.train, self.valid)

        def on_epoch(progress: Progress) -> Verdict:
            reply = report(task.name, progress.epoch, progress.values, cost)
            return Verdict(reply.drop, reply.stop)

        done = fit(
            members,
            self.train,
            self.valid,
            objective=Objective(task.metric, task.convention),
            on_epoch=on_epoch,
            checkpoint=_sound(task.checkpoint, members),
            checkpoint_epochs=task.rungs,
        )
        outcomes = [_outcome(r, m, task.keep_states) for r, m in zip(done.runs, members, strict=True)]
        return Result(outcomes, done.stopped, done.seconds, done.parameters, cost)


def member(slot: Slot) -> MemberSpec:
    """Return the member that a slot describes, its configuration completed and checked."""
    return MemberSpec(complete(MemberConfig.from_dict(slot.config)), slot.seed)


def keep_memory() -> None:
    """Have the C library keep freed memory for the next step: an LSTM's is 1.1 to 1.4 times as fast, as pages need not
    be cleared again. Other C libraries than GNU's are left as they are."""
    with suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.items():
            set_option(option, value)


def is_want_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory, of the device or of the machine, is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def explain(error: BaseException) -> str:
    """Return an exception as one short line, with the place in the code where it is not the user's mistake."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, UserError):
        return text
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "site-packages" not in code.co_filename:
            place = f" ({Path(code.co_filename).name}:{trace.tb_lineno} in {code.co_name})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {text}{place}"


def _sound(checkpoint: str | None, members: Sequence[MemberSpec]) -> Path | None:
    """Return the checkpoint's path; a file that is damaged or of other members is removed first."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                own = json.loads(file.metadata()["course"])["members"] == marks(members)
        except (SafetensorError, KeyError, TypeError, ValueError):
            own = False
        if not own:
            path.unlink()
    return path


def _shifted(report: Report, start: int) -> Report:
    """Return ``report`` for the part of a task whose slots begin at ``start``."""

    def shifted(name: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        reply = report(name, epoch, {start + k: v for k, v in values.items()}, cost)
        return Reply(frozenset(k - start for k in reply.drop), reply.stop)

    return shifted


def _join(first: Result, second: Result) -> Result:
    return Result(
        first.outcomes + second.outcomes,
        first.stopped or second.stopped,
        first.seconds + second.seconds,
        max(first.parameters, second.parameters),
        second.cost if first.cost is None else first.cost,
    )


def _outcome(run: MemberRun, spec: MemberSpec, keep_state: bool) -> Outcome:
    state = {n: t.numpy() for n, t in run.state.items()} if keep_state and run.state is not None else None
    config = spec.config.to_dict()
    return Outcome(run.value, run.best_epoch, run.curve, run.predictions, run.failure, run.dropped, config, state)
