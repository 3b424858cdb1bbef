"""Blocks by scores: what skipping or keeping a block does, as a figure and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.sweep.effects import SCORES, SMALLEST_EFFECT, matters
from blockwise_lora.sweep.outcome import Kind, Outcome, row_of
from blockwise_lora.sweep.studies import CONCEPTS, FULL, TEXT, Concept, Pair, skip

FULL_COLOUR = {"identity": 0.2, "style": 0.2, "prompt": 0.05}
"""The least effect that may have the strongest colour: small ones stay pale even among themselves.
Identity and style are shares of the way from base to real pictures, prompt is a cosine."""
COLOURS = "RdBu"
"""Red: the pair is worse off without; blue: it is better off; also told apart in grey by number."""


@dataclass(frozen=True)
class HeatMap:
    """Effects by concept and score (rows) and block (columns).

    Attributes:
        title: of the map.
        blocks: coarse blocks in the order in which the signal passes them; the text encoders only
            where they were tried.
        rows: concept and score of each row.
        cells: row to one effect a block; None where it was not tried.
        smallest: effect that matters.
    """

    title: str
    blocks: tuple[str, ...]
    rows: tuple[tuple[Concept, str], ...]
    cells: Mapping[tuple[Concept, str], tuple[Interval | None, ...]]
    smallest: float = SMALLEST_EFFECT

    @classmethod
    def skipping(cls, outcome: Outcome, blocks: Sequence[str], kind: Kind = "trained") -> HeatMap:
        """What the pair loses or gains when one adapter goes without a block.

        Without the text encoders goes the full pair: they are compared with `all+base`.
        """
        how = "Trained without the block" if kind == "trained" else "Switched off after training"
        return cls._of(how, outcome, blocks, skip, kind)

    @classmethod
    def keeping(cls, outcome: Outcome, blocks: Sequence[str]) -> HeatMap:
        """What the pair loses or gains when one adapter has a single block."""
        return cls._of("The block alone", outcome, blocks, str, "trained")

    @classmethod
    def _of(cls, title, outcome: Outcome, blocks: Sequence[str], mask, kind: Kind) -> HeatMap:
        def effect(concept: Concept, block: str, score: str) -> Interval | None:
            # No other mask has the text encoders: what goes without them is the full pair itself.
            added = mask is skip and block == TEXT
            varied = f"{FULL}+{TEXT}" if added else mask(block)
            pair = Pair(varied, FULL) if concept == "character" else Pair(FULL, varied)
            found = outcome.effects.get(row_of(pair, kind))
            return None if not found else _turned(found[score]) if added else found[score]

        rows = tuple((concept, score) for concept in CONCEPTS for score in SCORES)
        blocks = [b for b in blocks if b != TEXT or any(effect(c, b, s) for c, s in rows)]
        cells = {(c, s): tuple(effect(c, block, s) for block in blocks) for c, s in rows}
        return cls(title, tuple(blocks), rows, cells, outcome.smallest_effect)

    @property
    def empty(self) -> bool:
        """Whether nothing of it was tried."""
        return not any(by for row in self.cells.values() for by in row)

    def draw(self) -> Figure:
        """A figure; effects that matter are bold, the others grey."""
        means = np.array(
            [[np.nan if by is None else by.mean for by in self.cells[row]] for row in self.rows]
        )
        limits = [
            np.nanmax(np.abs(means[[i]]), initial=FULL_COLOUR[score])
            for i, (_, score) in enumerate(self.rows)
        ]
        figure = Figure(figsize=(1.6 + 0.95 * len(self.blocks), 0.9 + 0.55 * len(self.rows)))
        axes = figure.add_subplot()
        # Each row has colours of its own: cosines and shares of a gap have no common scale.
        shades = np.array([m / limit for m, limit in zip(means, limits, strict=True)])
        axes.imshow(shades, cmap=COLOURS, norm=TwoSlopeNorm(0, -1.4, 1.4), aspect="auto")
        for i, row in enumerate(self.rows):
            for j, by in enumerate(self.cells[row]):
                sure = by is not None and matters(by, self.smallest)
                _write(axes, j, i, by, sure, dark=abs(shades[i, j]) > 0.6)
        axes.set_xticks(range(len(self.blocks)), self.blocks)
        axes.set_yticks(range(len(self.rows)), [f"{c}'s adapter: {s}" for c, s in self.rows])
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.axhline(len(SCORES) - 0.5, color="white", linewidth=6)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{self.title}: change of each score", fontsize=11, loc="left", pad=12)
        figure.set_layout_engine("tight")
        return figure


def _turned(by: Interval) -> Interval:
    """The difference seen from the other side."""
    return replace(by, mean=-by.mean, low=-by.high, high=-by.low)


def signed(value: float) -> str:
    """Two decimals with a sign; what rounds to nothing has none."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def _write(axes, x: int, y: int, by: Interval | None, sure: bool, dark: bool) -> None:
    if by is None or np.isnan(by.mean):
        axes.text(x, y, "–", ha="center", va="center", color="#8a939e")
        return
    strong, faint = ("#ffffff", "#f0f2f4") if dark else ("#14171b", "#5c6673")
    axes.text(
        x,
        y - 0.1,
        signed(by.mean),
        ha="center",
        va="center",
        fontweight="bold" if sure else "normal",
        color=strong if sure else faint,
    )
    limits = f"{signed(by.low)} to {signed(by.high)}"
    axes.text(x, y + 0.26, limits, ha="center", va="center", fontsize=6.5, color=faint)


def tell(heat: HeatMap) -> list[str]:
    """What the map shows that matters, one sentence for each adapter and its own score."""
    own: tuple[tuple[Concept, str], ...] = (("character", "identity"), ("style", "style"))
    return [_sentence(heat, concept, score) for concept, score in own]


def _sentence(heat: HeatMap, concept: Concept, score: str) -> str:
    known = [
        (block, by)
        for block, by in zip(heat.blocks, heat.cells[concept, score], strict=True)
        if by is not None
    ]
    sure = sorted(
        (x for x in known if x[1].mean < 0 and matters(x[1], heat.smallest)),
        key=lambda x: x[1].mean,
    )
    idle = [block for block, by in known if not matters(by, heat.smallest)]
    if not known:
        return f"The {concept}'s adapter was not tried without single blocks."
    if not sure:
        return (
            f"No single block is missed by the {concept}'s adapter: no loss of {score} is both "
            f"outside chance and {heat.smallest:g} or more."
        )
    named = ", ".join(f"{block} ({signed(by.mean)})" for block, by in sure[:3])
    rest = f"; without {_listed(idle)} nothing changes that matters" if idle else ""
    return f"The {concept}'s adapter loses {score} most without {named}{rest}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
