"""Pictures that the base model paints of the class that a concept belongs to.

Ruiz et al., DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation
(2022), section 3.2.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blockwise_lora.atomic import replace_folder
from blockwise_lora.diffusion.attached import bare
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import ResolutionError
from blockwise_lora.diffusion.captions import without_trigger
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.sampling import SamplingConfig, batch_for, sample
from blockwise_lora.imagesets import ImageSet, ImageSetError, read_imagefolder

log = logging.getLogger(__name__)


@contextmanager
def class_pictures(
    base: BaseModel, images: ImageSet, config: TrainingConfig, folder: Path | None = None
) -> Iterator[ImageSet | None]:
    """Pictures of the class, painted by the base model on first use.

    Args:
        base: the model; its adapters do not take part.
        images: the concept's pictures, of one size; their captions without the trigger are the
            prompts.
        config: how many pictures, and how they are sampled.
        folder: where they are kept for other runs; None: only in here.

    Yields:
        The pictures with their captions; None where the configuration asks for none.

    Raises:
        CaptionError: a caption lacks the trigger.
        ResolutionError: the concept's pictures are not all squares of one size.
    """
    if config.prior.kind != "pictures":
        yield None
    elif folder is not None:
        yield _painted(base, images, config, folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            yield _painted(base, images, config, Path(place))


def _painted(base: BaseModel, images: ImageSet, config: TrainingConfig, folder: Path) -> ImageSet:
    size, prior = _side(images), config.prior
    captions = sorted({without_trigger(caption, config) for caption in images.captions})
    prompts = [captions[i % len(captions)] for i in range(prior.pictures)]
    # Spread, so that the pictures of one seed's training are not those of the next one's.
    seeds = [config.seed * 100_003 + i for i in range(prior.pictures)]
    sampling = SamplingConfig(
        prior.sampling_steps, prior.guidance_scale, size=size, batch_size=batch_for(size)
    )
    key = configuration_hash(
        base=base.sha256, dtype=base.dtype, prompts=prompts, seeds=seeds, sampling=sampling
    )
    place = folder / key[:32]
    try:
        return read_imagefolder(place)
    except ImageSetError:
        pass  # not there yet, or damaged: painted (again)
    log.info("The base model paints %d pictures of the class, once.", len(prompts))
    with bare(base):
        remedy = "Take training.prior.kind: distil, or base_model.dtype: bfloat16"
        pictures = sample(base, prompts, seeds, sampling, title="class pictures", remedy=remedy)
    with replace_folder(place) as new:
        _write(new, prompts, pictures)
    return read_imagefolder(place)


def _side(images: ImageSet) -> int:
    sizes = {(picture.width, picture.height) for picture in images}
    width, height = next(iter(sizes))
    if len(sizes) > 1 or width != height:
        raise ResolutionError(
            "training.prior.kind: pictures needs a set of squares of one size, since the model "
            "paints the class at that size; take distil, which needs no pictures, or curate to one."
        )
    return width


def _write(folder: Path, captions: Sequence[str], pictures: Sequence) -> None:
    lines = []
    for i, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
        name = f"{i:04}.png"
        picture.save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
