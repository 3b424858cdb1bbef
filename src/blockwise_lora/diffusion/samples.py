"""Pictures of every prompt and seed under several combinations of adapters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from blockwise_lora.adapters import Schedule, scheduled, set_strengths
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.adapters.merge import Merged
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.adapters.strength import Strength
from blockwise_lora.diffusion.combination import CombinationConfig, Schedules, Strengths
from blockwise_lora.diffusion.merging import merged_acting
from blockwise_lora.diffusion.prompts import CONDITIONS, Concept, Condition, fill_all
from blockwise_lora.diffusion.sampling import SamplingConfig, StepHook, sample
from blockwise_lora.errors import UserError
from blockwise_lora.parameters import ParameterError, asdict, typed

if TYPE_CHECKING:
    from blockwise_lora.diffusion.base import BaseModel

log = logging.getLogger(__name__)

_METADATA = "metadata.jsonl"
_ORIGIN = "made_with.json"
Seeds = Sequence[int] | Sequence[Sequence[int]]
"""Of the initial noise: the same for every prompt, or each prompt's own."""
_ACTIVE: Mapping[Condition, tuple[str, ...]] = {
    "base": (),
    "character": ("character",),
    "style": ("style",),
    "both": ("character", "style"),
}
_FULL, _CONSTANT = Strengths(), Schedules()


class SampleSetError(UserError):
    """A folder of samples that cannot be read."""


@dataclass(frozen=True)
class SampleRow:
    """What a sampled picture is of.

    Attributes:
        condition: which adapters were active.
        prompt_index: of its prompt among the templates.
        prompt: as given to the model.
        seed: of its initial noise.
        variant: what the adapters are called in the comparison.
    """

    condition: Condition
    prompt_index: int
    prompt: str
    seed: int
    variant: str

    @property
    def file_name(self) -> str:
        """A name of its own within a set."""
        return f"{self.condition}-{self.prompt_index:03d}-{self.seed}.png"


@dataclass(frozen=True)
class Origin:
    """What pictures were made with.

    Attributes:
        adapters: concept to the hash of its adapter's file.
        combination: how the adapters were combined and sampled.
    """

    adapters: Mapping[str, str]
    combination: CombinationConfig


