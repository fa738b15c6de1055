"""The one exception for a user's mistake: a sentence with place, value, rule and fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1500
"""Characters of a sentence; the names of all plug-ins take some hundreds."""


class UserError(Exception):
    """A mistake in what the user gave: the command line prints it as one sentence and exits with code 2.

    What a file put into the sentence cannot break its line or speak to the terminal: it is shown in printable
    characters.

    >>> str(UserError("a\\tb:\\x1b[31m"))
    'a b:\\\\x1b[31m'
    """

    def __init__(self, sentence: str) -> None:
        text = " ".join(sentence.split())
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known spelling, or the list of known words.

    >>> nearest("corall", ["coral", "cmd"])
    "; did you mean 'coral'?"
    """
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(names)}"
