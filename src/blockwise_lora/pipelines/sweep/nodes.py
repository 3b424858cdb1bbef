"""Nodes of the pipelines `sweep` and `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from blockwise_lora.pipelines.command import kedro_run
from blockwise_lora.pipelines.sweep.config import SearchConfig, SweepConfig
from blockwise_lora.pipelines.sweep.setting import (
    comparison_prompts,
    open_workshop,
    own_prompts,
    study_name,
)
from blockwise_lora.pipelines.training.recipes import CONCEPTS
from blockwise_lora.tracking import flatten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from blockwise_lora.imagesets import ImageSet
    from blockwise_lora.report.sweep.page import SweepReport
    from blockwise_lora.sweep.outcome import Outcome
    from blockwise_lora.sweep.records import MaskRecord
    from blockwise_lora.sweep.studies import Study
    from blockwise_lora.sweep.workshop import Workshop


def run_study(
    character_images: ImageSet,
    style_images: ImageSet,
    bank: Path,
    pictures: Path,
    **parameters: Any,
) -> tuple[SweepReport, list[MaskRecord]]:
    """Train, ablate and judge every pair of the study.

    Args:
        character_images: the character's curated pictures.
        style_images: the style's.
        bank: folder of adapters, looked up and added to.
        pictures: folder of sampled pictures, likewise.
        parameters: the groups that `open_workshop` takes.
    """
    from blockwise_lora.sweep.workshop import run_study as run

    config = SweepConfig.of(parameters["sweep"])
    images = {"character": character_images, "style": style_images}
    shop = open_workshop(images, parameters, bank, pictures)
    brief, questions = own_prompts(config, config.first_seed, parameters)
    outcome = run(shop, _study(config, shop), brief, questions)
    texts = [question.text for question in questions]
    return _report(shop, outcome, None, texts, "sweep", parameters), _records(shop, outcome, texts)


def run_search(
    character_images: ImageSet,
    style_images: ImageSet,
    bank: Path,
    pictures: Path,
    **parameters: Any,
) -> tuple[SweepReport, list[MaskRecord]]:
    """Search for one pair of masks, and confirm it on the comparison's prompts and seeds.

    Args:
        character_images: the character's curated pictures.
        style_images: the style's.
        bank: folder of adapters, looked up and added to.
        pictures: folder of sampled pictures, likewise.
        parameters: the groups that `open_workshop` takes.

    Raises:
        UserError: search and confirmation share a prompt or a seed.
    """
    from blockwise_lora.sweep.candidates import Space
    from blockwise_lora.sweep.recommendation import Search, keep_apart
    from blockwise_lora.sweep.search import open_study

    config = SweepConfig.of(parameters["sweep"])
    wanted: SearchConfig = config.search
    brief, questions = own_prompts(config, wanted.first_seed, parameters)
    confirmation, its_questions = comparison_prompts(style_images, parameters)
    keep_apart(brief, confirmation)  # told before a model is loaded
    images = {"character": character_images, "style": style_images}
    shop = open_workshop(images, parameters, bank, pictures)
    space = Space.of(shop.blocks, {c: shop.lessons[c].spec for c in CONCEPTS}, wanted.ranks)
    study = open_study(study_name(shop, space, brief), wanted.storage, parameters["seed"])
    search = Search(shop, space, study, brief, questions, wanted.budget)
    found = search.run(confirmation, its_questions)
    texts = [question.text for question in search.gallery.questions]
    report = _report(shop, found.outcome, found, texts, "search", parameters)
    return report, _records(shop, found.outcome, texts)


def summarise(report: SweepReport) -> dict[str, Any]:
    """Scores and effects of every pair, and the recommendation, for programs."""
    from blockwise_lora.sweep.records import to_json

    return to_json(report.outcome, report.found)


def tabulate(report: SweepReport) -> pd.DataFrame:
    """A line for each pair."""
    import pandas as pd

    from blockwise_lora.sweep.records import to_rows

    return pd.DataFrame(to_rows(report.outcome))


def draw(report: SweepReport) -> dict[str, Figure]:
    """Heat maps and the Pareto plot."""
    return report.figures


def write_report(report: SweepReport) -> str:
    """The page."""
    from blockwise_lora.report.sweep.page import render

    return render(report)


def _study(config: SweepConfig, shop: Workshop) -> Study:
    from blockwise_lora.sweep.studies import Pair, named_study, own_study

    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    if isinstance(config.study, str):
        return named_study(config.study, shop.blocks, **specs)
    pairs = [Pair(pair.character, pair.style) for pair in config.study]
    return own_study("own", pairs, shop.blocks, **specs)


def _records(shop: Workshop, outcome: Outcome, prompts: Sequence[str]) -> list[MaskRecord]:
    from blockwise_lora.report.sweep.pictures import pair_sheet
    from blockwise_lora.sweep.records import mask_records

    return mask_records(shop, outcome, partial(pair_sheet, outcome, prompts))


def _recommended(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The variant that all masks were tried in, with places for the two that are recommended."""
    defined = parameters["variants"][SweepConfig.of(parameters["sweep"]).variant]
    return {c: {**defined[c], "blocks": f"{{{c}}}"} for c in CONCEPTS}


def _told(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant as `--params` takes it, which splits lists at their commas."""
    return {k: v for k, v in flatten(variant).items() if not isinstance(v, list)}


def _report(
    shop: Workshop, outcome: Outcome, found, texts, pipeline: str, parameters: Mapping[str, Any]
) -> SweepReport:
    from blockwise_lora.report.sweep.page import SweepReport

    environment = parameters["evaluation"].get("environment", "")
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    costs = {c: {} for c in CONCEPTS}
    for pair in outcome.trained:
        for concept in CONCEPTS:
            mask = getattr(pair, concept)
            costs[concept][mask] = shop.entry(concept, mask).cost
    variant = _recommended(parameters)
    return SweepReport(
        title=f"Which blocks? {parameters['character']['class_word'].capitalize()} in "
        f"{Path(parameters['style']['pictures']).name} ({outcome.study})",
        outcome=outcome,
        found=found,
        model=shop.blocks,
        prompts=tuple(texts),
        costs=costs,
        command=kedro_run(environment, "", {"variant": "own"} | _told(variant)),
        variant=yaml.safe_dump({"variants": {"recommended": variant}}, sort_keys=False),
        commands=(kedro_run(environment, f"curation,{pipeline}"),),
        settings={
            "method": "; ".join(f"{c}: {s.method}, rank {s.rank}" for c, s in specs.items()),
            "training": f"{shop.lessons['character'].config.steps} steps, "
            f"{shop.at_once} adapters in a pass",
            "study": str(outcome.study),
        },
        provenance={
            "base model": f"{shop.base.name}, sha256 {shop.base.sha256}",
            "CLIP judge": f"sha256 {shop.panel.clip.sha256}",
            "DINO judge": f"sha256 {shop.panel.dino.sha256}",
            **{f"{c}'s pictures": f"sha256 {shop.lessons[c].images.sha256}" for c in CONCEPTS},
        },
        level=shop.bootstrap.level,
    )
