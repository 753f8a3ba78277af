"""A federation in the words of a run: train, unlearn, recover, retrain, evaluate."""

from fedneg.federation.federation import Federation

__all__ = ["Federation"]
