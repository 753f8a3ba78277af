"""What a command tells of a federation's folder beside what it was asked."""

import sys

from fedneg.records.state import State


def tell(state: State) -> None:
    """Print what a kill had left undone, and was completed."""
    for notice in state.notices:
        print(f"fedneg: {notice}", file=sys.stderr)
