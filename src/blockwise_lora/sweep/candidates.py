"""A point of the search: a rank for each block of both adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept, Pair


@dataclass(frozen=True)
class Space:
    """The blocks that a search may give to each adapter, and at which ranks.

    Attributes:
        blocks: concept to its coarse blocks, in order, those where its method adapts something.
        ranks: concept to the ranks to choose from, 0 first and the full rank last.
    """

    blocks: Mapping[Concept, tuple[str, ...]]
    ranks: Mapping[Concept, tuple[int, ...]]

    @classmethod
    def of(
        cls, blocks: BlockMap, specs: Mapping[Concept, AdapterSpec], between: Sequence[int] = ()
    ) -> Space:
        """The space of a model and two methods.

        Args:
            blocks: of the model.
            specs: concept to method and full rank; the mask is ignored.
            between: ranks to try beside none and the full one; those above it are left out.
        """
        useful, ranks = {}, {}
        for concept, spec in specs.items():
            plan = Plan.of(blocks, AdapterSpec(method=spec.method, rank=spec.rank))
            touched = set(plan.parameters)
            useful[concept] = tuple(c for c, subs in blocks.coarse.items() if touched & set(subs))
            less = sorted({r for r in between if 0 < r < spec.rank})
            ranks[concept] = (0, *less, spec.rank)
        return cls(useful, ranks)

    @property
    def full(self) -> dict[Concept, int]:
        """Concept to its adapter's own rank."""
        return {concept: self.ranks[concept][-1] for concept in CONCEPTS}

    def candidate(self, chosen: Mapping[Concept, Mapping[str, int]]) -> Candidate:
        """The point with these ranks, concept to block to rank."""
        return Candidate(**chosen, full=self.full)


@dataclass(frozen=True)
class Candidate:
    """Ranks by block, 0 where a block is skipped.

    Attributes:
        character, style: coarse block to rank, every block of the space.
        full: concept to its adapter's own rank.
    """

    character: Mapping[str, int]
    style: Mapping[str, int]
    full: Mapping[Concept, int]

    def __hash__(self) -> int:
        return hash(str(self.pair))

    @property
    def trains_both(self) -> bool:
        """Whether each adapter has a block at all."""
        return any(self.character.values()) and any(self.style.values())

    @property
    def pair(self) -> Pair:
        """The two masks, as short as they can be written; needs `trains_both`."""
        return Pair(*(mask_of(getattr(self, c), self.full[c]) for c in CONCEPTS))


def mask_of(ranks: Mapping[str, int], full: int) -> str:
    """The shortest usual sentence for ranks by coarse block: runs of one rank become ranges.

    `Mask.of` does so for sub-blocks; here a block that the method leaves alone breaks no range.

    Args:
        ranks: coarse block to rank, in the model's order; blocks without any layer of the method
            may be missing.
        full: the adapter's own rank, which the mask does not name.

    Raises:
        ValueError: no block has a rank.
    """
    if not any(ranks.values()):
        raise ValueError("no block is trained")
    if set(ranks.values()) == {full}:
        return FULL
    terms = []
    for rank, run in groupby(ranks.items(), key=lambda item: item[1]):
        names = [name for name, _ in run]
        if rank:
            span = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
            terms.append(span if rank == full else f"{span}:{rank}")
    return "+".join(terms)


def keeping(space: Space, blocks: Mapping[Concept, Collection[str]]) -> Candidate:
    """These blocks at the full rank; an adapter that is not named keeps all.

    Args:
        space: what may be chosen.
        blocks: concept to coarse blocks.
    """
    kept = {c: blocks.get(c, space.blocks[c]) for c in CONCEPTS}
    return space.candidate(
        {c: {b: space.full[c] if b in kept[c] else 0 for b in space.blocks[c]} for c in CONCEPTS}
    )


def everything(space: Space) -> Candidate:
    """Both adapters with all blocks at the full rank."""
    return keeping(space, {})


def without(space: Space, blocks: Mapping[Concept, Collection[str]]) -> Candidate:
    """All blocks of each adapter but these."""
    return keeping(space, {c: set(space.blocks[c]) - set(left) for c, left in blocks.items()})


def skips(space: Space) -> dict[tuple[Concept, str], Candidate]:
    """Concept and block, to the candidate in which that adapter alone goes without it.

    An adapter with one block cannot go without it.
    """
    found = {(c, b): without(space, {c: {b}}) for c in CONCEPTS for b in space.blocks[c]}
    return {key: candidate for key, candidate in found.items() if candidate.trains_both}


def alone(space: Space) -> dict[tuple[Concept, str], Candidate]:
    """Concept and block, to the candidate in which that adapter has nothing else."""
    return {(c, b): keeping(space, {c: {b}}) for c in CONCEPTS for b in space.blocks[c]}


def shared_out(space: Space, character_needs: Mapping[str, float]) -> Candidate:
    """Every block to one adapter: to the character's where the character needs it more.

    Args:
        space: what may be chosen.
        character_needs: coarse block to how much more the character loses without it than the
            style does, both on the scale of their scores.
    """
    chosen: dict[Concept, dict[str, int]] = {"character": {}, "style": {}}
    for concept in CONCEPTS:
        sign = 1 if concept == "character" else -1
        for block in space.blocks[concept]:
            wanted = sign * character_needs.get(block, 0.0) > 0
            chosen[concept][block] = space.full[concept] if wanted else 0
        if not any(chosen[concept].values()):  # each needs one block: the one it misses most
            first = max(space.blocks[concept], key=lambda b: sign * character_needs.get(b, 0.0))
            chosen[concept][first] = space.full[concept]
    return space.candidate(chosen)
