"""Put a text between two markers of a page, if they are there."""

import re
from pathlib import Path


def fill(path: Path, name: str, body: str) -> bool:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``.

    Returns
    -------
    bool
        Whether the markers are there; without them the file stays as it is.
    """
    text = path.read_text()
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    # A function: the body is no template with backslashes of its own.
    text, count = re.subn(
        pattern, lambda found: f"{found[1]}{body}\n{found[2]}", text, flags=re.DOTALL
    )
    if count:
        path.write_text(text)
    return bool(count)
