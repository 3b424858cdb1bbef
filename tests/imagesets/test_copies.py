"""Copies among files of any kind, on one core and on two."""

import pytest
from PIL import Image

from blockwise_lora.imagesets import find_copies


@pytest.fixture
def files(tmp_path, textured):
    """40 pictures, then 24 of them again as large JPEGs, and one that is no picture."""
    for number in range(40):
        image = textured(number, 300, 200)
        image.save(tmp_path / f"a{number:02}.png")
        if number < 24:
            large = image.resize((900, 600), Image.Resampling.BICUBIC)
            large.save(tmp_path / f"b{number:02}.jpg", quality=80)
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return sorted(tmp_path.iterdir())


def test_what_comes_later_is_a_copy_of_what_came_before(files):
    found = find_copies(files, workers=1)
    named = {copy.name: original.name for copy, original in found.originals.items()}
    assert named == {f"b{n:02}.jpg": f"a{n:02}.png" for n in range(24)}
    assert [file.name for file in found.unreadable] == ["c.jpg"]
    assert "damaged" in next(iter(found.unreadable.values()))
    # In the other order the large ones stay.
    assert len(find_copies(files[40:] + files[:40], workers=1).originals) == 24


def test_two_processes_find_what_one_finds(files):
    assert find_copies(files, workers=2) == find_copies(files, workers=1)


def test_nothing_among_nothing():
    assert find_copies([]).originals == {}


def test_mirrored_copies_when_asked(tmp_path, textured):
    textured(0, 128, 128).save(tmp_path / "a.png")
    textured(0, 128, 128).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    files = sorted(tmp_path.iterdir())
    assert find_copies(files).originals == {}
    assert find_copies(files, mirrored=True).originals == {files[1]: files[0]}
