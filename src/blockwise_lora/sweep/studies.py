"""What a sweep tries: pairs of masks, one for the character and one for the style.

    paper   skip each coarse block, keep each alone, and the paper's combinations
    coarse  every combination of coarse blocks that makes an adapter of its own
    fine    skip each sub-block, and keep each alone

One adapter varies at a time while the other trains all blocks, so that a difference has one
cause; only combinations vary both. Blocks are the U-Net's: pairs of one's own may name the text
encoders (`base`) as well. Masks that give the same layers under the method (attention
LoRA has nothing in in3 and out0) are one mask here, under the name that comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.errors import UserError

Concept = Literal["character", "style"]
CONCEPTS: tuple[Concept, ...] = ("character", "style")
FULL = "all"
TEXT = "base"
"""The block of the text encoders, which `all` leaves out."""
ABLATIONS = ("upper", "bottom", "shallow", "deep")
"""Presets of the paper's claims; both adapters run through them in every combination."""
SHARED_OUT = ("character", "style")
"""The presets that give each block to one of the two."""


@dataclass(frozen=True)
class Pair:
    """Two masks whose adapters are stacked.

    Attributes:
        character, style: masks in canonical form.
    """

    character: str
    style: str

    def __str__(self) -> str:
        return f"{self.character} / {self.style}"


@dataclass(frozen=True)
class Study:
    """The pairs to compare, the full one first.

    Attributes:
        name: of the study.
        pairs: without repetition.
    """

    name: str
    pairs: tuple[Pair, ...]

    def masks(self, concept: Concept) -> tuple[str, ...]:
        """The masks to train for a concept, in the order of the pairs."""
        return tuple(dict.fromkeys(getattr(pair, concept) for pair in self.pairs))


class Distinct:
    """Tells masks apart by the adapter that they make.

    Args:
        blocks: of the model.
        spec: method and ranks of the concept's adapter; its mask is ignored.
    """

    def __init__(self, blocks: BlockMap, spec: AdapterSpec) -> None:
        self._blocks, self._spec = blocks, spec
        self._named: dict[tuple, str] = {}
        self._names: dict[str, str | None] = {}

    def name(self, mask: str) -> str | None:
        """The first mask seen that makes the same adapter; None if there is nothing to adapt.

        Raises:
            MaskError: the mask is malformed or names a block that the model lacks.
        """
        if mask not in self._names:
            self._names[mask] = self._first(mask)
        return self._names[mask]

    def _first(self, mask: str) -> str | None:
        spec = replace(self._spec, blocks=mask)
        spec.mask.ranks(self._blocks, 1)  # mistakes of the user are errors, empty blocks are not
        try:
            plan = Plan.of(self._blocks, spec)
        except MaskError:
            return None
        key = tuple((layer.name, layer.rank, layer.scale) for layer in plan.layers)
        return self._named.setdefault(key, spec.blocks)


def skip(block: str) -> str:
    """All blocks but one."""
    return f"{FULL}+{block}:0"


def one_at_a_time(names: Iterable[str]) -> list[str]:
    """Skip each block, then keep each alone."""
    names = list(names)
    return [skip(name) for name in names] + names


def every_combination(names: Sequence[str]) -> list[str]:
    """Every non-empty choice of blocks, the large ones first."""
    return [
        "+".join(chosen)
        for size in range(len(names), 0, -1)
        for chosen in combinations(names, size)
    ]


def named_study(name: str, blocks: BlockMap, character: AdapterSpec, style: AdapterSpec) -> Study:
    """One of the studies `paper`, `coarse` and `fine` for a model and two adapters.

    Raises:
        UserError: there is no such study.
    """
    coarse = [name for name in blocks.coarse if name != TEXT]
    masks = {
        "paper": lambda: one_at_a_time(coarse),
        "coarse": lambda: every_combination(coarse),
        "fine": lambda: one_at_a_time(blocks.denoiser_names),
    }
    if name not in masks:
        raise UserError(f"sweep.study: {name!r} is none of {', '.join(masks)}; or list your masks")
    varied = masks[name]()
    pairs = [Pair(FULL, FULL)]
    pairs += [Pair(mask, FULL) for mask in varied] + [Pair(FULL, mask) for mask in varied]
    if name == "paper":
        pairs += [Pair(a, b) for a in (FULL, *ABLATIONS) for b in (FULL, *ABLATIONS)]
        pairs.append(Pair(*SHARED_OUT))
    return own_study(name, pairs, blocks, character, style)


def shown_blocks(blocks: BlockMap, pairs: Iterable[Pair]) -> tuple[str, ...]:
    """The coarse blocks that are to be told about pairs: `base` only where a mask trains it."""
    masks = {getattr(pair, concept) for pair in pairs for concept in CONCEPTS}
    trained = {name for mask in masks for name in Mask.parse(mask).selected(blocks)}
    return tuple(
        name for name, subs in blocks.coarse.items() if name != TEXT or trained & set(subs)
    )


def own_study(
    name: str,
    pairs: Iterable[Pair],
    blocks: BlockMap,
    character: AdapterSpec,
    style: AdapterSpec,
) -> Study:
    """A study of the given pairs, less those that repeat another or adapt nothing.

    Raises:
        MaskError: a mask is malformed or does not fit the model.
        UserError: nothing is left.
    """
    specs = {"character": replace(character, blocks=FULL), "style": replace(style, blocks=FULL)}
    known = {spec.to_json(): Distinct(blocks, spec) for spec in specs.values()}
    distinct = {concept: known[spec.to_json()] for concept, spec in specs.items()}
    kept = {}
    for pair in pairs:
        names = [
            distinct[concept].name(str(Mask.parse(getattr(pair, concept)))) for concept in CONCEPTS
        ]
        if all(names):
            kept[Pair(*names)] = None
    if not kept:
        raise UserError(f"sweep: study {name!r} names only blocks where the method adapts nothing")
    return Study(name, tuple(kept))