@dataclass(frozen=True)
class SampleSet:
    """Sampled pictures with what they are of, in the same order.

    Attributes:
        rows: one a picture.
        pictures: RGB.
        origin: what they were made with, where that is told.
    """

    rows: tuple[SampleRow, ...]
    pictures: tuple[Image.Image, ...] = field(repr=False)
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.pictures):
            raise ValueError(f"{len(self.rows)} rows but {len(self.pictures)} pictures")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[SampleRow, Image.Image]]:
        return iter(zip(self.rows, self.pictures, strict=True))

    def write(self, folder: Path) -> None:
        """Write pictures, metadata.jsonl and made_with.json into an existing, empty folder."""
        lines = []
        for row, picture in self:
            picture.save(folder / row.file_name)
            lines.append(json.dumps({"file_name": row.file_name} | asdict(row)))
        (folder / _METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if self.origin:
            told = json.dumps(asdict(self.origin), indent=2)
            (folder / _ORIGIN).write_text(told + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SampleSet:
        """Read what `write` wrote.

        Raises:
            SampleSetError: something is missing or damaged.
        """
        metadata = folder / _METADATA
        rows, pictures = [], []
        try:
            for line in metadata.read_text(encoding="utf-8").splitlines():
                values = json.loads(line)
                name = values.pop("file_name")
                row = typed(SampleRow, values, str(metadata))
                if name != row.file_name:  # no other name, so none that leads out of the folder
                    raise ValueError(f"file_name {name!r} is not {row.file_name!r}")
                with Image.open(folder / name) as picture:
                    pictures.append(picture.convert("RGB"))
                rows.append(row)
            told = folder / _ORIGIN
            origin = None
            if told.exists():
                origin = typed(Origin, json.loads(told.read_text(encoding="utf-8")), str(told))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ParameterError) as error:
            raise SampleSetError(
                f"{folder}: the sampled pictures cannot be read ({error}). Sample them again: "
                f"kedro run --pipelines combination"
            ) from error
        return cls(tuple(rows), tuple(pictures), origin)


def seeds_by_prompt(seeds: Seeds, prompts: int) -> tuple[tuple[int, ...], ...]:
    """The seeds of each prompt.

    Raises:
        ValueError: own seeds are told for another number of prompts.
    """
    if all(isinstance(seed, int) for seed in seeds):
        return (tuple(seeds),) * prompts
    if len(seeds) != prompts:
        raise ValueError(f"seeds for {len(seeds)} prompts, but there are {prompts}")
    return tuple(tuple(own) for own in seeds)


def sample_conditions(
    base: BaseModel,
    templates: Sequence[str],
    seeds: Seeds,
    conditions: Sequence[Condition],
    *,
    character: Concept,
    style: Concept,
    config: SamplingConfig,
    strengths: Strengths = _FULL,
    schedules: Schedules = _CONSTANT,
    merged: Merged | None = None,
    variant: str = "",
) -> SampleSet:
    """Sample every prompt with every seed under every condition.

    The same prompt and seed start from the same noise under all conditions.

    Args:
        base: the model with the adapters `character` and `style` attached, so far as the
            conditions need them; whatever else is attached is off.
        templates: prompts, see `prompts`.
        seeds: of the initial noise; for all prompts, or a sequence for each.
        conditions: which combinations of adapters.
        character: words for the character.
        style: words for the style.
        config: how to sample.
        strengths: of the adapters where they are active.
        schedules: of these strengths over the denoising steps; not for what is merged.
        merged: what acts in the place of both, made with these strengths.
        variant: recorded in the rows.

    Raises:
        PromptError: a prompt cannot be filled in; nothing is sampled.
        AdapterError, MaskError: an adapter is missing or a strength does not fit.
    """
    prompts = {c: fill_all(templates, c, character, style) for c in conditions}
    own = seeds_by_prompt(seeds, len(templates))
    rows: list[SampleRow] = []
    pictures: list[Image.Image] = []
    for condition in conditions:
        new = [
            SampleRow(condition, i, prompt, seed, variant)
            for i, prompt in enumerate(prompts[condition])
            for seed in own[i]
        ]
        active = {name: getattr(strengths, name) for name in _ACTIVE[condition]}
        times = {name: getattr(schedules, name) for name in active}
        one = merged if condition == "both" else None
        with _acting(base, active, times, one) as before_step:
            pictures += sample(
                base,
                [row.prompt for row in new],
                [row.seed for row in new],
                config,
                title=f"sampling {variant}/{condition}" if variant else f"sampling {condition}",
                before_step=before_step,
            )
        rows += new
    return SampleSet(tuple(rows), tuple(pictures))


@contextmanager
def _acting(
    base: BaseModel,
    strengths: Mapping[str, Strength],
    schedules: Mapping[str, Schedule],
    merged: Merged | None,
) -> Iterator[StepHook | None]:
    """Set adapters, or the merge of two, to act; yields what changes from step to step."""
    with base.vocabulary.only([name for name, strength in strengths.items() if strength != 0]):
        if merged is None:
            set_strengths(base.parts, strengths)
            constant = all(schedule == Schedule() for schedule in schedules.values())
            if not constant:
                _tell_of_text(base, schedules)
            yield None if constant else scheduled(base.parts, strengths, schedules)
            return
        with merged_acting(base, merged, tuple(strengths), strengths) as before_step:
            yield before_step


def _tell_of_text(base: BaseModel, schedules: Mapping[str, Schedule]) -> None:
    """Prompts are encoded once, before the first step."""
    for name, schedule in schedules.items():
        layers = (part_of(layer) for layer, _ in adapted_layers(base.parts, name))
        if schedule != Schedule() and (name in base.vocabulary or {*layers} - {"unet"}):
            log.warning(
                "combination.schedules.%s holds for the U-Net: prompts are encoded once, with the "
                "adapter's share in the text encoder at its full strength.",
                name,
            )


def contact_sheet(samples: SampleSet, side: int = 96) -> Image.Image:
    """Prompts and seeds down, conditions across, each picture `side` pixels wide."""
    across = [c for c in CONDITIONS if any(row.condition == c for row in samples.rows)]
    down = sorted({(row.prompt_index, row.seed) for row in samples.rows})
    sheet = Image.new("RGB", (side * max(1, len(across)), side * max(1, len(down))), "white")
    for row, picture in samples:
        place = across.index(row.condition), down.index((row.prompt_index, row.seed))
        sheet.paste(picture.resize((side, side)), (place[0] * side, place[1] * side))
    return sheet
