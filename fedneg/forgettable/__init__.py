"""Any Flower strategy made forgettable; whose names are here is public."""

from fedneg.forgettable.strategy import Forgettable, NotLinearError

__all__ = ["Forgettable", "NotLinearError"]
