"""The page's charts: identity against style, losses, and which blocks each adapter trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from blockwise_lora.judges.protocol import Evaluation
from blockwise_lora.judges.samples import Row
from blockwise_lora.report.svg import Plot, span
from blockwise_lora.report.words import row_name

COLOURS = 6
"""Colours that the page knows; they repeat from the seventh variant on."""

MARKS = {"": "circle", "both": "circle", "character": "triangle", "style": "square"}
"""Shape of a point by its row's condition."""


@dataclass(frozen=True)
class LossCurve:
    """How one adapter's training went.

    Attributes:
        variant: whose.
        concept: character or style.
        steps: k optimiser steps.
        losses: k values.
    """

    variant: str
    concept: str
    steps: tuple[float, ...]
    losses: tuple[float, ...]


def colour(variant: str, variants: Sequence[str]) -> str:
    """CSS class of a variant's colour; grey for anchors."""
    return f"c{list(variants).index(variant) % COLOURS}" if variant in variants else "grey"


def scatter(evaluation: Evaluation, names: dict[str, str]) -> str:
    """Identity across, style up, with intervals: the upper right is where both are right.

    Circles have both adapters, triangles the character's only, squares the style's only; anchors
    are grey.
    """
    known = {
        row: (scores["identity"], scores["style"])
        for row, scores in evaluation.intervals.items()
        if scores["identity"].n and scores["style"].n
    }
    if not known:
        return ""
    plot = Plot(
        span([v for x, _ in known.values() for v in (x.low, x.high)]),
        span([v for _, y in known.values() for v in (y.low, y.high)]),
        "identity: cosine to the character's pictures",
        "style: cosine to the style's pictures",
        "Identity against style of every row of the table, with intervals",
        width=1000,
        height=460,
    )
    labels = []
    for row, (x, y) in known.items():
        kind, name = colour(row.variant, evaluation.variants), row_name(row, names)
        plot.line([(x.low, y.mean), (x.high, y.mean)], f"bar {kind}")
        plot.line([(x.mean, y.low), (x.mean, y.high)], f"bar {kind}")
        hint = f"{name}: {x.mean:.3f}, {y.mean:.3f}"
        plot.mark(x.mean, y.mean, MARKS[row.condition], f"dot {kind}{_hollow(row)}", hint)
        if row.condition in ("", "both"):  # the rest is told by shape and colour
            labels.append((plot.across(x.mean), plot.down(y.mean), row, name))
    _spread(plot, labels, evaluation.variants)
    return plot.draw()


def _hollow(row: Row) -> str:
    return "" if row.condition == "both" else " open"


def _spread(plot: Plot, labels: list[tuple[float, float, Row, str]], variants) -> None:
    """Write labels beside their points, moved up or down until none covers another."""
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    for x, y, row, name in sorted(labels, key=lambda label: label[1]):
        width = 6.9 * len(name)
        right = x + 9 + width < plot.width - 4
        left = x + 9 if right else x - 9 - width
        clear = next(
            y + shift
            for shift in sorted(range(-300, 301, 3), key=abs)
            if all(
                abs(y + shift - b) >= 13 or left > r or left + width < start
                for start, r, b in taken
            )
        )
        taken.append((left, left + width, clear))
        strong = " strong" if row.condition == "both" else ""
        kind = f"label {colour(row.variant, variants)}{strong}"
        plot.text(left if right else x - 9, clear + 4, name, kind, "start" if right else "end")


def loss_chart(curves: Sequence[LossCurve], variants: Sequence[str]) -> str:
    """Smoothed losses of one concept's adapters over the steps, the raw ones faint behind."""
    curves = [curve for curve in curves if curve.steps]
    if not curves:
        return ""
    smooth = [running_mean(curve.losses, max(1, len(curve.losses) // 20)) for curve in curves]
    values = sorted(value for curve in curves for value in curve.losses)
    top = max(values[int(0.98 * (len(values) - 1))], *(max(s) for s in smooth))
    plot = Plot(
        (0.0, float(max(max(c.steps) for c in curves)) or 1.0),
        (0.0, top * 1.05 or 1.0),
        "step",
        "loss",
        f"Training loss: {curves[0].concept}",
        height=240,
    )
    for curve in curves:
        points = [(x, min(y, top)) for x, y in zip(curve.steps, curve.losses, strict=True)]
        plot.line(points, f"curve faint {colour(curve.variant, variants)}")
    for curve, line in zip(curves, smooth, strict=True):
        points = list(zip(curve.steps, line, strict=True))
        plot.line(points, f"curve {colour(curve.variant, variants)}")
    return plot.draw()


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values (fewer at the beginning)."""
    means = []
    for i in range(len(values)):
        window = values[max(0, i - width + 1) : i + 1]
        means.append(sum(window) / len(window))
    return means


@dataclass(frozen=True)
class BlockStrip:
    """Which blocks one adapter trains.

    Attributes:
        blocks: name of each block of the model, from input to output.
        ranks: per block, the ranks trained there; empty where it is left as it is.
    """

    blocks: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]

    def draw(self, kind: str) -> str:
        """A row of squares, filled where the block is trained, with the block's name below."""
        side, gap = 34, 4
        parts = []
        for i, (block, ranks) in enumerate(zip(self.blocks, self.ranks, strict=True)):
            x = i * (side + gap) + 1
            state = f"on {escape(kind)}" if ranks else "off"
            shown = _ranks(ranks)
            hint = f"{block}: rank {shown}" if ranks else f"{block}: not trained"
            parts.append(
                f'<g><title>{escape(hint)}</title><rect class="{state}" x="{x}" y="1" '
                f'width="{side}" height="20" rx="3"/>'
                f'<text class="rank" x="{x + side / 2}" y="15">{shown if ranks else ""}</text>'
                f'<text class="block" x="{x + side / 2}" y="33">{escape(block)}</text></g>'
            )
        width = len(self.blocks) * (side + gap)
        return (
            f'<svg class="strip" viewBox="0 0 {width} 38" width="{width}" height="38" role="img">'
            f"{''.join(parts)}</svg>"
        )


def _ranks(ranks: tuple[int, ...]) -> str:
    return (
        str(ranks[0])
        if len(set(ranks)) == 1
        else f"{min(ranks, default=0)}–{max(ranks, default=0)}"
    )
