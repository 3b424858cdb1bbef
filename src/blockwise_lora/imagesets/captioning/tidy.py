"""Cleaning up tags: one spelling each, none twice, none that is unwanted, in a steady order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from blockwise_lora.imagesets.captioning.tags import key, split_tags


@dataclass(frozen=True)
class TagRules:
    """The parameter group `tags`.

    Attributes:
        synonyms: tags to what they are called instead, as `{kitty: cat}`; one tag may become
            several, or none.
        blacklist: tags that are left out; `*` and `?` stand for any signs, as in `*background*`.
        first: tags that come first where they occur, in this order.
        order: of the rest: `kept` as the source has them, `alphabet`, or `frequent`, those that
            most pictures share first.

    Raises:
        ValueError: a synonym leads on to another one, so that its meaning is in doubt.
    """

    synonyms: Mapping[str, str] = field(default_factory=dict)
    blacklist: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    order: Literal["kept", "alphabet", "frequent"] = "kept"

    def __post_init__(self) -> None:
        known = {key(tag) for tag in self.synonyms}
        mistakes = [
            f"synonyms: {tag!r} becomes {other!r}, which becomes something else; say it at once"
            for tag, other in self.synonyms.items()
            if key(other) in known and key(other) != key(tag)
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))


def tidy(captions: Sequence[str], rules: TagRules) -> list[tuple[str, ...]]:
    """The tags of each caption, cleaned up.

    Args:
        captions: of the whole set, since `frequent` counts in how many of them a tag occurs.
        rules: what to do.
    """
    cleaned = [_clean(split_tags(caption), rules) for caption in captions]
    counts = Counter(key(tag) for tags in cleaned for tag in tags)
    first = {key(tag): place for place, tag in enumerate(rules.first)}

    def place(tag: str) -> tuple[int, int, str]:
        here = first.get(key(tag), len(first))
        if rules.order == "alphabet":
            return here, 0, key(tag)
        # Equal ranks keep the source's order, since sorting is stable.
        return here, -counts[key(tag)] if rules.order == "frequent" else 0, ""

    return [tuple(sorted(tags, key=place)) for tags in cleaned]


def _clean(tags: Sequence[str], rules: TagRules) -> tuple[str, ...]:
    names = {key(tag): split_tags(other) for tag, other in rules.synonyms.items()}
    # Tags have brackets of their own, `smile [big]`, which fnmatch would read as a choice.
    unwanted = [key(pattern).replace("[", "[[]") for pattern in rules.blacklist]
    kept: dict[str, str] = {}
    for tag in tags:
        for name in names.get(key(tag), (tag,)):
            if not any(fnmatchcase(key(name), pattern) for pattern in unwanted):
                kept.setdefault(key(name), name)
    return tuple(kept.values())
