"""Identity against style of every pair of masks, with pictures of those that no other beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.studies import FULL, Pair

THUMBNAIL = 64
"""Edge of a picture in the plot, in pixels."""
MOST_THUMBNAILS = 8
NEAR = 0.08
"""Pairs that are nearer than this share of the plot are as good as one point."""


def pareto_plot(outcome: Outcome, thumbnails: Mapping[Pair, Image.Image]) -> Figure:
    """A point a trained pair; some of those that are beaten by none have pictures.

    Args:
        outcome: of the sweep.
        thumbnails: a picture of each pair; pairs without one go without.
    """
    figure = Figure(figsize=(9.5, 6.2))
    axes = figure.add_subplot()
    points = {p: _point(outcome, p) for p in outcome.trained}
    frontier = sorted(outcome.frontier, key=lambda p: points[p])
    rest = [p for p in outcome.trained if p not in frontier]
    axes.scatter(*_columns(points, rest), s=26, color="#9aa4b0", label="other pairs", zorder=2)
    axes.scatter(
        *_columns(points, frontier), s=46, color="#0b6bcb", label="beaten by none", zorder=4
    )
    axes.scatter(0, 0, s=60, marker="x", color="#5c6673", label="base model, no adapter", zorder=3)
    full = Pair(FULL, FULL)
    if full in points:
        axes.scatter(
            *points[full], s=120, marker="D", facecolor="none", edgecolor="#c2410c", zorder=5
        )
        axes.annotate(
            "all / all", points[full], (7, -14), textcoords="offset points", color="#c2410c"
        )
    best = outcome.best
    axes.scatter(*points[best], s=150, marker="*", color="#0f7b4d", label=f"best: {best}", zorder=6)
    for pair in (best, *apart(outcome, frontier, MOST_THUMBNAILS, (best,))):
        if pair in thumbnails:
            _show(axes, thumbnails[pair], points[pair])
    axes.set_xlabel("identity (base 0, pictures learned from 1)")
    axes.set_ylabel("style (base 0, pictures learned from 1)")
    axes.margins(0.14)
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    figure.set_layout_engine("tight")
    return figure


def _point(outcome: Outcome, pair: Pair) -> tuple[float, float]:
    scores = outcome.scores[row_of(pair)]
    return scores["identity"].mean, scores["style"].mean


def _columns(points: Mapping[Pair, tuple[float, float]], pairs: list[Pair]) -> np.ndarray:
    return np.array([points[p] for p in pairs]).reshape(-1, 2).T


def apart(
    outcome: Outcome, pairs: Sequence[Pair], most: int, shown: Iterable[Pair] = ()
) -> list[Pair]:
    """At most so many pairs that are far from each other in the plot, one after the other.

    Args:
        outcome: of the sweep.
        pairs: to choose from.
        most: how many, those that are shown anyway included.
        shown: pairs that the others are to be far from.
    """
    everything = np.array([_point(outcome, p) for p in outcome.trained])
    size = np.maximum(np.ptp(everything, axis=0), 1e-9)
    places = {p: np.array(_point(outcome, p)) / size for p in outcome.trained}
    taken = [places[pair] for pair in shown]
    left = [pair for pair in pairs if pair not in set(shown)]
    chosen: list[Pair] = []
    while left and len(taken) < most:
        distance = [min((np.hypot(*(places[p] - q)) for q in taken), default=1.0) for p in left]
        if max(distance) < NEAR:
            break
        chosen.append(left.pop(int(np.argmax(distance))))
        taken.append(places[chosen[-1]])
    return chosen


def _show(axes, picture: Image.Image, point: tuple[float, float]) -> None:
    shown = picture.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    box = AnnotationBbox(
        OffsetImage(np.asarray(shown), zoom=0.62),
        point,
        xybox=(26, 30),
        boxcoords="offset points",
        frameon=True,
        bboxprops={"edgecolor": "#c9d0d8", "boxstyle": "round,pad=0.05"},
        arrowprops={"arrowstyle": "-", "color": "#c9d0d8"},
    )
    axes.add_artist(box)
