"""Pictures of every pair of masks, from the same prompts and the same noise.

A tried pair is either two trained adapters or the two full ones with blocks switched off. Its
pictures are kept under a name made of all that they depend on, so a sweep that goes on samples
nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from blockwise_lora.adapters import attached_names, detach, load_adapter
from blockwise_lora.atomic import replace_folder
from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.prompts import Concept, Condition
from blockwise_lora.diffusion.samples import SampleSet, Strengths, sample_conditions
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.sweep.bank import Entry
from blockwise_lora.sweep.studies import CONCEPTS, Pair


@dataclass(frozen=True)
class Brief:
    """What is asked of every pair alike.

    Attributes:
        templates: prompts, see `diffusion.prompts`.
        seeds: of the initial noise.
        character, style: words for the concepts.
        sampling: how to sample.
    """

    templates: tuple[str, ...]
    seeds: tuple[int, ...]
    character: Concept
    style: Concept
    sampling: SamplingConfig


@dataclass(frozen=True)
class Stack:
    """Two adapters of the bank, each at full strength or with blocks off.

    Attributes:
        name: of its row in the tables.
        pair: the masks it stands for.
        entries: concept to adapter.
        off: concept to the sub-blocks that are switched off; trained masks have none.
    """

    name: str
    pair: Pair
    entries: Mapping[str, Entry]
    off: Mapping[str, tuple[str, ...]]

    @property
    def strengths(self) -> Strengths:
        """As `sample_conditions` takes them."""
        return Strengths(
            **{
                concept: {"all": 1.0} | dict.fromkeys(self.off.get(concept, ()), 0.0)
                for concept in CONCEPTS
            }
        )


def trained_stack(pair: Pair, entries: Mapping[str, Entry]) -> Stack:
    """Two adapters that were trained with the pair's masks."""
    return Stack(str(pair), pair, entries, {})


def ablated_stack(pair: Pair, full: Mapping[str, Entry], blocks: BlockMap) -> Stack:
    """The two full adapters, cut down to the pair's masks after training."""
    off = {
        concept: tuple(
            name
            for name in blocks.names
            if name not in Mask.parse(getattr(pair, concept)).selected(blocks)
        )
        for concept in CONCEPTS
    }
    return Stack(f"{pair} (ablated)", pair, full, off)


class Studio:
    """Samples stacks, remembers them on disk, and swaps no adapter that is already in place.

    Args:
        base: the model; its own adapters are detached when the studio is closed.
        brief: what is asked of every stack.
        folder: where pictures are kept.
    """

    def __init__(self, base: BaseModel, brief: Brief, folder: Path) -> None:
        self._base, self._brief, self._folder = base, brief, folder
        self._loaded: dict[str, str] = {}

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        for concept in list(self._loaded):
            self._unload(concept)

    def base_samples(self) -> SampleSet:
        """The base model's own pictures: where every score starts from."""
        return self._remembered("base", {}, ("base",), lambda: Strengths())

    def samples(self, stack: Stack, conditions: Sequence[Condition] = ("both",)) -> SampleSet:
        """A stack's pictures, sampled on first use.

        Raises:
            AdapterError: an adapter is missing or damaged.
        """
        made_of = {
            concept: [stack.entries[concept].key, stack.off.get(concept, ())]
            for concept in CONCEPTS
        }

        def prepare() -> Strengths:
            for concept in CONCEPTS:
                self._load(concept, stack.entries[concept])
            return stack.strengths

        return self._remembered(stack.name, made_of, tuple(conditions), prepare)

    def _remembered(
        self,
        name: str,
        made_of: Mapping[str, object],
        conditions: tuple[Condition, ...],
        prepare: Callable[[], Strengths],
    ) -> SampleSet:
        brief = self._brief
        key = configuration_hash(
            made_of=made_of, conditions=conditions, brief=asdict(brief), base=self._base.sha256
        )
        folder = self._folder / key[:16]
        if not folder.is_dir():
            samples = sample_conditions(
                self._base,
                brief.templates,
                brief.seeds,
                conditions,
                character=brief.character,
                style=brief.style,
                config=brief.sampling,
                strengths=prepare(),
                variant=name,
            )
            with replace_folder(folder) as staging:
                samples.write(staging)
        return SampleSet.read(folder)

    def _load(self, concept: str, entry: Entry) -> None:
        if self._loaded.get(concept) == entry.key:
            return
        self._unload(concept)
        load_adapter(self._base.unet, entry.read(), concept)
        self._loaded[concept] = entry.key

    def _unload(self, concept: str) -> None:
        if concept in attached_names(self._base.unet):
            detach(self._base.unet, concept)
        self._loaded.pop(concept, None)
