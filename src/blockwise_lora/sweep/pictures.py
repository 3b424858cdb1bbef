"""Pictures of every pair of masks, from the same prompts and the same noise.

A tried pair is either two trained adapters or the two full ones cut down to the masks. Both are
merged into the model's weights while it is sampled, which takes the plain model's time and gives,
to rounding, what the adapters give side by side. Pictures are kept under a name made of all that
they depend on, so a sweep that goes on samples nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from blockwise_lora.adapters import Adapter, AdapterSpec, LowRank, Plan, Update
from blockwise_lora.adapters.merge import Base, Merged, Sum, Weighted, merge
from blockwise_lora.adapters.merge.lowrank import truncate
from blockwise_lora.atomic import replace_folder
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.attached import lending
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.samples import SampleSet, sample_conditions, seeds_by_prompt
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.sweep.bank import Entry
from blockwise_lora.sweep.studies import CONCEPTS, Pair


@dataclass(frozen=True)
class Brief:
    """What is asked of every pair alike.

    Attributes:
        templates: prompts, see `diffusion.prompts`.
        seeds: of the initial noise; for all prompts, or a tuple for each.
        character, style: words for the concepts.
        sampling: how to sample.
    """

    templates: tuple[str, ...]
    seeds: tuple[int, ...] | tuple[tuple[int, ...], ...]
    character: Concept
    style: Concept
    sampling: SamplingConfig

    @property
    def seeds_by_prompt(self) -> tuple[tuple[int, ...], ...]:
        """The seeds of each prompt."""
        return seeds_by_prompt(self.seeds, len(self.templates))


@dataclass(frozen=True)
class Stack:
    """Two adapters of the bank, each as it is or cut down.

    Attributes:
        name: of its row in the tables.
        pair: the masks it stands for.
        entries: concept to adapter.
        cuts: concept to the layers that are left, with their ranks; whoever is not named is whole.
    """

    name: str
    pair: Pair
    entries: Mapping[str, Entry]
    cuts: Mapping[str, Mapping[str, int]]

    def adapter(self, concept: str, read: Callable[[Entry], Adapter] = Entry.read) -> Adapter:
        """A concept's adapter, as it acts here.

        Args:
            concept: whose.
            read: from an entry to its adapter.

        Raises:
            AdapterError: it is missing or damaged.
        """
        whole = read(self.entries[concept])
        ranks = self.cuts.get(concept)
        return whole if ranks is None else cut_down(whole, ranks)


def trained_stack(pair: Pair, entries: Mapping[str, Entry]) -> Stack:
    """Two adapters that were trained with the pair's masks."""
    return Stack(str(pair), pair, entries, {})


def ablated_stack(
    pair: Pair, full: Mapping[str, Entry], blocks: BlockMap, specs: Mapping[str, AdapterSpec]
) -> Stack:
    """The two full adapters, cut down after training to the layers and ranks of the pair's masks.

    Args:
        pair: the masks.
        full: concept to the adapter of all blocks.
        blocks: of the model.
        specs: concept to method and full rank; the mask is replaced by the pair's.
    """
    cuts = {
        concept: Plan.of(blocks, replace(specs[concept], blocks=getattr(pair, concept))).ranks
        for concept in CONCEPTS
    }
    return Stack(f"{pair} (ablated)", pair, full, cuts)


def cut_down(adapter: Adapter, ranks: Mapping[str, int]) -> Adapter:
    """What is left of an adapter in some layers, each at most of a rank.

    A low-rank change becomes the nearest one of the rank. Methods without such an approximation
    keep their layers whole: how they would do with less is left to a training.

    Args:
        adapter: any.
        ranks: layer name to rank; other layers go.
    """

    def nearest(update: Update, rank: int) -> Update:
        return truncate(update, rank).update if isinstance(update, LowRank) else update

    kept = {name: nearest(u, ranks[name]) for name, u in adapter.updates.items() if name in ranks}
    return replace(adapter, updates=kept)


@dataclass(frozen=True)
class Studio:
    """Samples stacks, and remembers them on disk.

    Attributes:
        base: the model, the same before and after, to the bit.
        brief: what is asked of every stack.
        folder: where pictures are kept.
    """

    base: BaseModel
    brief: Brief
    folder: Path
    # Most stacks have an adapter in common with the one before: the full one, whole or cut down.
    _read: Callable[[Entry], Adapter] = field(
        default_factory=lambda: lru_cache(maxsize=2)(Entry.read), repr=False, compare=False
    )

    @cached_property
    def _model(self) -> Base:
        """The model that is merged for; its layers are the same ones for every stack."""
        return Base.of(self.base.unet, *self.base.text_encoders)

    def base_samples(self) -> SampleSet:
        """The base model's own pictures: where every score starts from."""
        return self._remembered("base", None)

    def samples(self, stack: Stack) -> SampleSet:
        """A stack's pictures, both adapters at full strength; sampled on first use.

        Raises:
            AdapterError: an adapter is missing or damaged.
        """
        return self._remembered(stack.name, stack)

    def _remembered(self, name: str, stack: Stack | None) -> SampleSet:
        made_of = {
            concept: [stack.entries[concept].key, stack.cuts.get(concept)]
            for concept in CONCEPTS
            if stack
        }
        key = configuration_hash(
            made_of=made_of,
            brief=asdict(self.brief),
            base=self.base.sha256,
            dtype=str(self.base.dtype),
        )
        folder = self.folder / key[:16]
        if not folder.is_dir():
            adapters = {c: stack.adapter(c, self._read) for c in CONCEPTS} if stack else {}
            with lending(self.base, {c: adapter.word for c, adapter in adapters.items()}):
                samples = sample_conditions(
                    self.base,
                    self.brief.templates,
                    self.brief.seeds,
                    ("both",) if stack else ("base",),
                    character=self.brief.character,
                    style=self.brief.style,
                    config=self.brief.sampling,
                    merged=self._merged(adapters.values()) if stack else None,
                    variant=name,
                )
            with replace_folder(folder) as staging:
                samples.write(staging)
        return SampleSet.read(folder)

    def _merged(self, adapters: Iterable[Adapter]) -> Merged:
        """The sum of both adapters: in the weights, where these are fine enough to hold it."""
        return merge(
            [Weighted(adapter) for adapter in adapters],
            Sum(),
            base=self._model,
            bake=self.base.dtype == torch.float32,
        )
