"""Nodes of the combination pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import typed
from blockwise_lora.pipelines.training.recipes import words

if TYPE_CHECKING:
    from blockwise_lora.adapters import Adapter
    from blockwise_lora.diffusion.prompts import Condition
    from blockwise_lora.diffusion.samples import SampleSet


def join_variants(samples: SampleSet) -> SampleSet:
    """Hand this variant's samples to the view of all variants, which finds them on disk."""
    return samples


def sample_combinations(
    character_adapter: Adapter, style_adapter: Adapter, variant: str, **settings: Any
) -> SampleSet:
    """Sample every prompt with the character's adapter, with the style's, and with both.

    Args:
        character_adapter: as saved by the training.
        style_adapter: likewise.
        variant: recorded with the pictures.
        settings: the parameter groups that `sample_prompts` takes.
    """
    adapters = {"character": character_adapter, "style": style_adapter}
    return sample_prompts(("character", "style", "both"), adapters, variant, **settings)


def sample_prompts(
    conditions: Sequence[Condition],
    adapters: Mapping[str, Adapter],
    variant: str,
    *,
    character: Mapping[str, Any],
    style: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Any]],
    combination: Mapping[str, Any],
    base_model: Mapping[str, Any],
    device: str,
    seed: int,
) -> SampleSet:
    """Load the base model, attach the adapters, merge them if that is asked for, and sample.

    Evaluation samples the base model's own pictures with it: `("base",), {}, "base"`.

    Args:
        conditions: which combinations of adapters.
        adapters: by concept, those that the conditions need.
        variant: recorded with the pictures.
        character: parameter group of the character.
        style: parameter group of the style.
        prompts: parameter group of the prompts.
        combination: parameter group of the sampling.
        base_model: parameter group of the base model.
        device: where to sample.
        seed: of the first picture of each prompt; the next ones count up.
    """
    from blockwise_lora.diffusion.attached import load
    from blockwise_lora.diffusion.base import load_from_parameters
    from blockwise_lora.diffusion.combination import CombinationConfig
    from blockwise_lora.diffusion.merging import at_strength, merge_adapters
    from blockwise_lora.diffusion.prompts import parse_prompts
    from blockwise_lora.diffusion.samples import Origin, sample_conditions

    config = typed(CombinationConfig, combination, "combination")
    templates = parse_prompts(prompts)
    base = load_from_parameters(base_model, device)
    for name, adapter in adapters.items():
        load(base, adapter, name)
    merged = None
    if "both" in conditions and config.merge.rule != "active":
        pair = [at_strength(base, a, getattr(config.strengths, n), n) for n, a in adapters.items()]
        merged = merge_adapters(pair, config.merge, base)
    made = sample_conditions(
        base,
        [template.text for template in templates],
        range(seed, seed + config.pictures_per_prompt),
        conditions,
        character=words("character", character),
        style=words("style", style),
        config=config.sampling,
        strengths=config.strengths,
        schedules=config.schedules,
        merged=merged,
        variant=variant,
    )
    hashes = {name: adapter.sha256 for name, adapter in adapters.items()}
    return replace(made, origin=Origin(hashes, config))
