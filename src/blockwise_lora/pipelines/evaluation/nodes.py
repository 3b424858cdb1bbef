"""Nodes of the evaluation pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockwise_lora.pipelines.combination.nodes import sample_prompts
from blockwise_lora.pipelines.evaluation.config import EvaluationConfig
from blockwise_lora.pipelines.evaluation.evidence import (
    Evidence,
    OpenedSet,
    check_adapters,
    check_prompts,
    find_variants,
    sampled_otherwise,
    to_questions,
    to_samples,
)
from blockwise_lora.pipelines.training.recipes import words

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from blockwise_lora.adapters import Adapter
    from blockwise_lora.diffusion.samples import SampleSet
    from blockwise_lora.imagesets import ImageSet
    from blockwise_lora.judges.protocol import Evaluation

logger = logging.getLogger(__name__)


def sample_base(**settings: Any) -> SampleSet:
    """Sample every prompt in plain words, without an adapter: where every method starts from.

    Args:
        settings: the parameter groups that `sample_prompts` takes.
    """
    return sample_prompts(("base",), {}, "base", **settings)


def open_references(images: ImageSet) -> OpenedSet:
    """Read the pictures that an adapter learned from."""
    return OpenedSet.of(images)


def gather_evidence(
    base_samples: SampleSet,
    all_samples: Mapping[str, Callable[[], SampleSet]],
    all_adapters: Mapping[str, Callable[[], Adapter]],
    character_references: OpenedSet,
    style_references: OpenedSet,
    character: Mapping[str, Any],
    style: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Any]],
    truth: str | None,
    compare: Sequence[str],
    variant: str,
    evaluation: Mapping[str, Any],
) -> Evidence:
    """Bring together what is judged and what it is judged by."""
    from blockwise_lora.diffusion.prompts import fill_all, parse_prompts
    from blockwise_lora.judges.samples import References
    from blockwise_lora.pipelines.evaluation.account import load_adapters

    concepts = {"character": words("character", character), "style": words("style", style)}
    prompted = parse_prompts(prompts)
    templates = [prompt.text for prompt in prompted]
    environment = EvaluationConfig.of(evaluation).environment
    variants, missing = find_variants(compare, all_samples, environment, variant)
    if variant in all_samples and variant not in variants:
        logger.warning("%s is not shown: add it to `compare` in parameters_variants.yml.", variant)
    adapters = load_adapters(all_adapters, tuple(variants))
    for name, made in {"base": base_samples, **variants}.items():
        check_prompts(made, templates, **concepts, variant=name, environment=environment)
        now = {concept: a.sha256 for (variant, concept), a in adapters.items() if variant == name}
        check_adapters(made, now, name, environment)
    samples, dropped = to_samples(base_samples, variants)
    warnings = (*missing, *dropped, *sampled_otherwise(base_samples, variants, environment))
    for warning in warnings:
        logger.warning(warning)
    plain = fill_all(templates, "base", **concepts)
    return Evidence(
        samples,
        to_questions(prompted, plain, truth, style_references, style["pictures"]),
        References(character_references.pictures, style_references.pictures),
        {name: made.origin.combination for name, made in variants.items() if made.origin},
        warnings,
    )


def judge(
    evidence: Evidence, evaluation: Mapping[str, Any], device: str
) -> tuple[Evaluation, dict[str, str]]:
    """Score every picture and compare the variants.

    Returns:
        The outcome, and the hash of each judge's weights.
    """
    from blockwise_lora.judges.panel import Panel
    from blockwise_lora.judges.protocol import evaluate
    from blockwise_lora.judges.verdict import copying, headline

    config = EvaluationConfig.of(evaluation)
    bootstrap = config.bootstrap_config()
    panel = Panel.load(config.judge_config(), device)
    outcome = evaluate(panel, evidence.samples, evidence.questions, evidence.references, bootstrap)
    logger.info(headline(outcome, config.names))
    logger.info(copying(outcome, config.names))
    return outcome, {"CLIP": panel.clip.sha256, "DINO": panel.dino.sha256}


def summarise(outcome: Evaluation) -> dict[str, Any]:
    """Scores for programs: DVC's metrics, MLflow, and a later reader who wants every picture."""
    from blockwise_lora.report.export import to_json

    return to_json(outcome)


def tabulate(outcome: Evaluation) -> pd.DataFrame:
    """Scores as a tidy table: a row for each row and score."""
    import pandas as pd

    from blockwise_lora.report.export import TABLE_COLUMNS, to_table

    return pd.DataFrame(to_table(outcome), columns=list(TABLE_COLUMNS))


def draw_comparison(evidence: Evidence, evaluation: Mapping[str, Any]) -> Image.Image:
    """The picture grid."""
    from blockwise_lora.report.columns import comparison_columns
    from blockwise_lora.report.grid import draw_grid

    config = EvaluationConfig.of(evaluation)
    columns = comparison_columns(
        evidence.samples, evidence.questions, evidence.references, config.names
    )
    return draw_grid(columns, [question.text for question in evidence.questions], config.tile)


def write_report(
    outcome: Evaluation,
    judge_hashes: Mapping[str, str],
    evidence: Evidence,
    grid: Image.Image,
    all_adapters: Mapping[str, Callable[[], Adapter]],
    all_losses: Mapping[str, Callable[[], pd.DataFrame]],
    character_references: OpenedSet,
    style_references: OpenedSet,
    evaluation: Mapping[str, Any],
    variants: Mapping[str, Any],
) -> str:
    """The page that holds everything."""
    from blockwise_lora.pipelines.evaluation import account
    from blockwise_lora.report.page import Report, render

    config = EvaluationConfig.of(evaluation)
    adapters = account.load_adapters(all_adapters, outcome.variants)
    learned = {"character": character_references, "style": style_references}
    report = Report(
        title=account.title(adapters),
        evaluation=outcome,
        grid=grid,
        prompts=tuple(question.text for question in evidence.questions),
        names=config.names,
        adapters=account.cards(adapters),
        losses=account.loss_curves(all_losses, outcome.variants),
        commands=account.commands(outcome.variants, adapters, variants, config.environment),
        settings=account.settings(adapters, evidence, config),
        provenance=account.provenance(adapters, learned, judge_hashes),
        warnings=evidence.warnings,
    )
    return render(report)
