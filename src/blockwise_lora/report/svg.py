"""Small charts as inline SVG, whose colours follow the page's (light or dark)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 520, 380
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
SHAPES = {
    "circle": [
        (5.5 * math.cos(i * math.pi / 12), 5.5 * math.sin(i * math.pi / 12)) for i in range(24)
    ],
    "triangle": [(0, -6), (5.6, 4.4), (-5.6, 4.4)],
    "square": [(-4.6, -4.6), (4.6, -4.6), (4.6, 4.6), (-4.6, 4.6)],
}
"""Outlines of points, in pixels around their centre."""


@dataclass
class Plot:
    """A drawing with two linear axes; what is added is clipped by nothing and escaped always.

    Attributes:
        x, y: lower and upper end of each axis.
        x_label, y_label: what the axes show.
        title: read out in place of the drawing.
        width, height: in pixels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    title: str
    width: int = WIDTH
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)

    def across(self, value: float) -> float:
        """Pixels from the left of a value on the horizontal axis."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return LEFT + share * (self.width - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Pixels from the top of a value on the vertical axis."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points in units of the axes; `kind` is its CSS class."""
        path = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{escape(kind)}" points="{path}"/>')

    def mark(self, x: float, y: float, shape: str, kind: str, hint: str) -> None:
        """A `circle`, `triangle` or `square` with a hint that appears under the pointer."""
        outline = " ".join(
            f"{self.across(x) + dx:.1f},{self.down(y) + dy:.1f}" for dx, dy in SHAPES[shape]
        )
        self.parts.append(
            f'<polygon class="{escape(kind)}" points="{outline}">'
            f"<title>{escape(hint)}</title></polygon>"
        )

    def text(self, left: float, top: float, words: str, kind: str, anchor: str = "start") -> None:
        """Words at a place in pixels."""
        self.parts.append(
            f'<text class="{escape(kind)}" x="{left:.1f}" y="{top:.1f}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def draw(self) -> str:
        """The whole SVG element."""
        frame = _Axes(self)
        return (
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">{frame.draw()}{"".join(self.parts)}</svg>'
        )


@dataclass
class _Axes:
    plot: Plot

    def draw(self) -> str:
        return "".join([*self._horizontal(), *self._vertical(), *self._labels()])

    def _horizontal(self) -> list[str]:
        plot, bottom, drawn = self.plot, self.plot.height - BOTTOM, []
        for value in ticks(*plot.x):
            x = plot.across(value)
            drawn.append(_rule(x, TOP, x, bottom))
            drawn.append(_tick(x, bottom + 17, value, "middle"))
        return drawn

    def _vertical(self) -> list[str]:
        plot, drawn = self.plot, []
        for value in ticks(*plot.y):
            y = plot.down(value)
            drawn.append(_rule(LEFT, y, plot.width - RIGHT, y))
            drawn.append(_tick(LEFT - 7, y + 4, value, "end"))
        return drawn

    def _labels(self) -> list[str]:
        plot = self.plot
        middle = TOP + (plot.height - TOP - BOTTOM) / 2
        centre = LEFT + (plot.width - LEFT - RIGHT) / 2
        return [
            f'<text class="axis" x="{centre}" y="{plot.height - 8}" text-anchor="middle">'
            f"{escape(plot.x_label)}</text>",
            f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(plot.y_label)}</text>',
        ]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two ends, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def span(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """Ends of an axis that holds all values with a margin; never of length zero."""
    low, high = min(values), max(values)
    pad = (high - low) * margin or abs(high) * margin or 1.0
    return low - pad, high + pad


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _tick(x: float, y: float, value: float, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{value:g}</text>'
