"""Near-duplicates go, expressions of one face stay."""

from pathlib import Path

import pytest
from PIL import Image

from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate
from blockwise_lora.imagesets.config import DuplicateRules

RULE = CaptionRule("zkc", "cat face")
DATA = Path(__file__).parents[2] / "data" / "01_raw"


def outcome(folder, **changes):
    _, report = curate(folder, RULE, CurationConfig(**changes))
    return {verdict.file: verdict.reason for verdict in report.verdicts}, report


def test_expressions_and_colours_of_one_face_survive(raw, face):
    for mouth in ("smile", "frown", "open", "none"):
        face(mouth).save(raw / f"{mouth}.png")
    face("smile", "tomato").save(raw / "red.png")
    reasons, _ = outcome(raw)
    assert set(reasons.values()) == {""}


@pytest.mark.parametrize("family", ["cat", "moon", "cloud", "hand", "heart"])
def test_nothing_is_lost_from_the_shipped_characters(family):
    reasons, _ = outcome(DATA / "characters" / family)
    assert len(reasons) >= 4
    assert set(reasons.values()) == {""}


def test_nothing_is_lost_from_the_shipped_style_and_the_four_other_cats(raw):
    reasons, _ = outcome(DATA / "styles" / "openmoji")
    assert set(reasons.values()) == {""}
    reasons, _ = outcome(DATA / "truth" / "cat-openmoji")
    assert set(reasons.values()) == {""}


def test_equal_pixels_in_any_format(raw, face):
    face().save(raw / "a.png")
    face().save(raw / "b.bmp")
    face().save(raw / "c.png", compress_level=1)
    reasons, report = outcome(raw, duplicates=DuplicateRules(near=False))
    assert reasons == {"a.png": "", "b.bmp": "duplicate", "c.png": "duplicate"}
    assert report.dropped[0].detail == "the same pixels as a.png"
    assert report.dropped[0].number == 0


def test_reencoded_and_resized_copies(raw, textured):
    original = textured(0, 256, 256)
    original.save(raw / "large.png")
    original.save(raw / "large.jpg", quality=80)
    original.resize((128, 128), Image.Resampling.LANCZOS).save(raw / "a-small.png")
    textured(1, 256, 256).save(raw / "other.png")
    reasons, report = outcome(raw, resolution=256, upscale=True)
    # The largest stays, although its name comes last; of the large ones the first name.
    assert reasons == {
        "a-small.png": "near-duplicate",
        "large.jpg": "",
        "large.png": "near-duplicate",
        "other.png": "",
    }
    assert all("from large.jpg" in verdict.detail for verdict in report.dropped)
    assert all(0 < verdict.number < 10 for verdict in report.dropped)
    reasons, _ = outcome(raw, resolution=256, upscale=True, duplicates=DuplicateRules(near=False))
    assert set(reasons.values()) == {""}


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75}])
def test_a_small_drawing_saved_as_jpeg(raw, options):
    cat = Image.open(DATA / "characters" / "cat" / "cat-face.png").convert("RGB")
    cat.save(raw / "a.png")
    cat.save(raw / "b.jpg", **options)
    reasons, _ = outcome(raw)
    assert reasons == {"a.png": "", "b.jpg": "near-duplicate"}


def test_of_equals_the_captioned_one_stays_and_contradictions_are_told(raw, face):
    face().save(raw / "a.png")
    face().save(raw / "b.png")
    (raw / "b.txt").write_text("smiling")
    reasons, _ = outcome(raw)
    assert reasons == {"a.png": "duplicate", "b.png": ""}
    (raw / "a.txt").write_text("laughing")
    _, report = outcome(raw)
    assert report.dropped[0].detail == (
        "the same pixels as a.png, which says 'laughing', not 'smiling'"
    )


def test_flat_pictures_of_other_colours_are_no_duplicates(raw):
    for name, colour in (("w", "white"), ("b", "black"), ("r", "red"), ("k", "#101010")):
        Image.new("RGB", (64, 64), colour).save(raw / f"{name}.png")
    reasons, _ = outcome(raw)
    assert set(reasons.values()) == {""}
