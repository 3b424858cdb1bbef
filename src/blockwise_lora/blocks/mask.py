"""The mask: one short sentence that says which blocks are trained, and at which rank.

    all                     every block
    out1-out3               a range, along in0 .. mid .. out3
    all+in0:0+mid:0         every block but two
    in2-mid+out1:16         out1 at rank 16, the others at the adapter's own rank

Grammar (case does not matter; only letters, digits and `+`, `-`, `:` occur, so that a mask
passes unquoted through shells, YAML, `kedro run --params` and `dvc exp run -S`):

    mask  = term {"+" term}            applied from left to right, from nothing trained
    term  = name ["-" name] [":" rank] rank 0 skips; without a rank: the adapter's own
    name  = coarse block (one digit: in0, mid, out3) | sub-block (two digits: IN04, OUT11)
          | group (in, out, all) | preset (see presets.py)
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from blockwise_lora.blocks.presets import PRESETS
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.errors import UserError

GROUPS = ("all", "in", "out")


class MaskError(UserError, ValueError):
    """A mask that cannot be understood, or does not fit the model.

    It is a `ValueError`, too, so that a mask refused inside a dataclass of parameters is
    reported together with the other mistakes there.
    """


@dataclass(frozen=True)
class Term:
    """One term of a mask: `first`, or the range `first` to `last`, at `rank`.

    Names are canonical: sub-blocks in capitals (IN04), everything else in small letters.
    `rank` None stands for the adapter's own rank.
    """

    first: str
    last: str | None = None
    rank: int | None = None

    def __str__(self) -> str:
        span = self.first if self.last is None else f"{self.first}-{self.last}"
        return span if self.rank is None else f"{span}:{self.rank}"

    def select(self, blocks: BlockMap) -> tuple[str, ...]:
        """The names of the sub-blocks that the term is about, in the model's order.

        Raises:
            MaskError: the model has no such block, or the range runs backwards.
        """
        if self.last is None:
            return _named(self.first, blocks)
        start = blocks.names.index(_named(self.first, blocks)[0])
        stop = blocks.names.index(_named(self.last, blocks)[-1])
        if start > stop:
            raise MaskError(f"range {self} runs backwards: write {self.last}-{self.first}")
        return blocks.names[start : stop + 1]


@dataclass(frozen=True)
class Mask:
    """A parsed mask; `str` prints it in canonical form, which parses to an equal mask."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> "Mask":
        """Parse a mask.

        Raises:
            MaskError: with the position (from 1) of what is wrong, and what is meant instead.
        """
        if not isinstance(text, str):
            raise MaskError(_not_a_sentence(text))
        text = text.strip()
        if not text or _NUMBERS.fullmatch(text):
            raise MaskError(_not_a_sentence(text))
        terms, position = [], 1
        for part in text.split("+"):
            try:
                terms.append(_term(part))
            except MaskError as error:
                raise MaskError(f"mask {text!r}, position {position}: {error}") from None
            position += len(part) + 1
        return cls(tuple(terms))

    def __str__(self) -> str:
        return "+".join(map(str, self.terms))

    def ranks(self, blocks: BlockMap, default_rank: int) -> dict[str, int]:
        """The rank of every sub-block of a model, in its order; 0 where nothing is trained.

        Args:
            blocks: the model's blocks.
            default_rank: for terms that name no rank.

        Raises:
            MaskError: the model lacks a block, or nothing is trained.
        """
        ranks = dict.fromkeys(blocks.names, 0)
        for term in self.terms:
            rank = default_rank if term.rank is None else term.rank
            try:
                ranks |= dict.fromkeys(term.select(blocks), rank)
            except MaskError as error:
                raise MaskError(f"mask '{self}': {error}") from None
        if not any(ranks.values()):
            raise MaskError(
                f"mask '{self}' trains nothing: every block ends at rank 0. Terms apply from "
                "left to right, so what is skipped goes last: all+in0:0"
            )
        return ranks

    def selected(self, blocks: BlockMap) -> tuple[str, ...]:
        """The sub-blocks that are trained, in the model's order.

        Raises:
            MaskError: as `ranks`.
        """
        return tuple(name for name, rank in self.ranks(blocks, 1).items() if rank)


_TERM = re.compile(r"([a-z0-9]+)(?:-([a-z0-9]+))?(?::([0-9]{1,5}))?", re.IGNORECASE)
_COARSE = re.compile(r"(in|out)[0-9]|mid")
_FINE = re.compile(r"(in|out)[0-9][0-9]")
_NUMBERS = re.compile(r"[\[(]?\s*[0-9.]+(\s*[,;\s]\s*[0-9.]+)*\s*[,;]?\s*[\])]?")

