"""From parameters to what is trained: variant, then the user's overrides, then types.

variants.blockwise.character        {method: locon, blocks: in2-out2, rank: 8}
--params character.rank=4           {rank: 4}
-> AdapterSpec(blocks="in2-out2", method="locon", rank=4)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import ParameterError, typed

if TYPE_CHECKING:
    from blockwise_lora.adapters import AdapterSpec
    from blockwise_lora.blocks import BlockMap
    from blockwise_lora.diffusion.config import TrainingConfig
    from blockwise_lora.diffusion.prompts import Concept

CONCEPTS = ("character", "style")

# What the group of a concept holds for the other pipelines; the rest is about its adapter.
_DATA_KEYS = (
    "pictures",
    "trigger",
    "class_word",
    "caption_template",
    "source",
    "licence",
    "review",
)
_VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAKEN = ("base", "judges", "sweep", "search")  # folders beside those of the variants


@dataclass(frozen=True)
class Recipe:
    """How the adapter of one concept is made."""

    spec: AdapterSpec
    config: TrainingConfig
    concept: Concept


def resolve(
    name: str,
    *,
    concept: Mapping[str, Any],
    variant: str,
    variants: Mapping[str, Any],
    training: Mapping[str, Any],
    seed: int,
) -> Recipe:
    """The recipe of one concept.

    Args:
        name: "character" or "style".
        concept: the parameter group of that name: pictures and words, and whatever the user
            overrides of the variant (`blocks`, `rank`, ..., or `training.steps` and the like).
        variant: name of the variant.
        variants: all variants, each with an adapter for every concept.
        training: the parameter group `training`, for both concepts.
        seed: for the training, unless `training` has its own.

    Raises:
        ParameterError: an unknown variant or parameter, or a value that does not fit.
    """
    from blockwise_lora.adapters import AdapterSpec
    from blockwise_lora.diffusion.config import TrainingConfig

    chosen = _chosen(variant, variants, name)
    overrides = {k: v for k, v in concept.items() if k not in _DATA_KEYS}
    merged = {k: v for k, v in {**chosen, **overrides}.items() if k != "training"}
    known = words(name, concept)
    config: Mapping[str, Any] = {"seed": seed, "trigger": known.trigger}
    config |= {"trigger_embedding": {"initial": known.class_word}}
    for group in (training, _mapping(chosen, "training"), _mapping(overrides, "training")):
        config = _over(config, group)
    return Recipe(
        spec=typed(AdapterSpec, merged, name),
        config=typed(TrainingConfig, config, "training"),
        concept=known,
    )


def check_masks(blocks: BlockMap, recipes: Mapping[str, Recipe]) -> None:
    """Check that a model has the blocks that are to be trained.

    Args:
        blocks: the model's.
        recipes: by the name of their concept.

    Raises:
        UserError: naming the concept, the mask, and the model's blocks.
    """
    from blockwise_lora.adapters import Plan
    from blockwise_lora.errors import UserError

    for name, recipe in recipes.items():
        try:
            Plan.of(blocks, recipe.spec)
        except UserError as error:
            raise type(error)(f"{name}.blocks: {error}") from error


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with others laid over them, group by group."""
    both = dict(below)
    for key, value in above.items():
        mappings = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = _over(both[key], value) if mappings else value
    return both


def words(name: str, concept: Mapping[str, Any]) -> Concept:
    """Trigger and class word out of a concept's parameter group."""
    from blockwise_lora.diffusion.prompts import Concept

    known = {key: concept[key] for key in ("trigger", "class_word") if key in concept}
    return typed(Concept, known, name)


def _chosen(variant: str, variants: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(variant, str) or not _VARIANT_NAME.fullmatch(variant):
        raise ParameterError(
            f"variant: {variant!r} cannot be a folder's name; take letters, digits, '_', '-'"
        )
    if variant in _TAKEN:
        raise ParameterError(
            f"variant: {variant!r} is the name of something else here; call the variant otherwise"
        )
    if variant not in variants:
        near = difflib.get_close_matches(variant, variants, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(
            f"variant: {variant!r} is none of {', '.join(variants)}{hint} Define it under "
            f"`variants` in conf/base/parameters_variants.yml."
        )
    chosen = (variants[variant] or {}).get(name)
    if not isinstance(chosen, Mapping):
        raise ParameterError(
            f"variants.{variant}.{name}: missing; say what to train, for instance "
            f"{{method: lora, blocks: all, rank: 8}}"
        )
    return chosen


def _mapping(group: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = group.get(key) or {}
    if not isinstance(value, Mapping):
        raise ParameterError(f"{key}: expected a group such as {key}.steps, got {value!r}")
    return value
