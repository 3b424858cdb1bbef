"""The captions of a training: their wordings, and what is left without the trigger."""

from __future__ import annotations

import re

from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import ImageSet
from blockwise_lora.imagesets.captioning.tags import join_tags, split_tags
from blockwise_lora.imagesets.captioning.variants import VariantRules, variants


class CaptionError(UserError):
    """Captions that do not suit the way of training."""


def wordings(images: ImageSet, config: TrainingConfig) -> list[tuple[str, ...]]:
    """Each picture's caption in the wordings among which the steps choose.

    They depend on the caption and the seed alone.
    """
    rules = VariantRules(config.captions.shuffle, config.captions.keep, config.captions.tag_dropout)
    number = config.captions.wordings if rules.random else 1
    return [
        variants(caption, number, rules, generator_for(config.seed, "wordings", caption))
        for caption in images.captions
    ]


def without_trigger(caption: str, config: TrainingConfig) -> str:
    """A caption that does not name the concept: "zkc cat face, grinning" to "cat face, grinning".

    Args:
        caption: names it.
        config: `trigger`, and `prior.replacement`, which takes its place.

    Raises:
        CaptionError: there is no trigger, or the caption lacks it.
    """
    if not config.trigger:
        raise CaptionError("training.prior: needs training.trigger, the word that it leaves out")
    trigger = rf"(?<!\w){re.escape(config.trigger)}(?!\w)"
    rest, found = re.subn(trigger, config.prior.replacement, caption)
    if not found:
        raise CaptionError(
            f"training.prior: the caption {caption!r} lacks the trigger {config.trigger!r}, so it "
            f"cannot be shown without it. Put {{trigger}} into caption_template and curate again."
        )
    return join_tags(split_tags(rest))
