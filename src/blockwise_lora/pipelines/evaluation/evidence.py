"""Everything that is judged, gathered from its folders and checked against the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockwise_lora.errors import UserError
from blockwise_lora.parameters import asdict
from blockwise_lora.pipelines.command import kedro_run

if TYPE_CHECKING:
    from PIL import Image

    from blockwise_lora.diffusion.combination import CombinationConfig
    from blockwise_lora.diffusion.prompts import Concept, PromptTemplate
    from blockwise_lora.diffusion.samples import SampleSet
    from blockwise_lora.imagesets import ImageSet
    from blockwise_lora.judges.samples import Question, References, Sample


class EvidenceError(UserError):
    """Pictures that the comparison needs are missing or belong to other parameters."""


@dataclass(frozen=True)
class OpenedSet:
    """A curated set with its pictures in memory.

    Attributes:
        images: the set.
        pictures: in its order, RGB.
    """

    images: ImageSet
    pictures: tuple[Image.Image, ...]

    @classmethod
    def of(cls, images: ImageSet) -> OpenedSet:
        """Open every picture.

        Raises:
            ImageSetError: one is damaged, or has changed since the set was made.
        """
        return cls(images, tuple(picture.open() for picture in images))

    def named(self, name: str) -> Image.Image | None:
        """The picture made from an original of that name, or called so itself."""
        for entry, picture in zip(self.images, self.pictures, strict=True):
            if name in (entry.source, entry.file_name):
                return picture
        return None


@dataclass(frozen=True)
class Evidence:
    """What is put before the judges.

    Attributes:
        samples: base pictures and each variant's, all with the same seeds.
        questions: one a prompt.
        references: what the adapters learned from.
        combinations: variant to how its adapters were combined and sampled, where that is told.
        warnings: what a reader of the outcome must know.
    """

    samples: tuple[Sample, ...]
    questions: tuple[Question, ...]
    references: References
    combinations: Mapping[str, CombinationConfig] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find_variants(
    wanted: Sequence[str],
    found: Mapping[str, Callable[[], SampleSet]],
    environment: str = "",
    made: str | None = None,
) -> tuple[dict[str, SampleSet], tuple[str, ...]]:
    """Load the pictures of the variants to compare, those that exist.

    Args:
        wanted: names of variants.
        found: name to what loads its pictures.
        environment: of Kedro, as messages are to name it; empty for the default.
        made: the run's own variant, which is shown by itself where none of the others exists.

    Returns:
        Sample sets by variant in the order wanted, and a warning for each one that is missing.

    Raises:
        EvidenceError: none exists, or one is called like an anchor of the table.
    """
    from blockwise_lora.judges.samples import ANCHORS

    names = list(dict.fromkeys(wanted))
    if made in found and not any(name in found for name in names):
        names.append(made)
    if taken := [name for name in names if name in ANCHORS]:
        raise EvidenceError(
            f"compare: {taken[0]!r} is the name of one of the table's own rows; call the variant "
            "something else in parameters_variants.yml"
        )
    there = {name: found[name]() for name in names if name in found}
    missing = [name for name in names if name not in found]
    if not there:
        raise EvidenceError(
            f"no pictures of {', '.join(missing) or 'any variant'} to compare: "
            + (f"make them with `{_run(environment, missing[0])}`" if missing else "")
            + ", or name others under `compare` in parameters_variants.yml"
        )
    return there, tuple(
        f"{name} is missing: it was not made yet ({_run(environment, name)})." for name in missing
    )


def check_prompts(
    samples: SampleSet,
    templates: Sequence[str],
    character: Concept,
    style: Concept,
    variant: str,
    environment: str = "",
) -> None:
    """Check that pictures were made with today's prompts, so that truths and rows agree.

    Raises:
        EvidenceError: they were not.
    """
    from blockwise_lora.diffusion.prompts import fill

    remedy = f"sample again: `{_run(environment, variant, 'combination')}`"
    made = {row.prompt_index for row in samples.rows}
    if made != set(range(len(templates))):
        raise EvidenceError(
            f"the pictures of {variant} are of {len(made)} prompts, the parameters have "
            f"{len(templates)}: {remedy}"
        )
    for row in samples.rows:
        expected = fill(templates[row.prompt_index], row.condition, character, style)
        if row.prompt != expected:
            raise EvidenceError(
                f"the pictures of {variant} were made with the prompt {row.prompt!r}, the "
                f"parameters now say {expected!r}: {remedy}"
            )


def check_adapters(
    samples: SampleSet, now: Mapping[str, str], variant: str, environment: str = ""
) -> None:
    """Check that pictures were made with the adapters that the report will tell about.

    Args:
        samples: of the variant.
        now: concept to the hash of the adapter's file that is there; those that are gone are left
            out.
        variant: the variant's name.
        environment: see `find_variants`.

    Raises:
        EvidenceError: an adapter was trained anew since.
    """
    for concept, made_with in (samples.origin.adapters if samples.origin else {}).items():
        if now.get(concept, made_with) != made_with:
            raise EvidenceError(
                f"the pictures of {variant} were made with another {concept} adapter "
                f"({made_with[:8]}) than the one that is there now ({now[concept][:8]}): sample "
                f"again: `{_run(environment, variant, 'combination')}`"
            )


def sampled_otherwise(
    base: SampleSet, variants: Mapping[str, SampleSet], environment: str = ""
) -> tuple[str, ...]:
    """A warning for each variant that was sampled with other settings than the base model.

    Strengths and rules of merging may differ, since they may be what is compared.
    """
    if base.origin is None:
        return ()
    expected, warnings = _sampling(base), []
    for name, made in variants.items():
        now = _sampling(made) if made.origin else expected
        apart = [f"{k} {now[k]} instead of {v}" for k, v in expected.items() if now[k] != v]
        if apart:
            warnings.append(
                f"{name} was sampled otherwise than the base model ({', '.join(apart)}), so it "
                f"cannot be compared with it: {_run(environment, name, 'combination')}."
            )
    return tuple(warnings)


def _sampling(samples: SampleSet) -> dict[str, Any]:
    """What decides a picture; how many are made at once does not."""
    told = asdict(samples.origin.combination.sampling)
    return {key: value for key, value in told.items() if key != "batch_size"}


def _run(environment: str, variant: str, pipelines: str = "") -> str:
    """The command that makes a variant, or a part of it."""
    return kedro_run(environment, pipelines, {"variant": variant})


def to_samples(
    base: SampleSet, variants: Mapping[str, SampleSet]
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """All pictures with seeds that every set has, and a warning if others were left out.

    Raises:
        EvidenceError: no seed is common to all.
    """
    from blockwise_lora.judges.samples import BASE, Row, Sample

    sets = {BASE: base, **variants}
    seeds = {name: {row.seed for row in made.rows} for name, made in sets.items()}
    common = set.intersection(*seeds.values())
    if not common:
        listed = "; ".join(f"{name}: {sorted(s)}" for name, s in seeds.items())
        raise EvidenceError(
            f"the variants' pictures have no seed in common ({listed}): sample them again with "
            "the same seed and pictures_per_prompt"
        )
    samples = tuple(
        Sample(
            Row(BASE) if name == BASE else Row(name, row.condition), row.prompt_index, row.seed, p
        )
        for name, made in sets.items()
        for row, p in made
        if row.seed in common
    )
    dropped = sorted(set.union(*seeds.values()) - common)
    warning = f"Seeds that not every variant has were left out: {', '.join(map(str, dropped))}."
    return samples, (warning,) if dropped else ()


def to_questions(
    prompts: Sequence[PromptTemplate],
    texts: Sequence[str],
    truth: str | None,
    style: OpenedSet,
    style_folder: str,
) -> tuple[Question, ...]:
    """Prompts in plain words with the pictures that they are compared with.

    Args:
        prompts: with the names of their pictures.
        texts: the prompts in plain words.
        truth: folder of the true pictures; None where there are none.
        style: the style's curated pictures, which a `style_picture` is looked for among first,
            so that it is known for one of them.
        style_folder: where its original lies.

    Raises:
        EvidenceError: a picture that a prompt names is missing.
    """
    from blockwise_lora.judges.samples import Question

    def style_picture(prompt: PromptTemplate, where: str) -> Image.Image | None:
        if not prompt.style_picture:
            return None
        original = Path(style_folder) / prompt.style_picture
        return style.named(prompt.style_picture) or _open(original, f"{where}.style_picture")

    def true_picture(prompt: PromptTemplate, where: str) -> Image.Image | None:
        if not (truth and prompt.truth):
            return None
        return _open(Path(truth) / prompt.truth, f"{where}.truth")

    return tuple(
        Question(text, true_picture(p, f"prompts[{i}]"), style_picture(p, f"prompts[{i}]"))
        for i, (p, text) in enumerate(zip(prompts, texts, strict=True))
    )


def _open(path: Path, where: str) -> Image.Image:
    from blockwise_lora.imagesets.decoding import decode

    if not path.is_file():
        raise EvidenceError(
            f"{where}: there is no {path}; correct the name in parameters_data.yml, or leave it out"
        )
    return decode(path).image
