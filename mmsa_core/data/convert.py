"""Turns an MMSA pickle into the native format, once, so that no pickle is opened again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmsa_core.data.checks import check_structure, choose_modalities, used_keys
from mmsa_core.data.mmsa_pickle import MmsaPickleSource
from mmsa_core.data.npz import write_arrays
from mmsa_core.data.source import SPLITS, TEXT_BERT
from mmsa_core.errors import UserError


def convert(source: str | Path, target: str | Path) -> None:
    """Write an MMSA ``.pkl`` as ``.npz``: what is read of it, in small dtypes, and ``text_bert`` as int32.

    Padding and non-finite values stay as they are, but for -inf in audio, which is 0 as in MMSA.

    Raises:
        UserError: the file is missing, refused or damaged, its structure is wrong, or the target is no ``.npz``.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".npz":
        raise UserError(f"{target}: the target must end in .npz, got suffix {target.suffix!r}")
    if not source.is_file():
        raise UserError(f"{source}: there is no such file; give the path of an MMSA pickle")
    if source.suffix == ".npz":
        raise UserError(f"{source}: is an .npz already; only MMSA's pickles need to be converted, so use it as it is")
    pickled = MmsaPickleSource(source)
    modalities = choose_modalities(pickled, None)
    check_structure(pickled, modalities)
    arrays = {key: pickled.read(key) for split in SPLITS for key in used_keys(pickled, split, modalities)}
    small = {key: a.astype(np.float32) if a.dtype == np.float64 else a for key, a in arrays.items()}
    tokens = {key: a.astype(np.int32) for key, a in arrays.items() if key.endswith(f"/{TEXT_BERT}")}
    write_arrays(target, small | tokens)
