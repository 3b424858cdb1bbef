"""One term of a mask: how it is read, and what is said of one that cannot be."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from blockwise_lora.blocks.presets import PRESETS
from blockwise_lora.errors import UserError

GROUPS = ("all", "in", "out")
MODELS = ("sd", "sdxl", "flux")
"""Terms that name no block, but hold a mask to the models whose block names are meant."""


class MaskError(UserError, ValueError):
    """A mask that cannot be understood, or does not fit the model.

    It is a `ValueError`, too, so that a mask refused inside a dataclass of parameters is
    reported together with the other mistakes there.
    """


@dataclass(frozen=True)
class Term:
    """`first`, or the range `first` to `last`, at `rank`.

    Names are canonical: sub-blocks in capitals (IN04), everything else in small letters.
    `rank` None stands for the adapter's own rank.
    """

    first: str
    last: str | None = None
    rank: int | None = None

    def __str__(self) -> str:
        span = self.first if self.last is None else f"{self.first}-{self.last}"
        return span if self.rank is None else f"{span}:{self.rank}"

    @classmethod
    def parse(cls, text: str) -> "Term":
        """Read what stands between two `+`.

        Raises:
            MaskError: it has not the shape of a term, or names what no model has.
        """
        match = _TERM.fullmatch(text)
        if not match:
            raise MaskError(_malformed(text))
        first, last, rank = match.groups()
        term = cls(canonical(first), last and canonical(last), rank and int(rank))
        if term.first in MODELS and (last or rank):
            raise MaskError(f"{term.first!r} is a kind of model, no block: it stands alone")
        if last:
            _check_range(text, term.first, term.last)
        return term


_TERM = re.compile(r"([a-z0-9]+)(?:-([a-z0-9]+))?(?::([0-9]{1,5}))?", re.IGNORECASE)
_COARSE = re.compile(r"(in|out)[0-9]|mid|base|double|single")
_FINE = re.compile(r"(in|out|d|s)[0-9][0-9]")

# Where a block stands in its kind of model, for ranges.
_ORDER = {"in": 0, "mid": 1, "out": 2}, {"d": 0, "double": 0, "s": 1, "single": 1}

_SHAPE = "A term is a block, a range (in0-mid), a group or a preset, with an optional :rank"


def canonical(name: str) -> str:
    """The name as it is printed.

    Raises:
        MaskError: no model has such a block; the message suggests one.
    """
    small = name.lower()
    if small == "m00":  # how some tools print MID
        return "mid"
    if small == "in00":
        raise MaskError("IN00 is conv_in, which no mask trains; the first block is IN01")
    if _FINE.fullmatch(small):
        return small.upper()
    if _COARSE.fullmatch(small) or small in (*GROUPS, *MODELS, *PRESETS):
        return small
    if small == "not":
        raise MaskError("NOT begins a mask, or it does not stand at all; skip a block with :0")
    if small.isdigit():
        raise MaskError(f"{name} is no block; a rank follows a block and a colon (all:{name})")
    if re.fullmatch(r"[ds][0-9]", small):
        raise MaskError(f"unknown block {name!r}; did you mean {small[0].upper()}0{small[1]}?")
    coarse = [f"{side}{i}" for side in ("in", "out") for i in range(4)]
    known = [*GROUPS, "mid", *coarse, "base", "double", "single", *PRESETS]
    if near := get_close_matches(small, known, n=1):
        raise MaskError(f"unknown block {name!r}; did you mean {near[0]!r}?")
    raise MaskError(
        f"unknown block {name!r}; known are in0.., mid, out0.., base (coarse), IN01.., MID, "
        "OUT00.. (sub-blocks), in transformers double and single, D00.. and S00..; the groups "
        f"{', '.join(GROUPS)} and the presets {', '.join(PRESETS)}"
    )


def _check_range(text: str, first: str, last: str) -> None:
    for name in (first, last):
        if name in (*GROUPS, *MODELS, *PRESETS, "base"):
            raise MaskError(f"{name!r} cannot end a range: ranges run between blocks (in0-mid)")
    order = next((order for order in _ORDER if _side(first) in order), {})
    if _side(last) not in order:
        raise MaskError(f"range {text}: {first} and {last} are of different kinds of model")
    sides = [order[_side(name)] for name in (first, last)]
    # in1-IN02 runs backwards in some models only, and waits for one.
    if sides[0] > sides[1] or (sides[0] == sides[1] and len(first) == len(last) and first > last):
        raise MaskError(f"range {text} runs backwards: write {last}-{first}")


def _side(name: str) -> str:
    return name.rstrip("0123456789").lower()


def _malformed(part: str) -> str:
    """What is wrong with a term that has not the shape of one."""
    if not part:
        return "a term is missing here. " + _SHAPE
    wrong = re.search(r"[^A-Za-z0-9:-]", part)
    if wrong:
        return f"{wrong.group()!r} is not allowed in {part!r}. {_SHAPE}; terms are joined by '+'"
    if re.search(r":-|:[0-9]*[^0-9:]", part) or part.count(":") > 1 or part.endswith(":"):
        return f"in {part!r}, what follows the colon is not one whole number. {_SHAPE}"
    return f"{part!r} is not a term. {_SHAPE}"
