"""Words for Hydra: a text as it must be typed to be read as it is."""

import re


def quoted(text: str) -> str:
    """Return a text as a value that Hydra reads as it is, whatever is in it."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\" * bool(m[2]) + m[2], text)
    return f"'{escaped}'"
