"""fedneg: a federation that forgets a client and can show that it did."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedneg")
except PackageNotFoundError:  # run from an app bundle, which is not installed
    __version__ = "0.1.0"
