"""One picture of a whole curation: what was kept, and what was dropped with its reason."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from blockwise_lora.imagesets.decoding import DecodeError, decode
from blockwise_lora.imagesets.images import ImageSet
from blockwise_lora.imagesets.report import CurationReport
from blockwise_lora.imagesets.screening import Verdict
from blockwise_lora.lettering import letter, lines, shorten

TILE, MARGIN, COLUMNS, LINES, LINE, HEAD = 112, 8, 8, 6, 13, 26
WORDS, TITLE = 10, 13  # sizes of letters, in pixels
Ink = tuple[int, int, int]
INK, GREY, RED, ORANGE = (20, 20, 20), (225, 225, 225), (176, 32, 32), (190, 100, 0)


def contact_sheet(images: ImageSet, report: CurationReport, limit: int = 80) -> Image.Image:
    """Draw the sheet; what was kept with a flag comes first, with the flag in orange.

    Args:
        images: the curated set.
        report: the report on it.
        limit: how many kept and how many dropped pictures are drawn at most; the headings say
            how many there are.

    Returns:
        RGB, 8 tiles wide.
    """
    flags = {verdict.file: verdict.flags for verdict in report.kept}
    flagged = sum(map(bool, flags.values()))
    shown = sorted(images.pictures, key=lambda picture: not flags.get(picture.source))[:limit]
    kept = [
        tile(
            picture.open(),
            picture.source or picture.file_name,
            *((flag, ORANGE) for flag in flags.get(picture.source, ())),
            (picture.caption, INK),
        )
        for picture in shown
    ]
    dropped = [
        tile(original(report.root, verdict), verdict.file, (_why(verdict), RED))
        for verdict in report.dropped[:limit]
    ]
    words = "kept" + (f" ({flagged} of them flagged)" if flagged else "")
    sections = [
        (_heading(words, len(images), len(kept)), kept),
        (_heading("dropped", len(report.dropped), len(dropped)), dropped),
    ]
    width = COLUMNS * (TILE + MARGIN) + MARGIN
    height = sum(HEAD + _rows(tiles) * (_tile_height() + MARGIN) for _, tiles in sections) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for heading, tiles in sections:
        title, font = letter(f"{report.folder}: {heading}", TITLE)
        draw.text((MARGIN, top + 5), title, INK, font)
        top += HEAD
        for index, drawn in enumerate(tiles):
            row, column = divmod(index, COLUMNS)
            left = MARGIN + column * (TILE + MARGIN)
            sheet.paste(drawn, (left, top + row * (_tile_height() + MARGIN)))
        top += _rows(tiles) * (_tile_height() + MARGIN)
    return sheet


def _heading(word: str, count: int, drawn: int) -> str:
    return f"{count} {word}" + (f", the first {drawn} of them" if drawn < count else "")


def _rows(tiles: Sequence[Image.Image]) -> int:
    return -(-len(tiles) // COLUMNS)


def _tile_height() -> int:
    return TILE + LINES * LINE + 2


def tile(image: Image.Image | None, name: str, *texts: tuple[str, Ink]) -> Image.Image:
    """A picture with its name and words below it; a cross where there is no picture."""
    canvas = Image.new("RGB", (TILE, _tile_height()), "white")
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, TILE - 1, TILE - 1), outline=GREY)
    if image is None:
        draw.line((0, 0, TILE - 1, TILE - 1), GREY)
        draw.line((0, TILE - 1, TILE - 1, 0), GREY)
    else:
        scale = TILE / max(image.size)
        # Small pictures are drawn with their pixels visible, as they are trained on.
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        size = tuple(max(1, round(side * scale)) for side in image.size)
        canvas.paste(image.resize(size, method), tuple((TILE - side) // 2 for side in size))
    own, font = letter(_own_name(name), WORDS)
    drawn = [(shorten(own, font, TILE), INK, font)]
    for text, ink in texts:
        told, font = lines(text, WORDS, TILE, most=LINES)
        drawn += [(line, ink, font) for line in told]
    for number, (line, ink, font) in enumerate(drawn[:LINES]):
        draw.text((0, TILE + 1 + number * LINE), line, ink, font)
    return canvas


def _own_name(name: str) -> str:
    """The file's, without its folder."""
    return name.rpartition("/")[2]


def _why(verdict: Verdict) -> str:
    number = "" if verdict.number is None else f" ({verdict.number:g})"
    # Whose copy it is says more than how it was measured.
    rest = f" of {_own_name(verdict.twin)}" if verdict.twin else f": {verdict.detail}"
    return f"{verdict.reason}{number}{rest}"


def original(folder: Path, verdict: Verdict) -> Image.Image | None:
    """The dropped picture, where it can be opened at no risk."""
    if verdict.width is None:
        return None
    try:
        return decode(folder / verdict.file).image
    except DecodeError:
        return None
