"""What a file of a state folder is beside what the audit log says.

The log is the truth. A file that is missing although entries that came later in its
chain imply it, one without an entry, and one that says something else are *wrong*: they
are named, and nothing goes on. Where the newest entry of a chain stands alone, a kill
came between it and its act, which is then *completed*.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedneg.core.errors import FedNegError

# What differs is looked at again after so long, and so often.
LOOK_AGAIN_S, LOOKS = 0.2, 5


@dataclass(frozen=True)
class Difference:
    """A file that is not as the log says.

    Attributes
    ----------
    text : str
        For people; it names the file.
    complete : callable or None
        Does the act whose entry stands alone; None if it is wrong.
    is_of_log : bool
        Whether the log itself is the wrong one, so that nothing can be held to it.
    """

    text: str
    complete: Callable[[], object] | None = None
    is_of_log: bool = False


def lasting(look: Callable[[], Iterable[Difference]]) -> list[Difference]:
    """Return the differences that are there whenever one looks.

    Log and files cannot be read in one moment. Somebody who writes meanwhile leaves a
    difference in every look, if rounds are short, but never the same one.

    Parameters
    ----------
    look : callable
        Reads the log, and then the files.
    """
    found = list(look())
    for _ in range(LOOKS):
        if not found:
            break
        time.sleep(LOOK_AGAIN_S)
        before, said = len(found), {d.text for d in found}
        found = [d for d in look() if d.text in said]
        if len(found) == before:
            break
    return found


def settle(
    differences: Iterable[Difference], told: Callable[[str], object] = lambda text: None
) -> None:
    """Complete every act whose entry stands alone, and tell of it.

    Raises
    ------
    FedNegError
        If anything is wrong: nothing is completed then, and the first is named.
    """
    found = list(differences)
    wrong = [d.text for d in found if d.complete is None]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise FedNegError(wrong[0] + more)
    for difference in found:
        if difference.complete is not None:
            difference.complete()
            told(difference.text)
