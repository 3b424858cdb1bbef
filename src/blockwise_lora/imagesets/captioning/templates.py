"""Texts with places in braces."""

from collections.abc import Collection
from string import Formatter


def check_fields(text: str, known: Collection[str], name: str) -> list[str]:
    """What is wrong with the places in a text, one line a mistake.

    Args:
        text: as `str.format` has it.
        known: the places that it may have.
        name: of the parameter, for messages.
    """
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        return [f"{name} {text!r}: {error}"]
    fields = {part[1] for part in parts} - {None}
    # "{trigger!r}" and "{trigger:>9}" would be formatted: nobody needs it, a typing error may.
    odd = any(part[2] or part[3] for part in parts)
    shown = ", ".join(f"{{{field}}}" for field in known)
    mistakes = [f"{name} has {{{f}}}; known are {shown}" for f in sorted(fields - set(known))]
    return mistakes + ([f"{name} {text!r}: no `!` or `:` within braces"] if odd else [])
