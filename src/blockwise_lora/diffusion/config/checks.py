"""Ranges of values, checked in one go so that every mistake is told at once."""

from collections.abc import Iterable, Mapping
from typing import Any


def check(
    config: Any,
    *,
    at_least: Mapping[str, float] | None = None,
    positive: Iterable[str] = (),
    share: Iterable[str] = (),
    more: Iterable[str] = (),
) -> None:
    """Compare a dataclass's values with their ranges; None is always in range.

    Args:
        config: the dataclass.
        at_least: field to the least value that it may have.
        positive: fields that are above 0.
        share: fields that are in [0, 1).
        more: mistakes that the caller found.

    Raises:
        ValueError: one line for each mistake.
    """
    rules = [
        (n, lambda v, low=low: v >= low, f"at least {low}") for n, low in (at_least or {}).items()
    ]
    rules += [(n, lambda v: v > 0, "positive") for n in positive]
    rules += [(n, lambda v: 0 <= v < 1, "in [0, 1)") for n in share]
    lines = []
    for name, fits, words in rules:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(v is None or fits(v) for v in values):
            lines.append(f"{name} is {words}, not {value}")
    lines += more
    if lines:
        raise ValueError("\n".join(lines))
