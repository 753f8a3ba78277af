"""What people read for the quality of a model: accuracy, or what a task calls it.

Keys of results.json and names in the code stay as they are whatever a task measures;
words for people and columns of tables go through here.
"""

import re
from collections.abc import Iterable

ACCURACY = "accuracy"
# A word, or the last part of a column's name; not `stop_accuracy`, which is an option.
_WORD = re.compile(r"(?<![A-Za-z_])([Aa])ccuracy(?![A-Za-z_])")
_PIECE = re.compile(r"(?<![A-Za-z])accuracy(?![A-Za-z])")


def told(text: str, quality: str) -> str:
    """Return words for people, in which accuracy has the task's name."""
    if quality == ACCURACY:
        return text

    def name(match: re.Match[str]) -> str:
        # R^2 at the beginning of a sentence stays what it is.
        capital = match[1] == "A" and quality[:2].isalpha()
        return quality[:1].upper() + quality[1:] if capital else quality

    return _WORD.sub(name, text)


def columns_told(names: Iterable[object], quality: str) -> dict[str, str]:
    """Return the names of a table's columns, each with what it is called for people.

    ``test_accuracy`` is ``test_R2`` where the quality is R2.
    """
    return {
        str(name): str(name)
        if quality == ACCURACY
        else _PIECE.sub(lambda _: quality, str(name))
        for name in names
    }
