"""The sweep's page: one HTML file that needs nothing else, online or off."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.report.grid import Column, draw_grid
from blockwise_lora.report.page import data_uri
from blockwise_lora.report.sweep.heatmap import HeatMap, tell
from blockwise_lora.report.sweep.pareto import pareto_plot
from blockwise_lora.sweep.bank import Cost
from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.recommendation import Found
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept, Pair, shown_blocks

MOST_COLUMNS = 10
"""Pairs in the picture grid."""


@dataclass(frozen=True)
class SweepReport:
    """Everything that the page shows.

    Attributes:
        title: of the page.
        outcome: of the study.
        found: of the search; None where none was made.
        model: the base model's blocks.
        prompts: in plain words, by index.
        costs: concept, then mask, to what its adapter took.
        command: that trains and compares a pair, with {character} and {style} for its masks.
        commands: that made the page.
        settings, provenance: name to value, as text.
    """

    title: str
    outcome: Outcome
    found: Found | None
    model: BlockMap
    prompts: tuple[str, ...]
    costs: Mapping[Concept, Mapping[str, Cost]]
    command: str
    commands: tuple[str, ...]
    settings: Mapping[str, str]
    provenance: Mapping[str, str]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Coarse blocks in the model's order; the text encoders only where a mask trains them."""
        return shown_blocks(self.model, self.outcome.trained)

    @property
    def recommended(self) -> Pair:
        """The search's pair, or the best of the study."""
        return self.found.recommended if self.found else self.outcome.best

    @property
    def figures(self) -> dict[str, Figure]:
        """Every plot by name."""
        maps = {
            "skipped": HeatMap.skipping(self.outcome, self.blocks),
            "alone": HeatMap.keeping(self.outcome, self.blocks),
            "ablated": HeatMap.skipping(self.outcome, self.blocks, "ablated"),
        }
        drawn = {name: heat.draw() for name, heat in maps.items() if not heat.empty}
        return drawn | {"pareto": pareto_plot(self.outcome, _thumbnails(self.outcome))}


def render(report: SweepReport) -> str:
    """The page as HTML; all text from outside is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files(__package__).joinpath("sweep.html").read_text(encoding="utf-8")
    )
    pair = report.recommended
    expected = report.found.confirmed if report.found else report.outcome
    return template.render(
        report=report,
        pair=pair,
        strips=_strips(pair, report),
        expected=_expected(expected, pair),
        confirmed=report.found is not None,
        sentences=tell(_evidence(report)),
        command=report.command.format(character=pair.character, style=pair.style),
        figures={name: Markup(svg(figure)) for name, figure in report.figures.items()},
        agreements=report.outcome.agreements,
        grid=data_uri(picture_grid(report.outcome, report.prompts, pair)),
        score_names=_shown(report.outcome),
        rows=_rows(report.outcome),
        costs=[(c, m, cost) for c, masks in report.costs.items() for m, cost in masks.items()],
    )


def _evidence(report: SweepReport) -> HeatMap:
    """Blocks that were trained without, or else switched off."""
    trained = HeatMap.skipping(report.outcome, report.blocks)
    return HeatMap.skipping(report.outcome, report.blocks, "ablated") if trained.empty else trained


def svg(figure: Figure) -> str:
    """The figure as an SVG element with text as text, the same bytes for the same figure."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "blockwise-lora"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def picture_grid(outcome: Outcome, prompts: Sequence[str], first: Pair) -> Image.Image:
    """Masks across, prompts and seeds down: the pair to use, the full one, then the frontier."""
    shown = {}
    for sample in outcome.judged.samples:
        shown[sample.row, sample.prompt, sample.seed] = sample.picture
    full = Pair(FULL, FULL)
    pairs = [p for p in dict.fromkeys((first, full, *outcome.frontier)) if p in outcome.trained]
    places = sorted({(s.prompt, s.seed) for s in outcome.judged.samples if s.row == row_of(full)})
    columns = [
        Column(
            f"{pair.character} / {pair.style}",
            tuple(shown.get((row_of(pair), *place)) for place in places),
            "recommended" if pair == first else "",
        )
        for pair in pairs[:MOST_COLUMNS]
    ]
    labels = [f"{prompts[prompt]}, seed {seed}" for prompt, seed in places]
    return draw_grid(columns, labels)


def _thumbnails(outcome: Outcome) -> dict[Pair, Image.Image]:
    """The first prompt's first picture of every pair."""
    found: dict[Pair, Image.Image] = {}
    rows = {row_of(pair): pair for pair in outcome.trained}
    for sample in sorted(outcome.judged.samples, key=lambda s: (s.prompt, s.seed)):
        if sample.row in rows:
            found.setdefault(rows[sample.row], sample.picture)
    return found


def _strips(pair: Pair, report: SweepReport) -> list[tuple[Concept, list[tuple[str, bool]]]]:
    """Concept to each coarse block and whether its mask trains any of it, for the drawing."""
    coarse = report.model.coarse
    chosen = {c: set(Mask.parse(getattr(pair, c)).selected(report.model)) for c in CONCEPTS}
    return [
        (concept, [(b, bool(chosen[concept] & set(coarse[b]))) for b in report.blocks])
        for concept in CONCEPTS
    ]


def _expected(outcome: Outcome, pair: Pair) -> list[tuple[str, Interval, Interval]]:
    """Score, the pair's interval, and the difference to the full pair."""
    scores, effects = outcome.scores[row_of(pair)], outcome.effects[row_of(pair)]
    return [(s, scores[s], effects[s]) for s in ("identity", "style", "prompt")]


def _rows(outcome: Outcome) -> list[tuple[Pair, str, bool, list[Interval]]]:
    """Every pair, how it was made, whether it is on the frontier, its scores; best first."""
    shown = _shown(outcome)
    frontier = set(outcome.frontier)
    rows = [(pair, "trained", pair in frontier) for pair in outcome.trained]
    rows += [(pair, "ablated", False) for pair in outcome.ablated]
    table = [(p, k, f, [outcome.scores[row_of(p, k)][s] for s in shown]) for p, k, f in rows]
    return sorted(table, key=lambda row: -np.nan_to_num(row[3][0].mean, nan=-9.0))


def _shown(outcome: Outcome) -> list[str]:
    """Scores that there is something to say about, `combined` first."""
    return [s for s in outcome.judged.values if outcome.scores[row_of(outcome.best)][s].n]
