"""From parameters and curated sets to what a sweep works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import asdict, typed
from blockwise_lora.pipelines.evaluation.config import EvaluationConfig
from blockwise_lora.pipelines.evaluation.evidence import OpenedSet, to_questions
from blockwise_lora.pipelines.sweep.config import SweepConfig
from blockwise_lora.pipelines.training.recipes import CONCEPTS, resolve, words

if TYPE_CHECKING:
    from blockwise_lora.diffusion.prompts import PromptTemplate
    from blockwise_lora.diffusion.samples import Seeds
    from blockwise_lora.imagesets import ImageSet
    from blockwise_lora.judges.samples import Question
    from blockwise_lora.sweep.bank import Lesson
    from blockwise_lora.sweep.candidates import Space
    from blockwise_lora.sweep.pictures import Brief
    from blockwise_lora.sweep.training import Trainer
    from blockwise_lora.sweep.workshop import Workshop


def open_workshop(
    images: Mapping[str, ImageSet], parameters: Mapping[str, Any], bank: Path, pictures: Path
) -> Workshop:
    """Load model and judges.

    Args:
        images: concept to its curated pictures.
        parameters: every parameter group that the sweep's nodes take, by name.
        bank: folder of adapters.
        pictures: folder of sampled pictures.
    """
    from blockwise_lora.diffusion.base import load_from_parameters
    from blockwise_lora.judges.panel import Panel
    from blockwise_lora.judges.samples import References
    from blockwise_lora.sweep.bank import Bank
    from blockwise_lora.sweep.shared import SharedBank
    from blockwise_lora.sweep.workshop import Workshop

    config = SweepConfig.of(parameters["sweep"])
    judging = EvaluationConfig.of(parameters["evaluation"])
    device = parameters["device"]
    return Workshop(
        base=load_from_parameters(parameters["base_model"], device),
        lessons={c: _lesson(c, images[c], config.variant, parameters) for c in CONCEPTS},
        panel=Panel.load(judging.judge_config(), device),
        references=References(**{c: OpenedSet.of(images[c]).pictures for c in CONCEPTS}),
        bank=Bank(bank, SharedBank(config.shared_bank) if config.shared_bank else None),
        pictures=pictures,
        bootstrap=judging.bootstrap_config(),
        smallest_effect=config.smallest_effect,
        at_once=config.at_once,
        trainer=trainer_of(config, parameters),
    )


def trainer_of(config: SweepConfig, parameters: Mapping[str, Any]) -> Trainer:
    """Who trains the passes: this process, or Ray's workers where `sweep.ray` is given."""
    from blockwise_lora.diffusion.checkpoints import user_cache
    from blockwise_lora.sweep.training import TrainHere

    here = TrainHere(user_cache() / "checkpoints", user_cache())
    if config.ray is None:
        return here
    from blockwise_lora.sweep.ray_trainer import TrainOnRay

    return TrainOnRay(config.ray, parameters["base_model"], parameters["device"])


def _lesson(name: str, images: ImageSet, variant: str, parameters: Mapping[str, Any]) -> Lesson:
    from blockwise_lora.sweep.bank import Lesson

    recipe = resolve(
        name,
        concept=parameters[name],
        variant=variant,
        variants=parameters["variants"],
        training=parameters["training"],
        seed=parameters["seed"],
    )
    meaning = {"concept": name, "trigger": recipe.concept.trigger}
    meaning["class_word"] = recipe.concept.class_word
    return Lesson(name, images, recipe.spec, recipe.config, meaning)


def own_prompts(config: SweepConfig, first_seed: int, parameters: Mapping[str, Any]):
    """The sweep's own prompts: what is asked, and how the judges see it.

    Returns:
        A `Brief` and its questions, which know no true picture. Each prompt has seeds of its own:
        what a picture shows depends on its noise more than on its prompt or mask, and all masks
        share it.
    """
    from blockwise_lora.diffusion.prompts import fill_all
    from blockwise_lora.judges.samples import Question

    concepts = {c: words(c, parameters[c]) for c in CONCEPTS}
    plain = fill_all(config.prompts, "base", concepts["character"], concepts["style"])
    each = config.pictures_per_prompt
    firsts = range(first_seed, first_seed + each * len(config.prompts), each)
    seeds = [tuple(range(first, first + each)) for first in firsts]
    return _brief(config.prompts, seeds, parameters), [Question(text) for text in plain]


def comparison_prompts(
    style: ImageSet, parameters: Mapping[str, Any]
) -> tuple[Brief, Sequence[Question]]:
    """The prompts and seeds of the comparison of variants, with their true pictures."""
    from blockwise_lora.diffusion.combination import CombinationConfig
    from blockwise_lora.diffusion.prompts import fill_all, parse_prompts

    prompts: list[PromptTemplate] = parse_prompts(parameters["prompts"])
    templates = tuple(prompt.text for prompt in prompts)
    concepts = {c: words(c, parameters[c]) for c in CONCEPTS}
    plain = fill_all(templates, "base", concepts["character"], concepts["style"])
    opened, folder = OpenedSet.of(style), parameters["style"]["pictures"]
    questions = to_questions(prompts, plain, parameters["truth"], opened, folder)
    combination = typed(CombinationConfig, parameters["combination"], "combination")
    seeds = range(parameters["seed"], parameters["seed"] + combination.pictures_per_prompt)
    return _brief(templates, seeds, parameters), questions


def study_name(shop: Workshop, space: Space, brief: Brief) -> str:
    """Of the search's Optuna study, which all workers of one search share.

    Whatever decides a quick look's scores is in it: a study that knows a candidate hands its scores
    out again. The adapters' keys stand for base model, pictures, method and training.

    Args:
        shop: where it is done.
        space: what may be chosen.
        brief: prompts and seeds of the search.
    """
    from blockwise_lora.diffusion.checkpoints import configuration_hash
    from blockwise_lora.sweep.studies import FULL

    asked = asdict(brief)
    del asked["sampling"]["batch_size"]  # a matter of each worker's memory
    panel = shop.panel
    others = configuration_hash(
        brief=asked,
        space=asdict(space),
        judges=[panel.clip.sha256, panel.dino.sha256, panel.style_blocks],
    )
    keys = [shop.entry(concept, FULL).key for concept in CONCEPTS]
    return f"blockwise-lora {' '.join(key[:12] for key in (*keys, others))}"


def _brief(templates: Sequence[str], seeds: Seeds, parameters: Mapping[str, Any]) -> Brief:
    from blockwise_lora.diffusion.combination import CombinationConfig
    from blockwise_lora.sweep.pictures import Brief

    combination = typed(CombinationConfig, parameters["combination"], "combination")
    concepts = {c: words(c, parameters[c]) for c in CONCEPTS}
    return Brief(tuple(templates), tuple(seeds), **concepts, sampling=combination.sampling)
