"""The only file that knows Ray: hands tasks from a source to workers through Ray Tune, one Tune trial per population.

The source lives in one actor, the desk. Tune's searcher takes tasks from it, workers report every epoch to it and learn
which members to drop, and results go to it. Tune holds no state worth keeping: its experiment is never restored.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from mmsa_core.cache import user_home

# Before Ray is imported: it reads these once.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray sends statistics of use to its makers
os.environ.setdefault("HOME", str(user_home()))  # without one it cannot even be imported
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps every Ray process on the loopback interface
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # else whoever can connect can run code here

import ray
import torch
from ray import tune
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmsa_core.data.split import Split
from mmsa_core.tensors import own_device
from search.desk import Desk, Patience
from search.engine import MakeSource, Placement, Splits, on_cluster
from search.populations import Source, Wait
from search.worker import Worker, explain

ASIDE = "aside"
"""The desk's own thread for a question while it does not answer others."""


class Workers:
    """The desk in an actor on this node, and Ray Tune's workers, on any."""

    gone: tuple[type[Exception], ...] = (ray.exceptions.RayError,)

    def __init__(
        self, make_source: MakeSource, splits: Splits, placement: Placement, patience: Patience | None
    ) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # the run folder's
        desk = ray.remote(num_cpus=0, scheduling_strategy=here, concurrency_groups={ASIDE: 1})(Desk)
        self._desk = desk.remote(partial(_inside, Path.cwd(), make_source), patience)
        self._splits, self._placement = splits, placement
        self.ask("pulse")

    def ask(self, question: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._desk, question).remote(*arguments))

    def unanswered(self) -> float:
        try:
            return float(ray.get(self._desk.unanswered.options(concurrency_group=ASIDE).remote(), timeout=1))
        except ray.exceptions.RayError:  # it is being made, or gone
            return 0.0

    def work(self) -> None:
        _tune(self._desk, self._splits, self._placement)

    def end(self, worker: Any) -> None:
        ray.kill(worker)

    def close(self) -> None:
        ray.kill(self._desk)


def start(placement: Placement) -> bool:
    """Start Ray, or join the cluster, if that is not done yet; tell whether it was done now."""
    if ray.is_initialized():
        return False
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not on_cluster():
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            # of this run alone: Ray's own would be a file that other users of the machine can read
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        arguments |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": (placement.workers or 1) * placement.cpus,
        }
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).addFilter(_is_news)
    ray.init(**arguments)
    return True


def stop() -> None:
    """Leave the cluster, or end Ray."""
    ray.shutdown()


def _inside(folder: Path, make_source: MakeSource) -> Source:
    """Make a source in the driver's working folder, where relative paths begin: a cluster's processes have others."""
    os.chdir(folder)
    return make_source()


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether Tune says something else than that a worker died: the desk is told and has it trained again."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ray.exceptions.RayActorError) and "did not complete" not in str(record.msg)


def _tune(desk: Any, splits: tuple[Split, Split], placement: Placement) -> None:
    """Let Tune work until the source has no more. Whatever ends Tune itself leaves the source untouched."""
    trainable = tune.with_parameters(_Population, train=splits[0], valid=splits[1], desk=desk)
    scratch = tempfile.mkdtemp(prefix="mmsa-search-")
    try:
        tune.Tuner(
            tune.with_resources(trainable, placement.share(ray.cluster_resources())),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(desk),
                num_samples=-1,
                max_concurrent_trials=placement.workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="populations",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    except (ray.exceptions.RayError, tune.TuneError, RuntimeError) as error:
        logging.getLogger(__name__).warning("Ray Tune ended early and is started again: %s", explain(error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Searcher(Searcher):
    """Gives Tune the source's tasks as trials."""

    def __init__(self, desk: Any) -> None:
        super().__init__()
        self.desk = desk
        self.tasks: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        name = ray.get(self.desk.next.remote())
        if name is None:
            return str(Searcher.FINISHED)
        if isinstance(name, Wait):
            return None
        self.tasks[trial_id] = name
        return {"task": name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            ray.get(self.desk.lost.remote(self.tasks[trial_id], "the worker process ended (killed, or out of memory)"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the source's own storage is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("not restored: run the study again and it goes on")


class _Population(tune.Trainable):
    """One Tune trial: one task, trained in one step. The process and its data serve many tasks."""

    def setup(self, config: dict[str, Any], train: Split, valid: Split, desk: Any) -> None:
        torch.set_num_threads(1)
        self.worker = Worker(train, valid, own_device())
        self.desk = desk
        self.name = config["task"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.name = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        own = ray.get_runtime_context().current_actor
        task = ray.get(self.desk.take.remote(self.name, own))
        result = self.worker.run(task, lambda *news: ray.get(self.desk.report.remote(*news)))
        ray.get(self.desk.finish.remote(self.name, result))
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: populations write their own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""
