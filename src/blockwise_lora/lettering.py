"""Words on pictures, in any script.

DejaVu Sans comes with matplotlib and knows many scripts, but no Chinese, Japanese or Korean. Where
it fails, a font of the machine is taken that knows every letter; where there is none, unknown
letters become their code points, so that two names that differ still look different.
"""

from functools import cache
from pathlib import Path

from PIL import ImageFont


def letter(text: str, size: int, bold: bool = False) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text as it can be drawn, and the font to draw it with.

    Args:
        text: one line.
        size: in pixels.
        bold: for titles; fonts of the machine are taken as they are.
    """
    own = _own(bold)
    wanted = {ord(sign) for sign in text if not sign.isspace()}
    unknown = wanted - _letters(own)
    if not unknown:
        return text, _font(own, size)
    for path in _installed():
        if wanted <= _letters(path):
            return text, _font(path, size)
    told = "".join(f"U+{ord(c):04X} " if ord(c) in unknown else c for c in text)
    return told.strip(), _font(own, size)


def lines(
    text: str, size: int, width: int, bold: bool = False, most: int = 5
) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """A text in lines of a width, see `letter` and `wrap`."""
    told, font = letter(text, size, bold)
    return wrap(told, font, width, most), font


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 5) -> list[str]:
    """Break a text into lines; words too long for a line are broken as well.

    Args:
        text: what to break.
        font: that it is drawn with.
        width: of a line, in pixels.
        most: lines; more are cut off, with a sign.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for sign in word:
            if font.getlength(lines[-1] + sign) > width:
                lines.append("")
            lines[-1] += sign
    lines = [line for line in lines if line]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-1] + "…"]


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of at most `width` pixels, without its middle where it is longer."""
    kept, short = len(text), text
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _own(bold: bool) -> Path:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@cache
def _installed() -> tuple[Path, ...]:
    """Fonts that the machine has, in an order that does not change."""
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(Path(name) for name in findSystemFonts()))


@cache
def _letters(path: Path) -> frozenset[int]:
    """Code points that a font can draw; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
