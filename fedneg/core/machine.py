"""What this machine has, and where fedneg may keep things on it."""

import os
from pathlib import Path

import platformdirs

from fedneg.core.texts import check_utf8


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux knows about containers and taskset
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_root() -> Path:
    """Return $FEDNEG_CACHE, else the user's cache folder; an empty variable is none."""
    if cache := os.environ.get("FEDNEG_CACHE"):
        found, name = Path(cache).expanduser().resolve(), "FEDNEG_CACHE"
    else:
        found, name = platformdirs.user_cache_path("fedneg"), "the user's cache folder"
    check_utf8(name, found)
    return found
