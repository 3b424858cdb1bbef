"""Nodes of the training pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from blockwise_lora.pipelines.training.recipes import CONCEPTS, Recipe, check_masks, resolve
from blockwise_lora.pipelines.training.watching import watching

if TYPE_CHECKING:
    import pandas as pd

    from blockwise_lora.diffusion.base import BaseModel
    from blockwise_lora.diffusion.trained import TrainedAdapter
    from blockwise_lora.imagesets import ImageSet

log = logging.getLogger(__name__)

_SMOOTHING = 0.95


def train_adapter(
    name: str,
    images: ImageSet,
    character: Mapping[str, Any],
    style: Mapping[str, Any],
    variant: str,
    variants: Mapping[str, Any],
    training: Mapping[str, Any],
    base_model: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    device: str,
    seed: int,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train the adapter of one concept.

    Both concepts are checked first, so that a mistake in the second one costs no training.

    Args:
        name: which concept, "character" or "style".
        images: its curated pictures.
        character: parameter group of the character.
        style: parameter group of the style.
        variant: name of the variant.
        variants: parameter group of all variants.
        training: parameter group of the training.
        base_model: parameter group of the base model.
        evaluation: parameter group that names the judges.
        device: where to train.
        seed: of the whole run.

    Returns:
        The adapter, and its loss curve.
    """
    groups = dict(zip(CONCEPTS, (character, style), strict=True))
    recipes = {
        concept: resolve(
            concept, concept=group, variant=variant, variants=variants, training=training, seed=seed
        )
        for concept, group in groups.items()
    }
    from blockwise_lora.diffusion.base import load_from_parameters
    from blockwise_lora.diffusion.checkpoints import user_cache
    from blockwise_lora.diffusion.trained import TrainedAdapter
    from blockwise_lora.diffusion.trainer import train

    base = load_from_parameters(base_model, device)
    check_masks(base.blocks, recipes)
    recipe = recipes[name]
    _describe(base, name, recipe)
    trained = train(
        base,
        images,
        recipe.spec,
        recipe.config,
        name=name,
        checkpoint_dir=user_cache() / "checkpoints",
        cache_dir=user_cache(),
        watching=watching(recipe, images, evaluation, device),
        keep_states=True,  # until AdapterDataset has written the adapter
    )
    meaning = {"concept": name, "variant": variant, "trigger": recipe.concept.trigger}
    meaning["class_word"] = recipe.concept.class_word
    curve = loss_curve(trained.losses, {look.step: look.values for look in trained.looks})
    return TrainedAdapter(base, trained, recipe.config, meaning), curve


def loss_curve(
    losses: tuple[float, ...], looks: Mapping[int, Mapping[str, float]] = MappingProxyType({})
) -> pd.DataFrame:
    """Loss by step, raw and smoothed (it varies tenfold with the noise levels drawn).

    Args:
        losses: of every step.
        looks: step to what was seen after it, by name: further columns, empty in between.
    """
    import pandas as pd

    frame = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
    frame["loss_smoothed"] = frame["loss"].ewm(alpha=1 - _SMOOTHING).mean()
    for name in dict.fromkeys(name for values in looks.values() for name in values):
        frame[name] = frame["step"].map({step: values[name] for step, values in looks.items()})
    return frame


def _describe(base: BaseModel, name: str, recipe: Recipe) -> None:
    """Say what the mask comes to, and what it leaves out."""
    from blockwise_lora.adapters import Plan

    blocks = base.blocks
    plan = Plan.of(blocks, recipe.spec)
    skipped = [block for block in blocks.names if block not in plan.parameters]
    log.info(
        "%s: %s on %s, %s values in %d of %d blocks; not trained: %s",
        name,
        recipe.spec.method,
        recipe.spec.mask,
        f"{sum(plan.parameters.values()):,}",
        len(plan.parameters),
        len(blocks.names),
        ", ".join([*skipped, *blocks.left_out]),
    )
    if plan.empty_blocks:
        log.warning(
            "%s: %s has nothing to train in %s (no attention there); `method: locon` has.",
            name,
            recipe.spec.method,
            ", ".join(plan.empty_blocks),
        )