_SHAPE = "A term is a block, a range (in0-mid), a group or a preset, with an optional :rank"


def _term(part: str) -> Term:
    """Parse what stands between two `+`; errors do not know their position yet."""
    match = _TERM.fullmatch(part)
    if not match:
        raise MaskError(_malformed(part))
    first, last, rank = match.groups()
    term = Term(_canonical(first), last and _canonical(last), rank and int(rank))
    if last:
        for name in (term.first, term.last):
            if name in GROUPS or name in PRESETS:
                raise MaskError(f"{name!r} cannot end a range: ranges run between blocks (in0-mid)")
        if _backwards(term.first, term.last):
            raise MaskError(f"range {part} runs backwards: write {term.last}-{term.first}")
    return term


def _canonical(name: str) -> str:
    """The name as it is printed, or an error that suggests one."""
    small = name.lower()
    if small == "m00":  # how some tools print MID
        return "mid"
    if small == "in00":
        raise MaskError("IN00 is conv_in, which no mask trains; the first block is IN01")
    if small == "base":
        raise MaskError("BASE is the text encoder, which is not trained; name U-Net blocks only")
    if _FINE.fullmatch(small):
        return small.upper()
    if _COARSE.fullmatch(small) or small in GROUPS or small in PRESETS:
        return small
    if small.isdigit():
        raise MaskError(f"{name} is no block; a rank follows a block and a colon (all:{name})")
    coarse = [f"{side}{i}" for side in ("in", "out") for i in range(4)]
    known = [*GROUPS, "mid", *coarse, *PRESETS]
    if near := get_close_matches(small, known, n=1):
        raise MaskError(f"unknown block {name!r}; did you mean {near[0]!r}?")
    raise MaskError(
        f"unknown block {name!r}; known are in0.., mid, out0.. (coarse), IN01.., MID, OUT00.. "
        f"(sub-blocks), the groups {', '.join(GROUPS)} and the presets {', '.join(PRESETS)}"
    )


def _backwards(first: str, last: str) -> bool:
    """Whether a range runs backwards in any model (in1-IN02 does in some, and waits for one)."""
    sides = [("in", "mid", "out").index(n.rstrip("0123456789").lower()) for n in (first, last)]
    if sides[0] != sides[1]:
        return sides[0] > sides[1]
    return len(first) == len(last) and first > last


def _named(name: str, blocks: BlockMap) -> tuple[str, ...]:
    """The sub-blocks behind one canonical name, in the model's order."""
    if name == "all":
        return blocks.names
    if name in ("in", "out"):
        return tuple(block for block in blocks.names if block.startswith(name.upper()))
    if name in PRESETS:
        return _preset(name, blocks)
    if name in blocks.coarse:
        return blocks.coarse[name]
    if name in blocks.names:
        return (name,)
    raise MaskError(_absent(name, blocks))


def _preset(name: str, blocks: BlockMap) -> tuple[str, ...]:
    masks = PRESETS[name].masks
    if blocks.depth not in masks:
        depths = " or ".join(map(str, sorted(masks)))
        raise MaskError(
            f"preset {name!r} is for models of {depths} in-blocks, this one has {blocks.depth}: "
            "name the blocks instead"
        )
    return Mask.parse(masks[blocks.depth]).selected(blocks)


def _absent(name: str, blocks: BlockMap) -> str:
    number = name.lstrip("inoutINOUT")
    fine = name.upper().replace(number, f"{int(number):02d}") if number else name
    hint = f"; did you mean the sub-block {fine} (two digits)?" if fine in blocks.names else ""
    return (
        f"this model has no block {name}{hint} It has {', '.join(blocks.coarse)}, "
        f"in sub-blocks {blocks.names[0]} to {blocks.names[-1]}"
    )


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


def _not_a_sentence(value: object) -> str:
    """Why numbers, lists and other values are refused."""
    if value is None or value == "":
        return "the mask is empty: name the blocks to train, such as all or out1-out3"
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        return (
            f"mask {value!r} is a number, and the rank is a parameter of its own; name the blocks "
            f"to train: all, or all:{value} for that rank"
        )
    if isinstance(value, str | list | tuple):
        return (
            f"mask {value!r} is a list of numbers. Lists are refused, since what a position means "
            "depends on their length (12, 17, 20, 25 and 26 are in use) and a miscount goes "
            "unnoticed; name the blocks instead, such as all+in0:0+mid:0"
        )
    return f"mask {value!r} is not text; name the blocks to train, such as all or out1-out3"
