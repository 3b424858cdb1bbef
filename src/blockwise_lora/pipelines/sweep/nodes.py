"""Nodes of the pipelines `sweep` and `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockwise_lora.pipelines.sweep.config import SearchConfig, SweepConfig
from blockwise_lora.pipelines.sweep.setting import (
    comparison_prompts,
    open_workshop,
    own_prompts,
    study_name,
)
from blockwise_lora.pipelines.training.recipes import CONCEPTS

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


def _report(
    shop: Workshop, outcome: Outcome, found, texts, pipeline: str, parameters: Mapping[str, Any]
) -> SweepReport:
    from blockwise_lora.report.sweep.page import SweepReport

    environment = parameters["evaluation"].get("environment")
    env = f" --env {environment}" if environment else ""
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    costs = {c: {} for c in CONCEPTS}
    for pair in outcome.trained:
        for concept in CONCEPTS:
            mask = getattr(pair, concept)
            costs[concept][mask] = shop.entry(concept, mask).cost
    method = "".join(f",{c}.method={s.method},{c}.rank={s.rank}" for c, s in specs.items())
    own = "".join(
        f"\n    {c}:\n      method: {s.method}\n      rank: {s.rank}\n      blocks: {{{c}}}"
        for c, s in specs.items()
    )
    return SweepReport(
        title=f"Which blocks? {parameters['character']['class_word'].capitalize()} in "
        f"{Path(parameters['style']['pictures']).name} ({outcome.study})",
        outcome=outcome,
        found=found,
        model=shop.blocks,
        prompts=tuple(texts),
        costs=costs,
        command=f"kedro run{env} --params variant=own,character.blocks={{character}},"
        f"style.blocks={{style}}{method}",
        variant=f"variants:\n  recommended:{own}",
        commands=(f"kedro run{env} --pipelines curation,{pipeline}",),
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
