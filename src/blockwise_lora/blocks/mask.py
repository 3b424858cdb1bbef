"""The mask: one short sentence that says which blocks are trained, and at which rank.

    all                     every block of the denoiser
    out1-out3               a range, along in0 .. mid .. out3
    all+in0:0+mid:0         every block but two
    in2-mid+out1:16         out1 at rank 16, the others at the adapter's own rank
    all+base                the text encoder as well

Grammar (case does not matter; only letters, digits and `+`, `-`, `:` occur, so that a mask
passes unquoted through shells, YAML, `kedro run --params` and `dvc exp run -S`):

    mask  = term {"+" term}            applied from left to right, from nothing trained
    term  = name ["-" name] [":" rank] rank 0 skips; without a rank: the adapter's own
    name  = coarse block (one digit: in0, mid, out3; base, double, single)
          | sub-block (two digits: IN04, OUT11, D03) | group (in, out, all)
          | preset (see presets.py)
          | sd, sdxl, flux: no block, but refuses other models (see below)

Two more spellings are understood where quotes protect them, and print as the above:

    NOT IN09-OUT02          all+IN09-OUT02:0
    1,0,0,...               a list by position, see vectors.py

A sub-block of one name is another part of another model: IN04 is at SD 1.x's second resolution
and at SDXL's, but has one transformer block there and two here. A list is made for one kind of
model, and its sentence begins with that kind, so that no other model misreads it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from blockwise_lora.blocks.presets import PRESETS
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.terms import MODELS, MaskError, Term
from blockwise_lora.blocks.vectors import FAMILIES, Vector, is_vector

__all__ = ["Mask", "MaskError", "Term"]


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
        text = _text(text)
        if is_vector(text):
            vector = Vector.parse(text)
            named = cls.of(vector.ranks, vector.layout.family, default_rank=1)
            return cls((Term(vector.layout.kind), *named.terms))
        if negated := _NOT.match(text):
            parts = _parts(text, negated.end(), r"[+\s]+")
            return cls((Term("all"), *(_skipped(text, term) for term in parts)))
        return cls(tuple(_parts(text, 0, r"\+")))

    @classmethod
    def of(cls, ranks: Mapping[str, int], blocks: BlockMap, default_rank: int) -> "Mask":
        """The shortest usual sentence for ranks by sub-block: whole coarse blocks and ranges.

        `Mask.of(mask.ranks(b, r), b, r).ranks(b, r)` equals `mask.ranks(b, r)`.

        Args:
            ranks: sub-block to rank; those that are missing are skipped.
            blocks: the model's blocks.
            default_rank: the adapter's own rank, which the sentence leaves out.

        Raises:
            MaskError: nothing is trained, or the model lacks a block.
        """
        if missing := set(ranks) - set(blocks.names):
            raise MaskError(_absent(min(missing), blocks))
        named = {name: rank for name, rank in ranks.items() if rank}
        if not named:
            raise MaskError("no block has a rank: nothing would be trained")
        spans = (
            span if rank == default_rank else f"{span}:{rank}" for span, rank in blocks.runs(named)
        )
        return cls(tuple(map(Term.parse, spans)))

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
                ranks |= dict.fromkeys(_selected(term, blocks), rank)
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


_NOT = re.compile(r"not(\s+|$)", re.IGNORECASE)


def _text(text: object) -> str:
    """The text of a mask, stripped; whatever cannot be one is refused with what is meant."""
    if text is None or (isinstance(text, str) and not text.strip()):
        raise MaskError("the mask is empty: name the blocks to train, such as all or out1-out3")
    if type(text) is int or (isinstance(text, str) and text.strip().isdecimal()):
        raise MaskError(
            f"mask {text!r} is a number, and the rank is a parameter of its own; name the blocks "
            f"to train: all, or all:{text} for that rank"
        )
    if isinstance(text, list | tuple):
        raise MaskError(
            f"mask {text!r} is a list: put it in quotes ('{','.join(map(str, text))}'), or name "
            "the blocks, such as all+in0:0+mid:0"
        )
    if not isinstance(text, str):
        raise MaskError(
            f"mask {text!r} is not text; name the blocks to train, such as all or out1-out3"
        )
    return text.strip()


def _parts(text: str, start: int, joint: str) -> list[Term]:
    """The terms of a mask from `start` on; errors name their position."""
    terms, position = [], start
    for part in re.split(joint, text[start:]):
        position = text.index(part, position)
        try:
            terms.append(Term.parse(part))
        except MaskError as error:
            raise MaskError(f"mask {text!r}, position {position + 1}: {error}") from None
        position += len(part) + 1
    return terms


def _skipped(text: str, term: Term) -> Term:
    if term.rank is not None:
        raise MaskError(f"mask {text!r}: what NOT skips has no rank; write {term.first} alone")
    if term.first in MODELS:
        raise MaskError(f"mask {text!r}: {term.first} is a kind of model, which nothing skips")
    return Term(term.first, term.last, 0)


def _selected(term: Term, blocks: BlockMap) -> tuple[str, ...]:
    """The names of the sub-blocks that a term is about, in the model's order."""
    if term.last is None:
        return _named(term.first, blocks)
    start = blocks.names.index(_named(term.first, blocks)[0])
    stop = blocks.names.index(_named(term.last, blocks)[-1])
    if start > stop:
        raise MaskError(f"range {term} runs backwards: write {term.last}-{term.first}")
    return blocks.names[start : stop + 1]


def _named(name: str, blocks: BlockMap) -> tuple[str, ...]:
    """The sub-blocks behind one canonical name, in the model's order."""
    if name in MODELS:
        _check_kind(name, blocks)
        return ()
    if name == "all":
        return blocks.denoiser_names
    if name in ("in", "out") and blocks.depth:
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
        here = f"this one has {blocks.depth}" if blocks.depth else "and this is a transformer"
        raise MaskError(
            f"preset {name!r} is for U-Nets of {depths} in-blocks, {here}: name the blocks instead"
        )
    return Mask.parse(masks[blocks.depth]).selected(blocks)


def _check_kind(kind: str, blocks: BlockMap) -> None:
    meant, here = FAMILIES[kind].denoiser_names, blocks.denoiser_names
    if meant != here:
        raise MaskError(
            f"it is for {kind}, with sub-blocks {meant[0]} to {meant[-1]}, and this model has "
            f"{here[0]} to {here[-1]}, where the same names mean other layers: choose blocks anew"
        )


def _absent(name: str, blocks: BlockMap) -> str:
    if name.lower() == "base":
        return "there is no block base, since no text encoder is adapted here: leave it out"
    number = name.lstrip("inoutINOUT")
    fine = name.upper().replace(number, f"{int(number):02d}") if number.isdigit() else name
    hint = f"; did you mean the sub-block {fine} (two digits)?" if fine in blocks.names else "."
    return (
        f"this model has no block {name}{hint} It has {', '.join(blocks.coarse)}, "
        f"in sub-blocks {blocks.names[0]} to {blocks.names[-1]}"
    )
