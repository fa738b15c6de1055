"""Runs MMSA 2.2.1's tune mode with clocks around its epochs: a program for MMSA's own interpreter.

``PYTHON mmsa_trial.py DATA.pkl BERT WORKDIR MODEL EPOCHS SETTINGS`` does one try of ``MODEL`` for so many epochs, with
the drawn parameters in ``SETTINGS`` (JSON) fixed, and prints JSON: CPU seconds of loading, and of every epoch (training
and the valid split). What MMSA does not do by itself on this machine is changed around it: a device that is no GPU is
set without complaint, training ends after ``EPOCHS`` (it knows patience only), and the test split, which tune mode
scores every try on, is not evaluated, so that its time is that of training and selection alone. One thread, no loader
processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from MMSA import run as program
from MMSA.trains import ATIO


def main() -> None:
    data, bert, workdir, model, epochs, settings = sys.argv[1:]
    torch.set_num_threads(1)
    torch.cuda.set_device = lambda device: None
    clock: dict[str, Any] = {"epochs": []}
    load = program.MMDataLoader

    def loaded(*args: Any) -> Any:
        began = time.process_time()
        found = load(*args)
        clock["load"] = time.process_time() - began
        clock["mark"] = time.process_time()
        return found

    program.MMDataLoader = loaded
    for trainer in set(ATIO().TRAIN_MAP.values()):
        trainer.do_test = timed(trainer.do_test, clock, int(epochs))
    place = Path(workdir)
    config = {**json.loads(settings), "featurePath": data, "pretrained": bert}
    folders = {f"{name}_dir": str(place / name) for name in ("model_save", "res_save", "log")}
    given = {"config": config, "seeds": [1111], "is_tune": True, "tune_times": 1, "gpu_ids": [], "num_workers": 0}
    program.MMSA_run(model, "mosi", **given, verbose_level=0, **folders)
    sys.stdout.write(json.dumps({k: v for k, v in clock.items() if k in ("load", "epochs")}) + "\n")


def timed(test: Any, clock: dict[str, Any], epochs: int) -> Any:
    """Return a trainer's evaluation that notes when an epoch is over, and ends training after the last."""

    def do_test(self: Any, model: Any, loader: Any, mode: str = "VAL", **more: Any) -> Any:
        if mode == "TEST":
            return clock["valid"]
        clock["valid"] = test(self, model, loader, mode=mode, **more)
        now = time.process_time()
        clock["epochs"].append(now - clock["mark"])
        clock["mark"] = now
        if len(clock["epochs"]) >= epochs:
            torch.save(model.state_dict(), self.args.model_save_path)
            self.args.early_stop = -(10**9)
        return clock["valid"]

    return do_test


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
