"""Texts from outside: checked where they enter, or made fit to be written and shown.

A text may come from the command line, whose bytes need be no UTF-8 (Python then has
lone surrogates in it, which nothing can encode), or from a client, which may send
escape codes or megabytes.
"""

import os
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

from fedneg.core.errors import FedNegError

# What is kept of a client's words: of a reason, or of what it sent instead of a number.
MAX_TEXT = 300
# Of a text that an operator gives: it goes on into the audit log and the receipt.
MAX_REASON = 500
CUT = "..."
# Joiners that Persian, and families of emojis, are written with.
_JOINERS = "\u200c\u200d"


def one_line(text: str, most: int = MAX_TEXT) -> str:
    """Return a text in one line that any file, log and terminal may hold.

    White space becomes single spaces; what is not printable (escape codes, lone
    surrogates, what turns the direction of writing) becomes a backslash and its number.
    Of a longer text the beginning and the end are kept, `most` characters in all: an
    error names its file first and its rule last.
    """
    if len(text) > 8 * most:  # nobody's megabytes are looked at one by one
        text = text[: 4 * most] + text[-4 * most :]
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    if len(text) <= most:
        return text
    tail = most // 3
    return text[: most - tail - len(CUT)] + CUT + text[-tail:]


def printable(text: str) -> str:
    """Return text without what would move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return what goes on an error's line: the known word that is most like this one.

    Of dotted keys the last part counts twice: client.lr is nothing like client.device.

    Returns
    -------
    str
        ``"; did you mean strategy.scale?"``, or nothing if none is like it.
    """
    names = sorted(set(known) - {word}) if word else []
    above, _, last = word.rpartition(".")
    tails = {name: name.rpartition(".")[2] for name in names}
    found = [n for n in names if n.startswith(f"{above}.") or not above]
    # scale for strategy.scale, client.lr for client.learning_rate.
    found = [n for n in found if tails[n] == last or _initials(tails[n]) == last]
    if not found:
        alike = [n for n in names if get_close_matches(last, [tails[n]])]
        found = get_close_matches(word, alike, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _initials(name: str) -> str:
    """Return lr of learning_rate, and nothing of a single word."""
    parts = name.split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""


def check_text(name: str, value: str, *, most: int = MAX_REASON) -> str:
    """Return a text that may be stored, signed and shown as it is.

    Raises
    ------
    FedNegError
        If it is longer than `most`, no Unicode, or has a control character in it.
    """
    for place, char in enumerate(value):
        if _steers(char):
            kind = "bytes that are no UTF-8" if _is_surrogate(char) else "one"
            raise FedNegError(
                f"{name} must be text in one line, without control characters, got "
                f"{kind}: {_escaped(char)} at place {place}"
            )
    if len(value) > most:
        raise FedNegError(
            f"{name} must have at most {most} characters, got {len(value)}"
        )
    return value


def check_utf8(name: str, value: str | os.PathLike[str]) -> None:
    """Raise FedNegError unless a path, or another word of a command line, is UTF-8.

    No JSON, CSV or message could hold it.
    """
    text = os.fspath(value)
    if any(map(_is_surrogate, text)):
        raise FedNegError(f"{name} must be UTF-8, got {one_line(text)}")


def _steers(char: str) -> bool:
    """Return whether a character is an instruction to a terminal, or no Unicode."""
    # Cc: control, Cf: direction of writing and the like, Cs: half of a character, Zl
    # and Zp: the end of a line or a paragraph.
    kind = unicodedata.category(char)
    return kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _JOINERS


def _is_surrogate(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
