"""fedneg: a federation that forgets a client and can show that it did."""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [
    os.path.dirname(os.path.dirname(__file__))
]:
    # `python -m fedneg` puts the working folder first on the path, where a user's
    # clients.py or random.py would stand before ours and Python's; `fedneg` does not.
    # Here, since the imports below are the first to look there.
    del sys.path[0]

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    __version__ = version("fedneg")
except PackageNotFoundError:  # run from an app bundle, which is not installed
    __version__ = "0.1.0"

# In a checkout `strategies` and `clients` stand at the top, beside this folder; in a
# wheel they lie in it. Their names are fedneg.strategies and fedneg.clients in both.
if not (Path(__file__).parent / "strategies").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
