"""What one line of evidence says."""

from dataclasses import dataclass

FORGOTTEN, NOT_FORGOTTEN, ABSTAINS = "forgotten", "not forgotten", "abstains"


@dataclass(frozen=True)
class Evidence:
    """What one line says of a model.

    `value` is on the side of `threshold` that `decision` says; None where it was not
    measured, or there is no threshold. `why` is half a sentence for the reader.
    """

    name: str
    model: str
    value: float | None
    threshold: float | None
    decision: str
    why: str

    def to_json(self) -> dict[str, object]:
        """Return the entry in results.json."""
        return dict(vars(self))
