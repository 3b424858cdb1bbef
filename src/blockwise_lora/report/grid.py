"""The picture grid: prompts down, models across."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from blockwise_lora.lettering import lines

PAPER, INK, FAINT, FRAME = "#ffffff", "#1b1f24", "#667080", "#d5dae1"
GAP = 8
"""Pixels between tiles."""
Line = tuple[str, ImageFont.FreeTypeFont, str]
"""Text, font and colour."""


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
    names = [lines(row, 14, tile) for row in rows]
    widest = max(font.getlength(line) for told, font in names for line in told)
    label_width = round(widest) + 2 * GAP
    head_height = max(sum(font.size + 4 for _, font, _ in one) for one in head) + GAP
    lefts, left = [], label_width + GAP
    for column in columns:
        left += 2 * GAP if column.apart else 0
        lefts.append(left)
        left += tile + GAP
    canvas = Image.new("RGB", (left + GAP, GAP + head_height + len(rows) * (tile + GAP)), PAPER)
    for column, header, x in zip(columns, head, lefts, strict=True):
        _draw_header(canvas, header, x + tile // 2, GAP + head_height - GAP)
        for i, picture in enumerate(column.pictures):
            _place(canvas, picture, (x, GAP + head_height + i * (tile + GAP)), tile)
    for i, label in enumerate(names):
        _draw_label(canvas, *label, label_width, GAP + head_height + i * (tile + GAP) + tile // 2)
    return canvas


def _header(column: Column, tile: int) -> list[Line]:
    """Lines of a column's head."""
    title, bold = lines(column.title, 15, tile, bold=True)
    note, plain = lines(column.note, 12, tile)
    return [(line, bold, INK) for line in title] + [(line, plain, FAINT) for line in note]


def _draw_header(canvas: Image.Image, header: list[Line], centre: int, bottom: int) -> None:
    draw = ImageDraw.Draw(canvas)
    y = bottom - sum(font.size + 4 for _, font, _ in header)
    for text, font, colour in header:
        draw.text((centre, y), text, colour, font, anchor="ma")
        y += font.size + 4


def _draw_label(
    canvas: Image.Image, label: list[str], font: ImageFont.FreeTypeFont, right: int, middle: int
) -> None:
    draw = ImageDraw.Draw(canvas)
    top = middle - len(label) * 9
    for i, line in enumerate(label):
        draw.text((right - GAP, top + i * 18), line, INK, font, anchor="ra")


def _place(
    canvas: Image.Image, picture: Image.Image | None, corner: tuple[int, int], tile: int
) -> None:
    x, y = corner
    draw = ImageDraw.Draw(canvas)
    if picture is None:
        (none,), font = lines("none", 12, tile)
        draw.text((x + tile // 2, y + tile // 2), none, FAINT, font, anchor="mm")
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
