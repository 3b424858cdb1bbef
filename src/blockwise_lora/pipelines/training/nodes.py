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

    Outcome = tuple[TrainedAdapter, pd.DataFrame]

log = logging.getLogger(__name__)

_SMOOTHING = 0.95


def train_adapter(name: str, images: ImageSet, **parameters: Any) -> Outcome:
    """Train the adapter of one concept.

    Args:
        name: which concept, "character" or "style".
        images: its curated pictures.
        parameters: see `train_adapters`.

    Returns:
        The adapter, and its loss curve.
    """
    return train_adapters({name: images}, **parameters)[name]


def train_in_one_pass(
    character_images: ImageSet, style_images: ImageSet, **parameters: Any
) -> tuple[TrainedAdapter, pd.DataFrame, TrainedAdapter, pd.DataFrame]:
    """Train both adapters, each batch of the one beside a batch of the other.

    Args:
        character_images: the character's curated pictures.
        style_images: the style's.
        parameters: see `train_adapters`.

    Returns:
        The character's adapter and loss curve, then the style's.
    """
    sets = dict(zip(CONCEPTS, (character_images, style_images), strict=True))
    outcomes = train_adapters(sets, **parameters)
    character, style = (outcomes[name] for name in CONCEPTS)
    return *character, *style


def train_adapters(
    sets: Mapping[str, ImageSet],
    character: Mapping[str, Any],
    style: Mapping[str, Any],
    variant: str,
    variants: Mapping[str, Any],
    training: Mapping[str, Any],
    base_model: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    device: str,
    seed: int,
) -> dict[str, Outcome]:
    """Train the adapters of some concepts in one pass.

    Both concepts are checked first, so that a mistake in the second one costs no training.

    Args:
        sets: curated pictures of each concept that is trained, by its name.
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
        For each concept its adapter and its loss curve.

    Raises:
        TrainingError: one came to nothing; what the others have learned is kept for the next run.
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
    from blockwise_lora.diffusion.jobs import Job
    from blockwise_lora.diffusion.trained import TrainedAdapter
    from blockwise_lora.diffusion.trainer import all_trained, train_many

    base = load_from_parameters(base_model, device)
    check_masks(base.blocks, recipes)
    for name in sets:
        _describe(base, name, recipes[name])
    jobs = [
        Job(name, images, recipes[name].spec, recipes[name].config) for name, images in sets.items()
    ]
    trained = all_trained(
        train_many(
            base,
            jobs,
            checkpoint_dir=user_cache() / "checkpoints",
            cache_dir=user_cache(),
            watching=watching(recipes, sets, evaluation, device),
            keep_states=True,  # until AdapterDataset has written the adapters
        )
    )
    outcomes = {}
    for name, outcome in zip(sets, trained, strict=True):
        words = recipes[name].concept
        meaning = {"concept": name, "variant": variant, "trigger": words.trigger}
        meaning["class_word"] = words.class_word
        curve = loss_curve(outcome.losses, {look.step: look.values for look in outcome.looks})
        outcomes[name] = TrainedAdapter(base, outcome, recipes[name].config, meaning), curve
    return outcomes


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
