"""The captions of a training: their wordings, and wordings that do not name the concept."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import torch

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
    number = config.captions.wordings if rules.random or config.prior.in_contexts else 1
    return [
        variants(caption, number, rules, generator_for(config.seed, "wordings", caption))
        for caption in images.captions
    ]


def contrasts(
    captions: Sequence[str], config: TrainingConfig
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings of one picture that name the concept, and as many that do not.

    Without `prior.contexts` a wording stays, and its other half lacks the trigger. With them a
    wording stands in one context after the other, next to made-up words, or, half of the time, to
    the triggers that it will be stacked with. Its other half lets the two change places half of the
    time, and else leaves the trigger out or has such a word in its place, so that the adapter has
    to look at where its trigger stands:

    "abc style, zkc cat face"    "zkc style, abc cat face", "abc style, cat face" or
                                 "abc style, xyv cat face"

    The first one only where the trigger's own vectors are not learned.

    Args:
        captions: wordings of one picture's caption, see `wordings`.
        config: trigger, contexts and seed.

    Raises:
        CaptionError: there is no trigger, or a caption lacks it.
    """
    generator = generator_for(config.seed, "contrasts", *captions)
    contexts = config.prior.contexts or ("{caption}",)
    pairs = [
        _contrast(caption, contexts[i % len(contexts)], config, generator)
        for i, caption in enumerate(captions)
    ]
    named, unnamed = zip(*pairs, strict=True)
    return named, unnamed


def _contrast(
    caption: str, context: str, config: TrainingConfig, generator: torch.Generator
) -> tuple[str, str]:
    if not config.prior.in_contexts:
        return caption, without_trigger(caption, config)
    beside, instead = _other_word(config, generator), _other_word(config, generator)
    head, *tail = split_tags(caption)
    filled = context.format(caption=caption, head=head, tail=join_tags(tail), word=beside)
    named = join_tags(split_tags(filled))
    # Of a trigger whose vectors are learned the base model has no answer that could be kept.
    movable = "{word}" in context and not config.trigger_embedding.train
    if movable and _half_the_time(generator):
        return named, _renamed(named, {config.trigger: beside, beside: config.trigger})
    if _half_the_time(generator):
        return named, _renamed(named, {config.trigger: instead})
    return named, without_trigger(named, config)


def _other_word(config: TrainingConfig, generator: torch.Generator) -> str:
    """A made-up word; half of the time one of the companions, where there are any."""
    word, companions = _made_up(config, generator), config.prior.companions
    if companions and _half_the_time(generator):
        return companions[int(torch.randint(len(companions), (), generator=generator))]
    return word


def _half_the_time(generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


def _made_up(config: TrainingConfig, generator: torch.Generator) -> str:
    """Three letters that mean nothing; never the trigger."""
    word = config.trigger
    while word == config.trigger:
        places = torch.randint(len(string.ascii_lowercase), (3,), generator=generator)
        word = "".join(string.ascii_lowercase[i] for i in places.tolist())
    return word


def _renamed(caption: str, names: dict[str, str]) -> str:
    """A caption with other words in the place of some, all at once."""
    found = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<!\w)({found})(?!\w)", lambda match: names[match[0]], caption)


def without_trigger(caption: str, config: TrainingConfig) -> str:
    """A caption that does not name the concept: "zkc cat face, grinning" to "cat face, grinning".

    Args:
        caption: names it.
        config: `trigger`.

    Raises:
        CaptionError: there is no trigger, or the caption lacks it.
    """
    if not config.trigger:
        raise CaptionError("training.prior: needs training.trigger, the word that it leaves out")
    trigger = rf"(?<!\w){re.escape(config.trigger)}(?!\w)"
    rest, found = re.subn(trigger, "", caption)
    if not found:
        raise CaptionError(
            f"training.prior: the caption {caption!r} lacks the trigger {config.trigger!r}, so it "
            f"cannot be shown without it. Put {{trigger}} into caption_template and curate again."
        )
    return join_tags(split_tags(rest))
