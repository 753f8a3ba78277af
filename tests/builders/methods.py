"""The methods that there are."""

from fedneg.core.settings import conf_dir

METHODS = sorted(
    p.stem for p in (conf_dir() / "strategy").glob("*.yaml") if p.stem != "base"
)
