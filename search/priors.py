"""What the data says before any search: modules that its interactions advise become first trials; none is excluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmsa_core.analysis.advice import Advice, advise
from mmsa_core.analysis.interactions import measure, obstacle
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from search.interactions import rows
from search.nodes import Arms, Leaf, Scalar, Values, options
from search.space import Params, Space
from search.trials import INTERACTIONS, FirstTrial

SHARE = 4
"""At most one part in this many of the budget goes to advised trials."""


def check(train: Split) -> None:
    """Refuse data whose interactions cannot be measured.

    Raises:
        UserError: there are fewer than two modalities, too few rows or videos, or the labels are constant.
    """
    if (reason := obstacle(*rows([train]))) is not None:
        raise UserError(f"priors: {reason}, or set priors: none")


def advice(train: Split) -> list[Advice]:
    """Return what the interactions of the training split's modalities speak for."""
    return advise(measure(*rows([train])))


def first_trials(space: Space, advised: Sequence[Advice], budget: int) -> list[FirstTrial]:
    """Return the baseline with the first advised module that the space has at each advised place, one place a trial,
    and before these one trial with all of them; for at most a quarter of ``budget`` trials.

    Where the space has none of the modules, the trial names the first one and is no point of the space.
    """
    chosen: dict[str, str] = {}
    found = []
    for a in advised:
        if a.place not in chosen:
            chosen[a.place] = arm = _first(space, a)
            found.append(FirstTrial(_point(space, {a.place: arm}), INTERACTIONS, f"{a.place}={arm}, as {a.reason}"))
    if len(found) > 1:
        named = ", ".join(f"{place}={arm}" for place, arm in chosen.items())
        found.insert(0, FirstTrial(_point(space, chosen), INTERACTIONS, f"all advised modules together, {named}"))
    return found[: budget // SHARE]


def _first(space: Space, advised: Advice) -> str:
    known = _options(space.leaves().get(advised.place))
    return next((arm for arm in advised.arms if arm in known), advised.arms[0])


def _point(space: Space, arms: Mapping[str, str]) -> Params:
    """Return the space's defaults with these modules; one that the space lacks is kept, for the ledger to drop."""

    def pick(path: str, leaf: Leaf) -> Scalar:
        return arms[path] if arms.get(path) in _options(leaf) else leaf.default

    return {**space.point(pick)[1], **arms}


def _options(leaf: Leaf | None) -> tuple[Scalar, ...]:
    return options(leaf) if isinstance(leaf, Arms | Values) else ()
