"""Which version of fedneg this is, and where it lies."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("fedneg")
except PackageNotFoundError:  # run from an app bundle, which is not installed
    __version__ = "0.1.0"

# The folder of the package; a checkout has conf/, strategies/ and clients/ beside it.
PACKAGE = Path(__file__).resolve().parents[1]
