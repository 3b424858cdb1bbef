"""A trigger that becomes a word of its own, to be learned beside the adapter."""

from __future__ import annotations

import logging
import re

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.captions import CaptionError
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.optimizers import Group
from blockwise_lora.imagesets import ImageSet

log = logging.getLogger(__name__)


def learned_trigger(base: BaseModel, name: str, images: ImageSet, config: TrainingConfig) -> Group:
    """Add the trigger to the vocabulary, under an adapter's name; returns what there is to train.

    Raises:
        CaptionError: no caption has the trigger.
        AdapterError: there are no vectors to start from.
    """
    wanted = config.trigger_embedding
    _check_captions(images, config.trigger)
    initial = wanted.initial or config.trigger
    vectors = base.vocabulary.new(name, config.trigger, wanted.tokens, initial)
    return Group(vectors, wanted.learning_rate / config.learning_rate)


def _check_captions(images: ImageSet, trigger: str) -> None:
    whole_word = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    lacking = [caption for caption in images.captions if not re.search(whole_word, caption)]
    if len(lacking) == len(images):
        raise CaptionError(
            f"training.trigger_embedding: no caption has the trigger {trigger!r}, such as "
            f"{lacking[0]!r}. Put {{trigger}} into caption_template and curate again."
        )
    if lacking:
        log.warning(
            "%d of %d captions lack the trigger %r, whose vectors learn nothing from them.",
            len(lacking),
            len(images),
            trigger,
        )
