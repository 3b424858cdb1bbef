"""Identity against style of every pair of masks, with pictures of those that no other beats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.studies import FULL, Pair

THUMBNAIL = 64
"""Edge of a picture in the plot, in pixels."""
MOST_THUMBNAILS = 8


def pareto_plot(outcome: Outcome, thumbnails: Mapping[Pair, Image.Image]) -> Figure:
    """A point a trained pair; the frontier is joined and has pictures.

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
    for pair in _spread(frontier):
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


def _spread(frontier: list[Pair]) -> list[Pair]:
    """At most MOST_THUMBNAILS of them, from one end to the other."""
    if len(frontier) <= MOST_THUMBNAILS:
        return frontier
    places = np.linspace(0, len(frontier) - 1, MOST_THUMBNAILS).round().astype(int)
    return [frontier[i] for i in places]


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
