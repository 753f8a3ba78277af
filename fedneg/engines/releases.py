"""Which release of Flower is installed, and what of ours hangs on it.

All that differs between the releases is decided by what stands here. Nothing of Flower
is imported.
"""

import re
from importlib.metadata import version

from fedneg.core.errors import FedNegError

Release = tuple[int, int]

# The releases that the tests run on are the first and the last.
OLDEST: Release = (1, 39)
NEWEST: Release = (1, 42)
# Later ones talk HTTP to their clients, on the port where `flwr` finds them too.
LAST_WITH_GRPC: Release = (1, 39)


def flower_release() -> Release:
    """Return the first two numbers of the installed Flower's version.

    Raises
    ------
    FedNegError
        If it is none of the releases that fedneg knows.
    """
    said = version("flwr")
    numbers = re.match(r"(\d+)\.(\d+)", said)
    found = (int(numbers[1]), int(numbers[2])) if numbers else None
    if found is None or not OLDEST <= found <= NEWEST:
        raise FedNegError(
            f"flwr must be {_named(OLDEST)} to {_named(NEWEST)}, and {said} is "
            f"installed: pip install 'flwr[simulation]~={_named(NEWEST)}.0'"
        )
    return found


def speaks_grpc(release: Release) -> bool:
    """Return whether SuperNodes of a release speak gRPC; all others speak HTTP."""
    return release <= LAST_WITH_GRPC


def _named(release: Release) -> str:
    return ".".join(map(str, release))
