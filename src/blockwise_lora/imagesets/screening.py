"""One picture at a time: can it be used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from blockwise_lora.imagesets.config import Check, CurationConfig
from blockwise_lora.imagesets.folder import Candidate, CaptionError
from blockwise_lora.imagesets.measures import Measures
from blockwise_lora.imagesets.review import ReviewRow


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one input picture; one row of the table.

    Attributes:
        file: relative to the folder.
        reason: why it was dropped; empty where it was kept.
        number: the number behind the reason, in the unit that `detail` names.
        detail: the reason in words, and the remedy.
        flags: what was found fault with though it was kept, with its number.
        twin: the picture that it is a copy of, or that the judge cannot tell it from.
        decision: a person's, `keep` or `drop`; empty where nobody decided.
        notes: what was changed on the way in, such as "rotated by EXIF".
        width: of the original in pixels, upright; None where it could not be decoded.
        height: likewise.
        format: of the file.
        sharpness: see `Checks.blurred`.
        brightness: see `Checks.dark`.
        repeats: how often a pass through the set shows it.
        caption_source: where the caption is from, see `captioning`.
        own_caption: what the source says.
        caption: what is trained on.
        output: the file name in the curated set.
    """

    file: str
    reason: str = ""
    number: float | None = None
    detail: str = ""
    flags: tuple[str, ...] = ()
    twin: str = ""
    decision: str = ""
    notes: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    format: str = ""
    sharpness: float | None = None
    brightness: float | None = None
    repeats: int = 1
    caption_source: str = ""
    own_caption: str = ""
    caption: str = ""
    output: str = ""

    @property
    def kept(self) -> bool:
        return not self.reason

    def judged(self, reason: str, number: float, detail: str, check: Check) -> "Verdict":
        """The verdict after a fault was found, as the check's action says."""
        if check.action == "off" or not self.kept:
            return self
        if check.action == "flag" or self.decision == "keep":
            return replace(self, flags=(*self.flags, f"{reason} ({number:g})"))
        return replace(self, reason=reason, number=number, detail=detail)


@dataclass(frozen=True)
class Screened:
    """A candidate with its verdict so far and what was measured.

    Attributes:
        candidate: the file.
        verdict: kept, or dropped for what the picture itself shows.
        measures: of its bytes.
        texts: captions beside it, by source.
        unreadable: why a caption file beside it cannot be used; empty where all can.
    """

    candidate: Candidate
    verdict: Verdict
    measures: Measures
    texts: Mapping[str, str] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def wanted(self) -> bool:
        """A person said that it is kept."""
        return self.verdict.decision == "keep"


def screen(
    candidate: Candidate, measures: Measures, review: ReviewRow, config: CurationConfig
) -> Screened:
    """Judge a picture by itself; a person's decision wins wherever there is a picture at all."""
    verdict = Verdict(
        file=candidate.file,
        reason=measures.reason,
        number=measures.number,
        detail=measures.detail,
        decision=review.decision,
        notes=measures.notes,
        width=measures.width,
        height=measures.height,
        format=measures.format,
        sharpness=measures.sharpness,
        brightness=measures.brightness,
        repeats=candidate.repeats,
    )
    if measures.reason:
        return Screened(candidate, verdict, measures)
    texts, unreadable = _texts(candidate)
    return Screened(candidate, _judged(verdict, config), measures, texts, unreadable)


def _judged(verdict: Verdict, config: CurationConfig) -> Verdict:
    if verdict.decision == "drop":
        detail = "decision in the review file; write keep there, or nothing"
        return replace(verdict, reason="reviewed", detail=detail)
    scale = config.framing.scale(verdict.width, verdict.height)
    if scale > 1 and (config.upscale or verdict.decision == "keep"):
        verdict = replace(verdict, notes=(*verdict.notes, f"enlarged {scale:.2f} times"))
    if verdict.decision != "keep":
        for detail in _too_small(verdict.width, verdict.height, scale, config):
            number = float(min(verdict.width, verdict.height))
            return replace(verdict, reason="too small", number=number, detail=detail)
    for reason, number, detail, check in _faults(verdict, config):
        verdict = verdict.judged(reason, number, detail, check)
    return verdict


def _faults(verdict: Verdict, config: CurationConfig) -> Iterator[tuple[str, float, str, Check]]:
    checks = config.checks
    sharpness, brightness = verdict.sharpness, verdict.brightness
    if sharpness is not None and sharpness < checks.blurred.limit:
        detail = f"sharpness below {checks.blurred.limit:g} (curation.checks.blurred.limit)"
        yield "blurred", sharpness, detail, checks.blurred
    if brightness is not None and brightness < checks.dark.limit:
        detail = (
            f"95 of 100 pixels are darker than this; the limit is {checks.dark.limit:g} of 255 "
            "(curation.checks.dark.limit)"
        )
        yield "dark", brightness, detail, checks.dark
    aspect = round(max(verdict.width, verdict.height) / min(verdict.width, verdict.height), 2)
    if aspect > checks.aspect.limit:
        detail = (
            f"the longer side is more than {checks.aspect.limit:g} times the shorter "
            "(curation.checks.aspect.limit); crop it"
        )
        yield "aspect", aspect, detail, checks.aspect


def _too_small(width: int, height: int, scale: float, config: CurationConfig) -> Iterator[str]:
    size = f"{width}x{height}"
    if min(width, height) < config.min_side:
        floor = f"{config.min_side} pixels (curation.min_side)"
        yield f"{size}: a side below {floor}; use a larger picture"
    if scale > 1 and not config.upscale:
        yield (
            f"{size} would be enlarged {scale:.2f} times to {config.resolution} pixels; "
            "use a larger picture, or set curation.upscale: true"
        )


def _texts(candidate: Candidate) -> tuple[dict[str, str], str]:
    """Captions beside the picture, and what is wrong with them."""
    try:
        return candidate.texts(), ""
    except CaptionError as error:
        return {}, str(error)
