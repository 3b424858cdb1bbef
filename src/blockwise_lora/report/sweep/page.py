"""The sweep's page: one HTML file that needs nothing else, online or off."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.report.page import data_uri
from blockwise_lora.report.sweep.heatmap import HeatMap, signed, tell
from blockwise_lora.report.sweep.masks import DrawnMask
from blockwise_lora.report.sweep.pareto import apart, pareto_plot
from blockwise_lora.report.sweep.pictures import FULL_PAIR, MOST_PAIRS, picture_grid, thumbnails
from blockwise_lora.sweep.bank import Cost
from blockwise_lora.sweep.effects import matters
from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.recommendation import Found
from blockwise_lora.sweep.studies import CONCEPTS, Concept, Pair, shown_blocks

ASKED = {
    "identity": "Is it the character?",
    "style": "Does it look like the style's pictures?",
    "combined": "Both in one picture?",
    "prompt": "Does it do what the prompt says?",
}
"""What each score asks of a picture, in the order in which they are told."""


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
        variant: the pair as a variant in YAML, likewise.
        commands: that made the page.
        settings, provenance: name to value, as text.
        level: coverage that the intervals aim at.
    """

    title: str
    outcome: Outcome
    found: Found | None
    model: BlockMap
    prompts: tuple[str, ...]
    costs: Mapping[Concept, Mapping[str, Cost]]
    command: str
    variant: str
    commands: tuple[str, ...]
    settings: Mapping[str, str]
    provenance: Mapping[str, str]
    level: float

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
        return drawn | {"pareto": pareto_plot(self.outcome, thumbnails(self.outcome))}

    def drawn(self, mask: str) -> DrawnMask:
        """A mask as squares and in words."""
        return DrawnMask.of(mask, self.model, self.blocks)


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
        masks={c: report.drawn(getattr(pair, c)) for c in CONCEPTS},
        drawn=report.drawn,
        signed=signed,
        matters=matters,
        expected=_expected(expected, pair),
        verdict=verdict(expected, pair),
        confirmed=report.found is not None,
        sentences=tell(_evidence(report)),
        command=_with_masks(report.command, pair),
        variant=_with_masks(report.variant, pair),
        figures={name: Markup(svg(figure)) for name, figure in report.figures.items()},
        agreements=report.outcome.agreements,
        grid=data_uri(picture_grid(report.outcome, report.prompts, _pairs_to_show(report))),
        score_names=_shown(report.outcome),
        rows=_rows(report.outcome),
        costs=[(c, m, cost) for c, masks in report.costs.items() for m, cost in masks.items()],
    )


def _with_masks(text: str, pair: Pair) -> str:
    """Not `format`: a variant may have captions with places of their own in it."""
    return text.replace("{character}", pair.character).replace("{style}", pair.style)


def _pairs_to_show(report: SweepReport) -> list[Pair]:
    """The recommended pair, the full one, and others that are not beaten, far from each other."""
    first = dict.fromkeys((report.recommended, FULL_PAIR))
    others = apart(report.outcome, report.outcome.frontier, MOST_PAIRS, first)
    return [pair for pair in (*first, *others) if pair in report.outcome.trained]


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


def _expected(outcome: Outcome, pair: Pair) -> list[tuple[str, str, Interval, Interval, Interval]]:
    """Score, what it asks, the pair's interval, the full pair's, and the difference."""
    mine, full = outcome.scores[row_of(pair)], outcome.scores[row_of(FULL_PAIR)]
    effects = outcome.effects[row_of(pair)]
    return [
        (s, ASKED[s], mine[s], full[s], effects[s]) for s in ASKED if s in effects and mine[s].n
    ]


def verdict(outcome: Outcome, pair: Pair) -> str:
    """Whether the pair is worth choosing over both adapters on all blocks, in one sentence."""
    if pair == FULL_PAIR:
        return "No pair of masks did better than both adapters on all blocks."
    by = outcome.effects[row_of(pair)].get("combined")
    if by is None or not by.n:
        return ""
    if matters(by, outcome.smallest_effect):
        better = "better" if by.mean > 0 else "worse"
        return f"Identity and style together are {better} than with both adapters on all blocks."
    return (
        "Identity and style together are no better than with both adapters on all blocks: the "
        "difference is within chance or too small to matter. Training all blocks would do as well."
    )


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
