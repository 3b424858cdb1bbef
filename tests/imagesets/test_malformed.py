"""Whatever bytes lie in a folder: nothing crashes, nothing is lost, in = kept + dropped."""

import io
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate, write_imagefolder

RULE = CaptionRule("zkc", "cat face")
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "TGA", "JPEG2000")
WITH_EXIF = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
CAPTION = "grinning, été 猫".encode()


def noise(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


@cache
def encoded(kind):
    exif = Image.Exif()
    exif[0x0112] = 8
    buffer = io.BytesIO()
    noise(1).save(buffer, kind, **({"exif": exif} if kind in WITH_EXIF else {}))
    return buffer.getvalue()


@st.composite
def damaged(draw, data):
    """`data` cut, with bytes taken out, put in or changed: anywhere, or where the header is."""
    place = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["head", "tail", "without", "with", "changed", "header"]))
    if kind == "head":
        return data[:place]
    if kind == "tail":
        return data[place:]
    if kind == "without":
        return data[:place] + data[place + draw(st.integers(1, 64)) :]
    if kind == "with":
        return data[:place] + draw(st.binary(min_size=1, max_size=64)) + data[place:]
    result = bytearray(data)
    last = (63 if kind == "header" else len(data)) - 1
    spots = st.tuples(st.integers(0, min(last, len(data) - 1)), st.integers(0, 255))
    for spot, value in draw(st.lists(spots, min_size=1, max_size=8)):
        result[spot] = value
    return bytes(result)


PICTURES = st.sampled_from(KINDS).flatmap(lambda kind: damaged(encoded(kind)))
CAPTIONS = st.none() | damaged(CAPTION) | st.binary(max_size=40)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(picture=PICTURES, caption=CAPTIONS)
def test_no_malformed_file_crashes_or_is_lost(picture, caption):
    with tempfile.TemporaryDirectory() as place:
        raw = Path(place, "raw")
        raw.mkdir()
        noise(2).save(raw / "good.png")
        (raw / "odd").write_bytes(picture)
        if caption is not None:
            (raw / "odd.txt").write_bytes(caption)
        images, report = curate(raw, RULE, CurationConfig(max_megapixels=4))
        assert [verdict.file for verdict in report.verdicts] == ["good.png", "odd"]
        assert len(report.kept) + len(report.dropped) == 2
        assert [image.source for image in images] == [verdict.file for verdict in report.kept]
        assert images.find("good.png")
        assert all(verdict.detail for verdict in report.dropped)
        written = write_imagefolder(Path(place, "set"), images)
        assert all(image.open().size == (64, 64) for image in written)
