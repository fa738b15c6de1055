"""Text for the cells of a CSV file, which a spreadsheet shows and does not run."""

from __future__ import annotations

APOSTROPHE = "'"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", APOSTROPHE)
"""How a formula begins, also in full-width characters; the apostrophe, so that one at the front is always ours."""


def cell(text: str) -> str:
    """Return text with an apostrophe before what a spreadsheet would take for a formula.

    Source: OWASP, CSV Injection.

    >>> cell("=1+1"), cell("video_3$_$1")
    ("'=1+1", 'video_3$_$1')
    """
    return f"{APOSTROPHE}{text}" if text.startswith(FORMULA) else text
