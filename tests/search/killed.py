"""Processes that are killed (SIGKILL) where they least want to be: right before or after a file is moved to its place.

They come from a fork server that has everything imported, so that a process costs what its work costs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import optuna
import torch

from search import export, pipeline
from search.engine import Engine
from tests.fuzz.seeds import Inline

SIZE = 4
COUNTING = "the study"
"""Stands for the write that counts an opening."""
Point = tuple[str, str]
"""The name of a file (or ``COUNTING``), and "before" or "after"."""


def process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    made = context.Process(target=work, args=arguments)
    made.start()
    return made


def ended(made: BaseProcess) -> int | None:
    """Wait for a process and return its exit code: -9 where it was killed."""
    made.join()
    return made.exitcode


def confirm(run: Path, point: Point | None = None) -> None:
    """Do what comes after the search, without Ray, and die at a point."""
    torch.set_num_threads(1)
    if point is not None:
        die_at(*point)
    opened, engine = pipeline.open_run(run), cast(Engine, Inline())
    record = pipeline.confirm_stage(opened, engine, SIZE)
    pipeline.explain_stage(opened, engine, SIZE, record)
    export.write_model(opened, record)


def die_at(name: str, when: str) -> None:
    """Have this process killed when it moves a file of this name to its place, or counts an opening."""
    owner, method = (optuna.Study, "set_user_attr") if name == COUNTING else (Path, "replace")
    true = getattr(owner, method)

    def fatal(self: Any, first: Any, *rest: Any) -> Any:
        here = name == COUNTING or Path(first).name == name
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = true(self, first, *rest)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, method, fatal)
