"""Thin nodes over `blockwise_lora.imagesets`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import typed

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from blockwise_lora.imagesets import CurationReport, ImageSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConceptConfig:
    """A concept as `parameters_data.yml` describes it.

    Attributes:
        pictures: the folder.
        trigger: the rare word that comes to stand for the concept.
        class_word: what the concept is a kind of.
        caption_template: how trigger and a picture's own caption are put together.
        blocks: this and the following are what `--params character.blocks=...` adds; the
            training looks after them.
    """

    pictures: str
    trigger: str
    class_word: str
    caption_template: str = "{trigger} {caption}"
    blocks: Any = None
    method: Any = None
    rank: Any = None
    alpha: Any = None
    conv_rank: Any = None
    conv_alpha: Any = None
    training: Any = None


def curate_pictures(
    concept: Mapping[str, Any], parameters: Mapping[str, Any], where: str = "concept"
) -> tuple[ImageSet, CurationReport]:
    """Screen, caption and frame a concept's pictures; `where` is its name in messages."""
    from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate

    config = typed(CurationConfig, parameters, "curation")
    described = typed(ConceptConfig, concept, where)
    words = {
        "trigger": described.trigger,
        "class_word": described.class_word,
        "template": described.caption_template,
    }
    rule = typed(CaptionRule, words, where)
    images, report = curate(described.pictures, rule, config, progress=True)
    _log(report)
    return images, report


def summarise(report: CurationReport) -> dict[str, Any]:
    """Counts, reasons and warnings."""
    return report.summary()


def tabulate(report: CurationReport) -> pd.DataFrame:
    """One row for each input picture."""
    import pandas as pd

    return pd.DataFrame(report.rows())


def draw_contact_sheet(images: ImageSet, report: CurationReport) -> Image.Image:
    """What was kept and what was dropped, in one picture."""
    from blockwise_lora.imagesets import contact_sheet

    return contact_sheet(images, report)


def _log(report: CurationReport) -> None:
    summary = report.summary()
    logger.info("%s: %d pictures, %d kept", report.folder, summary["in"], summary["kept"])
    if report.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["reasons"].items())
        logger.warning(
            "%s: %d dropped (%s); curation_table.csv says which and why",
            report.folder,
            summary["dropped"],
            reasons,
        )
    for warning in report.warnings:
        logger.warning("%s: %s", report.folder, warning)
