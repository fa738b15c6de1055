"""Writes the files of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsa_core.atomic import replacing, write_text
from search.populations import Outcome, Slot
from search.yaml_io import write_yaml


def write_trial(folder: Path, members: Sequence[tuple[Slot, Outcome]]) -> None:
    """Write a trial's configuration, curves, predictions on the valid split, and error.

    What became of the trial is in the study, which is synced; these files are not, as there are many of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slot, outcome = members[0]
    write_yaml(folder / "config.yaml", outcome.config if outcome.config is not None else dict(slot.config), False)
    lines = ["seed,epoch,train_loss,valid"]
    lines += [f"{s.seed},{e},{loss:.6g},{value:.6g}" for s, o in members for e, loss, value in o.curve]
    write_text(folder / "curve.csv", "\n".join(lines) + "\n", sync=False)
    predictions = {f"seed_{s.seed}": o.predictions for s, o in members if o.predictions is not None}
    if predictions:
        with replacing(folder / "valid_predictions.npz", sync=False) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **predictions)  # type: ignore[arg-type]  # numpy's stub knows only allow_pickle
    failures = [f"seed {s.seed}: {o.failure}" for s, o in members if o.failure is not None]
    if failures:
        write_text(folder / "error.txt", "\n".join(failures) + "\n", sync=False)
    else:  # of a try that was killed before the study knew of it
        (folder / "error.txt").unlink(missing_ok=True)
