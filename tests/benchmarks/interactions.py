"""What mmsa-search interactions claims of made-up data whose truth is known: python -m tests.benchmarks.interactions"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mmsa_core.analysis.interactions import measure
from mmsa_core.analysis.sources import Sources

ROWS, CLIPS, SEEDS = 600, 12, 25
WIDTHS = {"text": 40, "audio": 20, "vision": 20}
PARTS = ("redundancy", "unique_first", "unique_second", "synergy", "products")
KINDS = ("noise", "videos", "text", "sum")


def made(kind: str, seed: int) -> tuple[Sources, NDArray[np.float32]]:
    """Return features and labels: unrelated ("noise"), unrelated with levels of each video in both ("videos"), labels
    of text alone ("text"), or of text plus audio, equally strong ("sum")."""
    rng = np.random.default_rng(seed)
    videos = np.arange(ROWS) // CLIPS
    x = {m: rng.standard_normal((ROWS, d)) for m, d in WIDTHS.items()}
    y = rng.standard_normal(ROWS)
    if kind == "videos":
        y += rng.standard_normal(ROWS)[videos]
        x = {m: z + rng.standard_normal(z.shape)[videos] for m, z in x.items()}
    if kind == "text":
        y = 0.5 * y + x["text"][:, :3].sum(1)
    if kind == "sum":
        y += 0.7 * (x["text"][:, 0] + x["audio"][:, 0])
    return Sources(x, {m: np.ones(ROWS, bool) for m in x}, videos), y.astype(np.float32)


def claims(kind: str, seed: int) -> Iterator[str]:
    found = measure(*made(kind, seed))
    for c in (*found.pairs, *found.one_versus_rest):
        for part in PARTS:
            quantity = getattr(c, part)
            if quantity is not None and quantity.resolved:
                yield f"{c.first}, {c.second}: {part}"


def main() -> None:
    for kind in KINDS:
        each = [list(claims(kind, seed)) for seed in range(SEEDS)]
        counted = Counter(claim for own in each for claim in own)
        sys.stdout.write(f"{kind}: {sum(map(bool, each))} of {SEEDS} seeds with claims\n")
        for claim, times in sorted(counted.items()):
            sys.stdout.write(f"  {claim} {times}\n")


if __name__ == "__main__":
    main()
