"""How much a model has forgotten: distances, attacks, relearning, and the verdict."""
