"""The report: one HTML file that needs nothing else, online or off."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.judges.protocol import Evaluation
from blockwise_lora.judges.samples import ANCHORS, Row
from blockwise_lora.judges.scores import SCORES
from blockwise_lora.judges.verdict import caveat, copying, headline, winner
from blockwise_lora.report.charts import BlockStrip, LossCurve, colour, loss_chart, scatter
from blockwise_lora.report.words import ANCHOR_NOTES, SCORE_NOTES, row_name


@dataclass(frozen=True)
class AdapterCard:
    """What one adapter was trained as.

    Attributes:
        variant, concept: whose.
        mask: its mask as written.
        details: method, rank and the like, in words.
        strip: which blocks it trains.
        sha256: of its file.
    """

    variant: str
    concept: str
    mask: str
    details: str
    strip: BlockStrip
    sha256: str


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        title: of the page.
        evaluation: the outcome.
        grid: the picture grid.
        prompts: the questions in plain words.
        names: how variants are called; their own names where missing.
        adapters: of the compared variants.
        losses: of their trainings.
        commands: that make what the page shows.
        settings: name to value, as text.
        provenance: name to value, as text: commit, hashes, versions.
        warnings: what a reader must know before believing the numbers.
    """

    title: str
    evaluation: Evaluation
    grid: Image.Image
    prompts: tuple[str, ...]
    names: Mapping[str, str]
    adapters: tuple[AdapterCard, ...]
    losses: tuple[LossCurve, ...]
    commands: tuple[str, ...]
    settings: Mapping[str, str]
    provenance: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A score in the table: the words, and where its interval lies on the column's scale."""

    mean: str
    limits: str
    left: float
    width: float
    point: float
    ahead: bool


def render(report: Report) -> str:
    """The page as HTML; all text from outside is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    )
    evaluation, names = report.evaluation, dict(report.names)
    shown = [s for s in SCORES if any(row[s].n for row in evaluation.intervals.values())]
    return template.render(
        report=report,
        headline=headline(evaluation, names),
        copying=copying(evaluation, names),
        caveat=caveat(evaluation),
        grid=data_uri(report.grid),
        scores=[(score, SCORE_NOTES[score]) for score in shown],
        groups=_groups(evaluation, shown, names),
        scatter=Markup(scatter(evaluation, names)),  # escapes what it draws
        losses=_losses(report),
        legend=[(names.get(v, v), colour(v, evaluation.variants)) for v in evaluation.variants],
        strips=_strips(report),
        sizes=_sizes(evaluation),
        scaled="combined" in shown,
    )


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG within a URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _groups(
    evaluation: Evaluation, scores: list[str], names: dict[str, str]
) -> list[tuple[str, list]]:
    """The table's rows under headings: both adapters, anchors, single adapters."""
    rows = list(evaluation.intervals)
    winners = {score: winner(evaluation, score) for score in scores}
    scales = {score: _scale(evaluation, score) for score in scores}

    def entry(row: Row) -> tuple:
        known = evaluation.intervals[row]
        cells = [_cell(known[s], scales[s], winners[s] == row) for s in scores]
        kind = colour(row.variant, evaluation.variants)
        return row_name(row, names), ANCHOR_NOTES.get(row.variant, ""), kind, cells

    groups = {
        "Both adapters": [row for row in rows if row.condition == "both"],
        "Anchors": [Row(name) for name in ANCHORS if Row(name) in evaluation.intervals],
        "One adapter": [row for row in rows if row.condition in ("character", "style")],
    }
    return [
        (title, [entry(row) for row in members]) for title, members in groups.items() if members
    ]


def _scale(evaluation: Evaluation, score: str) -> tuple[float, float]:
    known = [row[score] for row in evaluation.intervals.values() if row[score].n]
    return min(by.low for by in known), max(by.high for by in known)


def _cell(by: Interval, scale: tuple[float, float], ahead: bool) -> Cell | None:
    if not by.n:
        return None
    low, high = scale
    length = (high - low) or 1.0
    left, right, point = (100 * (v - low) / length for v in (by.low, by.high, by.mean))
    digits = 2 if length > 0.25 else 3  # a narrow column needs another one to tell rows apart
    limits = f"{by.low:.{digits}f} to {by.high:.{digits}f}"
    return Cell(f"{by.mean:.{digits}f}", limits, left, max(right - left, 1.0), point, ahead)


def _losses(report: Report) -> list[tuple[str, Markup]]:
    concepts = dict.fromkeys(curve.concept for curve in report.losses)
    charts = []
    for concept in concepts:
        curves = [curve for curve in report.losses if curve.concept == concept]
        chart = loss_chart(curves, report.evaluation.variants)
        if chart:
            charts.append((concept, Markup(chart)))
    return charts


def _strips(report: Report) -> list[tuple[AdapterCard, str, Markup]]:
    return [
        (
            card,
            report.names.get(card.variant, card.variant),
            Markup(card.strip.draw(colour(card.variant, report.evaluation.variants))),
        )
        for card in report.adapters
    ]


def _sizes(evaluation: Evaluation) -> dict[str, int]:
    """How many prompts and seeds the methods were judged on."""
    methods = [s for s in evaluation.judged.samples if not s.row.anchor]
    return {
        "prompts": len({s.prompt for s in methods}),
        "seeds": len({s.seed for s in methods}),
        "level": round(100 * evaluation.bootstrap.level),
        "draws": evaluation.bootstrap.draws,
    }
