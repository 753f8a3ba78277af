"""Numbers as a reader wants them: rates, signs, durations, sizes."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MISSING = "\N{EN DASH}"


def number(value: object) -> float | None:
    """Return `value` as a finite float, or None for null, NaN and what is no number."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def rate(value: object) -> str:
    """Return a fraction or a loss with four decimals, a dash for null."""
    found = number(value)
    return MISSING if found is None else f"{found:.4f}"


def signed(value: object) -> str:
    """Return a difference with its sign and four decimals, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:+.4f}".replace("-", "\N{MINUS SIGN}")


def percent(value: object) -> str:
    """Return a share as people say it: '98 %', '0.2 %'; a dash for null.

    One decimal below 1 % and above 99 %, so that hardly any is not none.
    """
    found = number(value)
    if found is None:
        return MISSING
    if 0 < found < 0.0005:
        return "under 0.1 %"
    if 0.9995 < found < 1:
        return "over 99.9 %"
    if (abs(found) < 0.00995 and found) or 0.99 < found < 1:
        return f"{100 * found:.1f} %".replace("-", "\N{MINUS SIGN}")
    return f"{whole_percent(found)} %"


def fixed(value: float, digits: int) -> str:
    """Return a number with so many digits; of one with many before them, a power."""
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def whole_percent(value: float) -> str:
    """Return a share in whole hundredths, without the sign of percent."""
    text = fixed(100 * value, 0)
    return ("0" if text == "-0" else text).replace("-", "\N{MINUS SIGN}")


def human_seconds(value: object) -> str:
    """Return a duration given in seconds as people say it, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    # Bounds as they round: 59.96 s is a minute, not '60.0 s'.
    if found < 0.9995:
        return f"{found * 1000:.0f} ms"
    if found < 59.95:
        return f"{found:.1f} s"
    minutes, seconds = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def human_bytes(value: object) -> str:
    """Return a size given in bytes with a binary unit, a dash for null."""
    found = number(value)
    if found is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if found < 1024:
            return f"{found:.0f} B" if unit == "B" else f"{found:.1f} {unit}"
        found /= 1024
    return f"{found:.1f} TiB"


def plain(value: object) -> str:
    """Return any cell as text: no long tails of digits, a dash for null."""
    if value is None or (isinstance(value, float) and number(value) is None):
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if value != round(value) else f"{value:.0f}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def as_overrides(values: Mapping[str, Any]) -> str:
    """Return a nested mapping as lines of dotted key=value, as one overrides it."""
    return "\n".join(f"{key}={_as_text(value)}" for key, value in leaves(values))


def _as_text(value: object) -> str:
    """Return a value as an override is written."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of a nested mapping; an empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def human_value(value: object) -> object:
    """Return nested mappings and lists as a line to read; a plain value as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {human_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(str(human_value(v)) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else value


def name_clients(client_ids: Sequence[int]) -> str:
    """Return 'client 4', 'clients 1 and 4', or their number where there are many."""
    if len(client_ids) > 6:
        return f"{len(client_ids)} clients"
    *rest, last = map(str, client_ids)
    return f"clients {', '.join(rest)} and {last}" if rest else f"client {last}"
