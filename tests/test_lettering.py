from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageDraw, ImageFont

from blockwise_lora import lettering
from blockwise_lora.lettering import letter, lines, shorten, wrap

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture
def bare(monkeypatch):
    """A machine without fonts of its own."""
    monkeypatch.setattr(lettering, "_installed", lambda: ())


def drawn(text: str, font: ImageFont.FreeTypeFont) -> bytes:
    canvas = Image.new("L", (300, 30))
    ImageDraw.Draw(canvas).text((0, 0), text, 255, font)
    return canvas.tobytes()


def test_many_scripts_are_drawn_as_they_are(bare):
    for text in ("cat", "кошка", "γάτα", "قط"):
        assert letter(text, 12)[0] == text


def test_letters_that_no_font_has_become_their_code_points(bare):
    """Boxes would make all such names alike."""
    (cat, font), (dog, _) = letter("猫.png", 12), letter("犬.png", 12)
    assert (cat, dog) == ("U+732B .png", "U+72AC .png")
    assert drawn(cat, font) != drawn(dog, font)
    assert drawn("猫", font) == drawn("犬", font), "so they would have looked"


def test_a_font_of_the_machine_helps_out(monkeypatch):
    """STIX has a mathematical letter that DejaVu Sans lacks."""
    stix = DEJAVU / "STIXGeneral.ttf"
    sign = chr(min(lettering._letters(stix) - lettering._letters(DEJAVU / "DejaVuSans.ttf")))
    mono = DEJAVU / "DejaVuSansMono.ttf"
    monkeypatch.setattr(lettering, "_installed", lambda: (DEJAVU / "lost.ttf", mono, stix))
    text, font = letter(f"a{sign}", 12)
    assert text == f"a{sign}" and Path(font.path) == stix


def test_lines_are_no_wider_than_asked(bare):
    told, font = lines("zkc cat face " + "x" * 60 + " 猫 the end", 11, 100, most=4)
    assert len(told) == 4 and told[-1].endswith("…")
    assert all(font.getlength(line) <= 100 for line in told[:-1])
    assert wrap("one two", font, 1000) == ["one two"]


def test_a_long_name_loses_its_middle():
    _, font = letter("x", 11)
    assert shorten("cat.png", font, 100) == "cat.png"
    short = shorten("a-very-long-name-of-a-cat-0001.png", font, 100)
    assert short.startswith("a-very") and short.endswith(".png") and "…" in short
    assert font.getlength(short) <= 100
