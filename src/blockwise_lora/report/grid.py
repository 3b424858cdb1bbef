"""The picture grid: prompts down, models across."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, FRAME = "#ffffff", "#1b1f24", "#667080", "#d5dae1"
GAP = 8
"""Pixels between tiles."""


@dataclass(frozen=True)
class Column:
    """One column of pictures.

    Attributes:
        title: what the column shows; broken into lines where it is long.
        pictures: one a row; None leaves the place empty.
        note: small print below the title.
        apart: whether a wider gap sets the column off from the one before it.
    """

    title: str
    pictures: tuple[Image.Image | None, ...]
    note: str = ""
    apart: bool = False


def draw_grid(columns: Sequence[Column], rows: Sequence[str], tile: int = 128) -> Image.Image:
    """Draw pictures in columns with readable labels.

    Args:
        columns: each with one picture (or None) for each row.
        rows: labels of the rows.
        tile: edge of a picture in pixels; small pictures are enlarged in whole steps, pixel by
            pixel, so that nothing is made to look smoother than it is.

    Returns:
        The grid in RGB.

    Raises:
        ValueError: no columns or rows, or a column of another length.
    """
    if not columns or not rows:
        raise ValueError("a grid needs at least one column and one row")
    if any(len(column.pictures) != len(rows) for column in columns):
        raise ValueError("every column of a grid needs a picture, or None, for every row")
    head = [_header(column, tile) for column in columns]
    names = [_wrap(row, _font(14), tile) for row in rows]
    label_width = max(_width(line, _font(14)) for lines in names for line in lines) + 2 * GAP
    head_height = max(sum(size + 4 for _, size, _ in lines) for lines in head) + GAP
    lefts, left = [], label_width + GAP
    for column in columns:
        left += 2 * GAP if column.apart else 0
        lefts.append(left)
        left += tile + GAP
    canvas = Image.new("RGB", (left + GAP, GAP + head_height + len(rows) * (tile + GAP)), PAPER)
    for column, lines, x in zip(columns, head, lefts, strict=True):
        _draw_header(canvas, lines, x + tile // 2, GAP + head_height - GAP)
        for i, picture in enumerate(column.pictures):
            _place(canvas, picture, (x, GAP + head_height + i * (tile + GAP)), tile)
    for i, lines in enumerate(names):
        _draw_label(canvas, lines, label_width, GAP + head_height + i * (tile + GAP) + tile // 2)
    return canvas


def _header(column: Column, tile: int) -> list[tuple[str, int, str]]:
    """Lines of a column's head: text, size in pixels, colour."""
    title = [(line, 15, INK) for line in _wrap(column.title, _font(15, bold=True), tile)]
    return title + [(line, 12, FAINT) for line in _wrap(column.note, _font(12), tile)]


def _draw_header(
    canvas: Image.Image, lines: list[tuple[str, int, str]], centre: int, bottom: int
) -> None:
    draw = ImageDraw.Draw(canvas)
    y = bottom - sum(size + 4 for _, size, _ in lines)
    for text, size, colour in lines:
        draw.text((centre, y), text, colour, _font(size, bold=colour == INK), anchor="ma")
        y += size + 4


def _draw_label(canvas: Image.Image, lines: list[str], right: int, middle: int) -> None:
    draw = ImageDraw.Draw(canvas)
    top = middle - len(lines) * 9
    for i, line in enumerate(lines):
        draw.text((right - GAP, top + i * 18), line, INK, _font(14), anchor="ra")


def _place(
    canvas: Image.Image, picture: Image.Image | None, corner: tuple[int, int], tile: int
) -> None:
    x, y = corner
    draw = ImageDraw.Draw(canvas)
    if picture is None:
        draw.text((x + tile // 2, y + tile // 2), "none", FAINT, _font(12), anchor="mm")
    else:
        shown = _fit(picture, tile)
        canvas.paste(shown, (x + (tile - shown.width) // 2, y + (tile - shown.height) // 2))
    draw.rectangle((x - 1, y - 1, x + tile, y + tile), outline=FRAME)


def _fit(picture: Image.Image, tile: int) -> Image.Image:
    """The picture within a tile: whole steps up, smoothly down."""
    picture = picture.convert("RGB")
    longest = max(picture.size)
    if longest <= tile:
        step = tile // longest
        size = (picture.width * step, picture.height * step)
        return picture.resize(size, Image.Resampling.NEAREST)
    size = tuple(max(1, round(edge * tile / longest)) for edge in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 5) -> list[str]:
    """Break a text into at most `most` lines; words too long for a line are broken as well."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer, font) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if _width(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-1] + "…"]


def _width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return round(font.getlength(text))


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows more scripts than Pillow's own font."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
