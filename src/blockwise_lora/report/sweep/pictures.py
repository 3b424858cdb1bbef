"""The page's pictures: pairs of masks beside what was learned from, and a sheet for one pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image

from blockwise_lora.judges.samples import BASE, REAL_CHARACTER, REAL_STYLE, Row
from blockwise_lora.report.columns import in_turn
from blockwise_lora.report.grid import Column, draw_grid
from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.studies import FULL, Pair

MOST_PAIRS = 7
"""Columns of pairs in the grid."""
FULL_PAIR = Pair(FULL, FULL)


def picture_grid(outcome: Outcome, prompts: Sequence[str], pairs: Sequence[Pair]) -> Image.Image:
    """What was learned from, the base model, then pairs; prompts and seeds down.

    Args:
        outcome: of the sweep.
        prompts: in plain words, by index.
        pairs: the recommended one first; at most MOST_PAIRS are shown.
    """
    places = _places(outcome)
    columns = [
        _learned(outcome, "Character's pictures", REAL_CHARACTER, len(places)),
        _learned(outcome, "Style's pictures", REAL_STYLE, len(places)),
        _column(outcome, "Base model", Row(BASE), places, "no adapter", apart=True),
    ]
    for i, pair in enumerate(pairs[:MOST_PAIRS]):
        note = "recommended" if i == 0 else "all blocks" if pair == FULL_PAIR else ""
        columns.append(_column(outcome, str(pair), row_of(pair), places, note, apart=i == 0))
    shown = [column for column in columns if any(column.pictures)]
    return draw_grid(shown, [f"{prompts[prompt]}, seed {seed}" for prompt, seed in places])


def pair_sheet(outcome: Outcome, prompts: Sequence[str], pair: Pair) -> Image.Image:
    """One pair's pictures, prompts down, each prompt's pictures across, for its record."""
    shown, own = _shown(outcome), {}
    for prompt, seed in _places(outcome):
        own.setdefault(prompt, []).append(shown.get((row_of(pair), prompt, seed)))
    columns = zip_longest(*own.values())
    drawn = [Column(f"picture {n}", tuple(pictures)) for n, pictures in enumerate(columns, 1)]
    return draw_grid(drawn, [prompts[prompt] for prompt in own])


def thumbnails(outcome: Outcome) -> dict[Pair, Image.Image]:
    """The first prompt's first picture of every pair."""
    shown, place = _shown(outcome), _places(outcome)[0]
    found = {pair: shown.get((row_of(pair), *place)) for pair in outcome.trained}
    return {pair: picture for pair, picture in found.items() if picture is not None}


def _shown(outcome: Outcome) -> dict[tuple[Row, int, int], Image.Image]:
    return {(s.row, s.prompt, s.seed): s.picture for s in outcome.judged.samples}


def _places(outcome: Outcome) -> list[tuple[int, int]]:
    """Prompts and seeds, in order."""
    full = row_of(FULL_PAIR)
    return sorted({(s.prompt, s.seed) for s in outcome.judged.samples if s.row == full})


def _column(
    outcome: Outcome,
    title: str,
    row: Row,
    places: Sequence[tuple[int, int]],
    note: str,
    apart: bool = False,
) -> Column:
    shown = _shown(outcome)
    return Column(title, tuple(shown.get((row, *place)) for place in places), note, apart)


def _learned(outcome: Outcome, title: str, anchor: str, count: int) -> Column:
    pictures = tuple(s.picture for s in outcome.judged.samples if s.row == Row(anchor))
    shown = in_turn(pictures, count) if pictures else (None,) * count
    return Column(title, shown, "learned from")
