"""Merging two adapters for a base model, and sampling with what results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

from blockwise_lora.adapters import Adapter, detach, load_adapter, set_strengths
from blockwise_lora.adapters.merge import (
    RULES,
    Base,
    Merged,
    MergedAdapter,
    MergeError,
    Rule,
    Stepwise,
    Weighted,
    choose_adapter,
    merge,
)
from blockwise_lora.adapters.parts import Parts
from blockwise_lora.adapters.strength import Strength
from blockwise_lora.blocks import BlockMap, Mask
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.sampling import StepHook
from blockwise_lora.diffusion.ziplora import ZipLoraConfig, learn_columns
from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.parameters import ParameterError, typed

RuleName = Literal[
    "active", "sum", "svd", "linear", "magnitude_prune", "ties", "dare", "pick", "ziplora", "klora"
]
_MERGED = "merged"


@dataclass(frozen=True)
class MergeConfig:
    """A rule and its parameters; those that are None have the rule's own defaults.

    Raises:
        ValueError: a parameter is missing, out of range, or not one of the rule's.
    """

    rule: RuleName = "active"
    """How; see docs/merging.md. active: not at all, the adapters act side by side."""
    rank: int | None = None
    """svd: that no layer exceeds. magnitude_prune, ties, dare: likewise; None bakes them."""
    density: float | None = None
    """magnitude_prune, ties, dare: share of the values that stay."""
    election: Literal["total", "frequency"] | None = None
    """ties, dare: how signs are elected."""
    everywhere: bool | None = None
    """magnitude_prune, ties, dare: also in layers that one adapter alone touches."""
    seed: int | None = None
    """dare, ziplora: of what is drawn."""
    blocks: tuple[str, ...] | Mapping[str, str | None] | None = None
    """pick: a mask for each adapter; in their order, or for `character` and `style`."""
    alpha: float | None = None
    """klora: how much the style gains over the steps."""
    beta: float | None = None
    """klora: the style's factor at the first step."""
    wrap: bool | None = None
    """klora: the factor modulo alpha."""
    gamma: Literal["sums", "ratios"] | None = None
    """klora: how the two adapters' loudness is compared."""
    pictures: tuple[Path, ...] | Mapping[str, Path | None] | None = None
    """ziplora: a folder of pictures with captions for each adapter, likewise."""
    steps: int | None = None
    """ziplora: optimiser steps."""
    learning_rate: float | None = None
    """ziplora: the optimiser's."""
    overlap_weight: float | None = None
    """ziplora: how much sharing columns costs."""
    batch_size: int | None = None
    """ziplora: pictures of each set a step."""

    def __post_init__(self) -> None:
        for name in ("blocks", "pictures"):
            object.__setattr__(self, name, _in_order(getattr(self, name)))
        if self.rule == "ziplora" and len(self.pictures or ()) != 2:
            raise ValueError(
                "rule ziplora needs `pictures`: the folders of the two sets that the adapters "
                "learned from"
            )
        try:
            self.make()
        except ParameterError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            raise ValueError("\n".join(lines)) from None

    def make(self) -> Rule | ZipLoraConfig | None:
        """The rule, what ZipLoRA's is learned with, or None where nothing is merged."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        rule = given.pop("rule")
        if rule == "active":
            typed(_Nothing, given, rule)  # refuses parameters
            return None
        if rule == "ziplora":
            del given["pictures"]
            return typed(ZipLoraConfig, given, rule)
        return typed(RULES[rule], given, rule)


def _in_order(given: tuple | Mapping | None) -> tuple | None:
    """What is given by concept, in the order character, style; None of nothing."""
    if not isinstance(given, Mapping):
        return given
    if set(given) - {"character", "style"}:
        raise ValueError(f"blocks and pictures are for character and style, not {', '.join(given)}")
    values = tuple(given[name] for name in ("character", "style") if given.get(name) is not None)
    return values or None


@dataclass(frozen=True)
class _Nothing:
    """The parameters of no rule."""


def learned_rule(
    config: MergeConfig, adapters: Sequence[Weighted], model: BaseModel | None
) -> Rule:
    """The configured rule; ZipLoRA's factors are learned for it.

    Raises:
        MergeError: no rule, no base model to learn on, or nothing to learn.
    """
    rule = config.make()
    if rule is None:
        raise MergeError("rule active merges nothing: name another one")
    if not isinstance(rule, ZipLoraConfig):
        return rule
    if model is None:
        raise MergeError("rule ziplora learns on the base model: name it")
    sets = [read_imagefolder(folder) for folder in config.pictures]
    return learn_columns(model, adapters, sets, rule).rule


def merge_adapters(adapters: Sequence[Weighted], config: MergeConfig, model: BaseModel) -> Merged:
    """Merge as configured, for a model that stays as it is.

    Raises:
        MergeError: as `merge` and `learned_rule`.
    """
    rule = learned_rule(config, adapters, model)
    return merge(adapters, rule, base=Base.of(model.unet, *model.text_encoders))


def at_strength(model: BaseModel, adapter: Adapter, strength: Strength, name: str = "") -> Weighted:
    """An adapter with the weights that stand for a strength, see `set_strengths`, and a name.

    Raises:
        MaskError: a block that the model lacks.
    """
    if not isinstance(strength, Mapping):
        return Weighted(adapter, strength, name)
    blocks = BlockMap.of(model.unet, *model.text_encoders)
    weights: dict[str, float] = {}
    for term, weight in strength.items():
        weights |= dict.fromkeys(Mask.parse(term).selected(blocks), weight)
    return Weighted(adapter, weights, name)


@contextmanager
def merged_acting(
    model: BaseModel, merged: Merged, names: tuple[str, str], strengths: Mapping[str, Strength]
) -> Iterator[StepHook | None]:
    """Let a merge act in a model instead of the two adapters that it was made of.

    Args:
        model: with the two adapters attached.
        merged: the merge, made with their strengths for weights.
        names: under which they are attached, in the merge's order.
        strengths: theirs, for a merge that leaves them where they are.

    Yields:
        What to call before each denoising step, or None. At the end nothing acts, and the model's
        weights are its own.
    """
    parts = Parts(model.unet, model.text_encoders)
    if isinstance(merged, Stepwise):
        set_strengths(parts, strengths)
        yield partial(choose_adapter, parts, names, merged)
    elif isinstance(merged, MergedAdapter):
        load_adapter(parts, merged.adapter, _MERGED)
        set_strengths(parts, {_MERGED: 1.0})
        try:
            yield None
        finally:
            detach(parts, _MERGED)
    else:
        set_strengths(parts, {})
        with merged.applied(parts.denoiser, *parts.text_encoders):
            yield None
    set_strengths(parts, {})
