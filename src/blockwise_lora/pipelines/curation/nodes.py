"""Thin nodes over `blockwise_lora.imagesets`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import typed

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from blockwise_lora.imagesets import CaptionRule, CurationReport, ImageSet
    from blockwise_lora.imagesets.captioning import Encoder, TextLimit
    from blockwise_lora.imagesets.curation import Screening

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConceptConfig:
    """A concept as `parameters_data.yml` describes it.

    Attributes:
        pictures: the folder.
        trigger: the rare word that comes to stand for the concept.
        class_word: what the concept is a kind of.
        caption_template: how trigger and a picture's own caption are put together.
        source: who made the pictures, for the data card.
        licence: of the pictures, for the data card.
        review: a CSV file with a person's decisions and captions, which win; see docs/curation.md.
        blocks: this and the following are what `--params character.blocks=...` adds; the
            training looks after them.
    """

    pictures: str
    trigger: str
    class_word: str
    caption_template: str = "{trigger} {caption}"
    source: str | None = None
    licence: str | None = None
    review: str | None = None
    blocks: Any = None
    method: Any = None
    rank: Any = None
    alpha: Any = None
    conv_rank: Any = None
    conv_alpha: Any = None
    conv: Any = None
    init: Any = None
    alphas: Any = None
    rates: Any = None
    training: Any = None


def screen_pictures(
    concept: Mapping[str, Any],
    curation: Mapping[str, Any],
    captioning: Mapping[str, Any],
    device: str = "cpu",
    where: str = "concept",
) -> Screening:
    """What of a concept's pictures can be used; `where` is its name in messages."""
    from blockwise_lora.diffusion.checkpoints import user_cache
    from blockwise_lora.imagesets import CaptioningConfig, CurationConfig, screen_folder

    config = typed(CurationConfig, curation, "curation")
    # A mistake that only the next node would notice should not cost the minutes of this one.
    typed(CaptioningConfig, captioning, "captioning")
    described, _ = _described(concept, where)
    return screen_folder(
        described.pictures,
        config,
        review=described.review,
        cache=user_cache() / "curation",
        judge=_encoder(device)(config.judge) if config.judge else None,
        progress=True,
    )


def caption_pictures(
    screened: Screening,
    background: Screening,
    concept: Mapping[str, Any],
    captioning: Mapping[str, Any],
    output: Mapping[str, Any],
    base_model: Mapping[str, Any],
    device: str,
    where: str = "concept",
) -> tuple[ImageSet, CurationReport]:
    """Write the captions; the other concept's pictures tell which tags are this one's own."""
    from blockwise_lora.imagesets import CaptioningConfig
    from blockwise_lora.imagesets import caption_pictures as captioned
    from blockwise_lora.imagesets.card import Origin, data_card
    from blockwise_lora.imagesets.imagefolder import OutputConfig, in_kohya_folders

    described, rule = _described(concept, where)
    config = typed(CaptioningConfig, captioning, "captioning")
    layout = typed(OutputConfig, output, "output")
    limit = text_limit(base_model.get("source"))
    captioner = config.captioner(rule, encoder=_encoder(device), limit=limit, device=device)
    images, report = captioned(screened, captioner, background=background)
    _log(report)
    origin = Origin(where, described.source, described.licence)
    images = replace(images, card=data_card(images, report, origin, screened.licences))
    if layout.layout == "kohya":
        images = in_kohya_folders(images, f"{rule.trigger} {rule.class_word}", layout.repeats)
    return images, report


def text_limit(source: str | None) -> TextLimit:
    """What the base model's text encoder reads.

    Args:
        source: of the base model. A folder has its own tokenizer; all other models that can be
            trained have CLIP's, which needs no network.
    """
    from blockwise_lora.imagesets.captioning import TextLimit

    folder = Path(source or "") / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        # The same file that transformers reads, which takes half a second to import.
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        fast.no_truncation()
        fast.no_padding()
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return TextLimit(lambda text: len(fast.encode(text).ids), settings["model_max_length"])
    if source and folder.is_dir():
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder)
    else:
        from blockwise_lora.diffusion.single_file import clip_tokenizer

        tokenizer = clip_tokenizer()
    return TextLimit(
        lambda text: len(tokenizer(text, verbose=False).input_ids), tokenizer.model_max_length
    )


def tabulate_captions(report: CurationReport) -> pd.DataFrame:
    """One row for each picture that was to get a caption; a copy of it can be edited."""
    import pandas as pd

    from blockwise_lora.imagesets.spreadsheet import guarded

    table = pd.DataFrame(guarded(report.captions.records(report.review)))
    # Or whole numbers would be written as 5.0 where one is missing.
    return table.astype({"tokens": "Int64"})


def summarise(report: CurationReport) -> dict[str, Any]:
    """Counts, reasons and warnings."""
    return report.summary()


def tabulate(report: CurationReport) -> pd.DataFrame:
    """One row for each input picture."""
    import pandas as pd

    from blockwise_lora.imagesets.spreadsheet import guarded

    return pd.DataFrame(guarded(report.rows()))


def draw_contact_sheet(images: ImageSet, report: CurationReport) -> Image.Image:
    """What was kept and what was dropped, in one picture."""
    from blockwise_lora.imagesets import contact_sheet

    return contact_sheet(images, report)


def draw_histograms(report: CurationReport) -> Image.Image:
    """Size, shape, sharpness and brightness."""
    from blockwise_lora.imagesets.figures import histograms

    return histograms(report)


def draw_duplicates(report: CurationReport) -> Image.Image:
    """Every picture that has copies, with them beside it."""
    from blockwise_lora.imagesets.figures import duplicate_sheet

    return duplicate_sheet(report)


def _described(concept: Mapping[str, Any], where: str) -> tuple[ConceptConfig, CaptionRule]:
    from blockwise_lora.imagesets import CaptionRule

    described = typed(ConceptConfig, concept, where)
    words = {
        "trigger": described.trigger,
        "class_word": described.class_word,
        "template": described.caption_template,
    }
    return described, typed(CaptionRule, words, where)


def _encoder(device: str) -> Callable[[str], Encoder]:
    def load(source: str) -> Encoder:
        from blockwise_lora.judges.clip import load_clip

        return load_clip(source, device)

    return load


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
