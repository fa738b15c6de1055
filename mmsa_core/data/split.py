"""One split of a data set, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Split:
    """One split in memory; all arrays have one row per sample, in the order of ``ids``.

    Attributes:
        ids: Unique names, "video$_$clip" where the data set follows MMSA.
        features: By modality [N, T, d]: real rows first, zeros behind. T is the split's longest sequence.
        lengths: By modality [N]: the number of real rows; 0 where the sample lacks the modality.
        labels: Sentiment [N], on the data set's own scale.
        unimodal: By modality [N]: what people said who had only that modality; empty without such labels.
        raw_text: Transcripts; empty where the file has none.
        text_bert: [N, 3, T] BERT's ids, mask and token types as MMSA's files have them; None where the file has none.
        unlabeled: Of the training split: rows without labels (their ``labels`` are 0); None where the file has none.
    """

    ids: tuple[str, ...]
    features: dict[str, NDArray[np.float32]]
    lengths: dict[str, NDArray[np.int64]]
    labels: NDArray[np.float32]
    unimodal: dict[str, NDArray[np.float32]]
    raw_text: tuple[str, ...]
    text_bert: NDArray[np.int64] | None = None
    unlabeled: Split | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def real_rows(self, modality: str) -> NDArray[np.bool_]:
        """Return the mask [N, T] of the rows that are not padding."""
        mask: NDArray[np.bool_] = np.arange(self.features[modality].shape[1]) < self.lengths[modality][:, None]
        return mask


def videos(ids: Sequence[str]) -> NDArray[np.int64]:
    """Number the video of each id: what stands before "$_$", else the id by itself."""
    return np.unique([i.split("$_$")[0] for i in ids], return_inverse=True)[1].astype(np.int64)
