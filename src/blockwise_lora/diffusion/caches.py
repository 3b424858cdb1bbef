"""What stays the same through a training, computed once: latents, masks and text embeddings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from blockwise_lora.diffusion import views
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.captions import contrasts, wordings
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.latents import moments
from blockwise_lora.diffusion.text import Prompts, cat
from blockwise_lora.diffusion.texts import TextTable
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import ImageSet, Picture

log = logging.getLogger(__name__)


class ResolutionError(UserError):
    """Pictures whose size does not suit the base model."""


@dataclass(frozen=True, eq=False)
class Shelf:
    """Pictures of one size, on the model's device.

    Attributes:
        mean: of the latents of every view of every picture, (entries, channels, height, width).
        std: likewise.
        mask: what counts, in [0, 1], (entries, 1, height, width); None: all.
        frames: the picture's height and width, the crop's top and left, and the view's height and
            width in pixels, (entries, 6): what SDXL is told.
        entry: of each picture's views, (pictures, views) int64.
        wording: rows of the text table for each picture's caption, (pictures, wordings) int64.
        untriggered: likewise for its caption without the trigger; None where none is needed.
        order: pictures of one pass, each as often as it is to be shown, on the CPU.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor | None
    frames: Tensor
    entry: Tensor
    wording: Tensor
    untriggered: Tensor | None
    order: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's latents, (channels, height, width)."""
        return tuple(self.mean.shape[1:])


@dataclass(frozen=True, eq=False)
class CachedSet:
    """A picture set as the U-Net sees it.

    Attributes:
        shelves: the pictures by their size; the sizes are the buckets of a set of mixed shapes.
        text: all captions and, last, the empty one: embeddings, or token ids where the text
            encoders learn, too.
        prior: pictures of the class that the base model painted, if there are any.
    """

    shelves: tuple[Shelf, ...]
    text: Prompts
    prior: Shelf | None = None

    @classmethod
    def of(
        cls,
        base: BaseModel,
        images: ImageSet,
        config: TrainingConfig | None = None,
        folder: Path | None = None,
        prior: ImageSet | None = None,
        *,
        encoded: bool = True,
    ) -> CachedSet:
        """Encode a picture set.

        Args:
            base: whose VAE and text encoders encode.
            images: pictures with captions.
            config: says which views and wordings there are; None: one of each.
            folder: where latents and embeddings are kept from one run to the next; None: nowhere.
            prior: pictures of the class, of one size.
            encoded: whether captions become embeddings, which are kept; else each step encodes.

        Raises:
            ResolutionError: a size is no multiple of what the U-Net can halve.
            CaptionError: a caption lacks the trigger that it is to be left without.
        """
        config = config or TrainingConfig()
        check_resolution(base, images)
        sets = [images, prior] if prior else [images]
        known = [wordings(some, config) for some in sets]
        bare = None
        if config.prior.kind == "distil":
            known[0], bare = zip(*(contrasts(some, config) for some in known[0]), strict=True)
        everything = [w for words in (*known, bare or []) for some in words for w in some]
        table = _texts(base, everything, folder, encoded)
        shelves = tuple(
            _shelf(
                base,
                [images[i] for i in rows],
                config,
                table.rows(known[0][i] for i in rows),
                bare and table.rows(bare[i] for i in rows),
                folder,
            )
            for rows in _by_size(images)
        )
        painted = prior and _shelf(
            base, list(prior), TrainingConfig(), table.rows(known[1]), None, folder
        )
        empty = _texts(base, [""], folder, encoded)
        return cls(shelves, cat([table.text, empty.text]), painted)


def _texts(
    base: BaseModel, prompts: Iterable[str], folder: Path | None, encoded: bool
) -> TextTable:
    if not encoded:
        return TextTable.of_ids(base, prompts)
    return TextTable.of(base, prompts, folder and folder / "texts")


def _by_size(images: ImageSet) -> list[list[int]]:
    sizes: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(images):
        sizes.setdefault((picture.width, picture.height), []).append(i)
    return [sizes[size] for size in sorted(sizes)]


def _shelf(
    base: BaseModel,
    pictures: Sequence[Picture],
    config: TrainingConfig,
    wording: Tensor,
    untriggered: Tensor | None,
    folder: Path | None,
) -> Shelf:
    shown = [list(views.views(picture, config.augment)) for picture in pictures]
    flat = [view for some in shown for view in some]
    pixels = torch.stack([view.pixels for view in flat])
    mean, std = moments(base, pixels, folder and folder / "latents")
    height, width = pixels.shape[1:3]
    frames = [[height, width, *view.corner, height, width] for view in flat]
    return Shelf(
        mean=mean,
        std=std,
        mask=_masks(base, flat, config) if config.loss.masked else None,
        frames=torch.tensor(frames, dtype=torch.float32, device=base.device),
        entry=torch.arange(len(flat), device=base.device).view(len(pictures), -1),
        wording=wording,
        untriggered=untriggered,
        order=torch.tensor([i for i, p in enumerate(pictures) for _ in range(p.repeats)]),
    )


def _masks(base: BaseModel, shown: Sequence[views.View], config: TrainingConfig) -> Tensor | None:
    """Weights of the latents' places: the share of each that the mask shows."""
    if all(view.mask is None for view in shown):
        return None
    whole = torch.full(shown[0].pixels.shape[:2], 255, dtype=torch.uint8)
    masks = torch.stack([whole if view.mask is None else view.mask for view in shown])
    share = F.avg_pool2d(masks[:, None].float() / 255, base.vae_factor)
    rest = config.loss.unmasked_weight
    return (rest + (1 - rest) * share).to(base.device)


def check_resolution(base: BaseModel, images: ImageSet) -> None:
    """Compare the pictures' sizes with the base model's.

    Raises:
        ResolutionError: a size is no multiple of what the U-Net can halve.
    """
    where = f"the pictures in {images.root}"
    remedy = f"set the resolution in parameters_curation.yml to {base.resolution} and curate again"
    sizes = sorted({(p.width, p.height) for p in images})
    for width, height in sizes:
        if width % base.multiple or height % base.multiple:
            raise ResolutionError(
                f"{where} are {width}x{height}, but {base.name} needs multiples of "
                f"{base.multiple}: {remedy}."
            )
    # Buckets of other shapes hold about as many pixels as the square.
    off = [s for s in sizes if not 0.6 < (s[0] * s[1]) ** 0.5 / base.resolution < 1.4]
    if off or (len(sizes) == 1 and sizes[0] != (base.resolution, base.resolution)):
        width, height = (off or sizes)[0]
        log.warning(
            "%s are %dx%d, but %s was made for %dx%d and may not learn well from them: %s.",
            where[0].upper() + where[1:],
            width,
            height,
            base.name,
            base.resolution,
            base.resolution,
            remedy,
        )
