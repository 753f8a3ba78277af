"""What may come of a verdict."""

FORGOTTEN, NOT_FORGOTTEN = "forgotten", "not forgotten"
INCONCLUSIVE = "inconclusive"
# What is found beside an outcome, where no number tells it.
TOOK_NO_PART = "took part in no round"
IS_RETRAINED = "is a retrained model"
