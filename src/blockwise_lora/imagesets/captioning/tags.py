"""Captions as lists of tags: what stands between commas."""

from collections.abc import Iterable


def split_tags(caption: str) -> tuple[str, ...]:
    """The parts between commas, white space made single spaces; empty parts are left out.

    A sentence without a comma is one tag.
    """
    parts = (" ".join(part.split()) for part in caption.split(","))
    return tuple(part for part in parts if part)


def join_tags(tags: Iterable[str]) -> str:
    """The caption of some tags, in their order."""
    return ", ".join(tags)


def key(tag: str) -> str:
    """What two spellings of a tag have in common: `Blue_Eyes` and `blue eyes` are one."""
    return " ".join(tag.replace("_", " ").split()).casefold()
