"""Any Flower strategy made forgettable; whose names are here is public."""

from fedneg.forgettable.refusals import NotLinearError
from fedneg.forgettable.strategy import Forgettable

__all__ = ["Forgettable", "NotLinearError"]
