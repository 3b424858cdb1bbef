import json
import os
from dataclasses import replace

import pytest

from blockwise_lora.imagesets import (
    CaptioningConfig,
    CaptionRule,
    CurationConfig,
    ImageSet,
    ImageSetError,
    curate,
    write_imagefolder,
)
from blockwise_lora.imagesets.captioning import ConceptTagRules
from blockwise_lora.imagesets.curation import caption_pictures, screen_folder
from blockwise_lora.imagesets.naming import file_name
from blockwise_lora.imagesets.review import Review, ReviewRow

RULE = CaptionRule("zkc", "cat face")


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def mixed(raw, textured):
    """What people have: nested, mixed formats, some of it broken."""
    (raw / "sub").mkdir()
    textured(0).save(raw / "a.png")
    textured(1, 200, 100).save(raw / "sub" / "Wide one.JPG")
    textured(2).convert("RGBA").save(raw / "sub" / "c.webp", lossless=True)
    textured(3, 32, 32).save(raw / "small.png")
    textured(4, 1, 1).save(raw / "dot.png")
    textured(0).save(raw / "again.bmp")
    textured(5).save(raw / "latin.png")
    (raw / "latin.txt").write_bytes("été".encode("latin-1"))
    (raw / "a.txt").write_text("cat face, grinning")
    (raw / "broken.png").write_bytes((raw / "a.png").read_bytes()[:500])
    (raw / "word.png").write_text("not a picture")
    (raw / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')
    return raw


def test_every_picture_is_kept_or_dropped_with_a_reason(mixed):
    before = snapshot(mixed)
    images, report = curate(mixed, RULE, CurationConfig())
    assert {v.file: v.reason for v in report.verdicts} == {
        "a.png": "",
        "again.bmp": "duplicate",
        "broken.png": "damaged",
        "dot.png": "too small",
        "gone.png": "missing",
        "latin.png": "caption unreadable",
        "small.png": "too small",
        "sub/Wide one.JPG": "",
        "sub/c.webp": "",
        "word.png": "not an image",
    }
    assert [(p.file_name, p.caption, p.source) for p in images] == [
        ("a.png", "zkc cat face, grinning", "a.png"),
        ("sub-wide-one.png", "zkc cat face", "sub/Wide one.JPG"),
        ("sub-c.png", "zkc cat face", "sub/c.webp"),
    ]
    summary = report.summary()
    assert (summary["in"], summary["kept"], summary["dropped"]) == (10, 3, 7)
    assert sum(summary["reasons"].values()) == 7
    assert summary["caption_sources"] == {"sidecar": 1, "template": 2}
    assert summary["sha256"] == images.sha256
    assert all(v.detail for v in report.dropped)
    small = next(v for v in report.dropped if v.file == "small.png")
    assert small.number == 32
    assert "2.00 times to 64 pixels; use a larger picture, or set curation.upscale" in small.detail
    assert snapshot(mixed) == before


def test_same_input_same_bytes_whatever_the_number_of_threads(mixed, tmp_path):
    for name, workers in (("one", 1), ("four", 4)):
        images, report = curate(mixed, RULE, CurationConfig(workers=workers))
        write_imagefolder(tmp_path / name, images)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "four")
    assert json.dumps(report.rows()) == json.dumps(
        curate(mixed, RULE, CurationConfig(workers=2))[1].rows()
    )
    written = ImageSet.read(tmp_path / "one")
    assert written.sha256 == report.sha256
    assert written.find("sub/Wide one.JPG") is written[1]
    assert written[1].open().size == (64, 64)


def test_curating_a_curated_set_changes_nothing(mixed, tmp_path):
    images, _ = curate(mixed, RULE, CurationConfig())
    write_imagefolder(tmp_path / "set", images)
    again, report = curate(tmp_path / "set", RULE, CurationConfig())
    assert {(p.sha256, p.caption) for p in again} == {(p.sha256, p.caption) for p in images}
    assert not report.dropped
    assert {v.caption_source for v in report.kept} == {"metadata"}


def test_upscaling_only_when_asked_and_never_from_nothing(mixed):
    _, report = curate(mixed, RULE, CurationConfig(upscale=True))
    reasons = {v.file: v.reason for v in report.verdicts}
    assert (reasons["small.png"], reasons["dot.png"]) == ("", "too small")
    assert next(v for v in report.kept if v.file == "small.png").notes == ("enlarged 2.00 times",)


def test_cropping_needs_the_shorter_side(raw, textured):
    textured(1, 200, 60).save(raw / "a.png")
    assert len(curate(raw, RULE, CurationConfig())[0]) == 1
    with pytest.raises(ImageSetError, match="too small"):
        curate(raw, RULE, CurationConfig(square="crop"))


def test_pictures_without_caption_can_be_dropped(mixed):
    sidecars = CaptioningConfig(("sidecar",)).captioner(RULE)
    images, report = curate(mixed, sidecars, CurationConfig())
    assert [p.file_name for p in images] == ["a.png"]
    reasons = report.summary()["reasons"]
    assert (reasons["no caption"], reasons["caption unreadable"]) == (2, 1)
    assert sum(reasons.values()) + len(images) == report.summary()["in"]
    lost = next(v for v in report.dropped if v.file == "sub/c.webp")
    assert (lost.detail, lost.output) == ("none in sidecar; write a .txt beside it", "")


def test_a_broken_sidecar_matters_only_where_it_is_asked_for(mixed):
    names = CaptioningConfig(("file_name",)).captioner(RULE)
    images, _ = curate(mixed, names, CurationConfig())
    assert images.find("latin.png").caption == "zkc latin"


def test_a_persons_caption_wins_over_a_broken_sidecar(mixed):
    screening = screen_folder(mixed, CurationConfig())
    rows = {"latin.png": ReviewRow(caption="cat face, summer"), "a.png": ReviewRow()}
    screening = replace(screening, review=Review(rows))
    images, report = caption_pictures(screening, CaptioningConfig().captioner(RULE))
    assert images.find("latin.png").caption == "zkc cat face, summer"
    assert images.find("a.png").caption == "zkc cat face, grinning"
    assert report.summary()["caption_sources"] == {"review": 1, "sidecar": 1, "template": 2}


def test_the_concepts_tags_are_told_from_another_folders(tmp_path, textured):
    for name, words in (
        ("cat", ("grinning", "weary", "crying", "kissing")),
        ("things", ("key", "car", "book", "fish")),
    ):
        (tmp_path / name).mkdir()
        for seed, word in enumerate(words):
            textured(seed + 10 * (name == "cat")).save(tmp_path / name / f"{seed}.png")
            shared = "drawing, cat face" if name == "cat" else "drawing"
            (tmp_path / name / f"{seed}.txt").write_text(f"{shared}, {word}")
    cat, things = (screen_folder(tmp_path / n, CurationConfig()) for n in ("cat", "things"))
    removing = CaptioningConfig(concept_tags=ConceptTagRules(remove=True)).captioner(RULE)
    images, report = caption_pictures(cat, removing, background=things)
    assert images[0].caption == "zkc, drawing, grinning"
    own = {tag["tag"]: tag["own"] for tag in report.summary()["concept_tags"]}
    assert own == {"cat face": True, "drawing": False}
    assert report.summary()["concept_tags_removed"] is True
    listing, _ = caption_pictures(cat, CaptioningConfig().captioner(RULE), background=things)
    assert listing[0].caption == "zkc drawing, cat face, grinning"


def test_nothing_left_says_why(raw):
    with pytest.raises(ImageSetError, match="no pictures in it; put some there"):
        curate(raw, RULE, CurationConfig())
    for number in range(12):
        (raw / f"{number:02}.png").write_text("x")
    with pytest.raises(ImageSetError) as caught:
        curate(raw, RULE, CurationConfig())
    assert "none of 12 pictures can be used" in str(caught.value)
    assert "00.png: not an image" in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_a_picture_exchanged_after_the_screening_is_noticed(raw, textured, tmp_path):
    textured(0).save(raw / "a.png")
    images, _ = curate(raw, RULE, CurationConfig())
    textured(1).save(raw / "a.png")
    with pytest.raises(ImageSetError, match=r"a\.png has changed"):
        write_imagefolder(tmp_path / "set", images)
    assert not (tmp_path / "set").exists()


def test_the_originals_are_never_written_over(raw, textured):
    textured(0).save(raw / "a.png")
    images, _ = curate(raw, RULE, CurationConfig())
    for target in (raw, raw.parent):
        with pytest.raises(ImageSetError, match="holds the original"):
            write_imagefolder(target, images)


def test_photographs_in_the_embedded_world_are_warned_of(raw, textured, face):
    textured(0, 600, 400).save(raw / "photo.png")
    assert "belong with --env sd15" in curate(raw, RULE, CurationConfig())[1].warnings[0]
    assert not curate(raw, RULE, CurationConfig(resolution=512, upscale=True))[1].warnings
    face("smile").resize((512, 512)).save(raw / "large drawing.png")
    face("frown").save(raw / "drawing.png")
    assert not curate(raw, RULE, CurationConfig())[1].warnings


def test_captions_without_a_picture_are_warned_of(raw, textured):
    textured(0).save(raw / "a.png")
    (raw / "b.txt").write_text("x")
    _, report = curate(raw, RULE, CurationConfig())
    assert report.warnings == ("1 caption files have no picture of the same name: b.txt",)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub/Cat 1.JPG", "sub-cat-1.png"),
        ("été.png", "ete.png"),
        ("猫.png", "picture.png"),
        ("no.ending/x", "no-ending-x.png"),
        ("x" * 300 + ".png", "x" * 80 + ".png"),
    ],
)
def test_file_names(file, name):
    assert file_name(file) == name


def test_names_that_collide_stay_apart(raw, textured):
    for seed, name in enumerate(("猫.png", "犬.png", "A b.png", "a-b.png")):
        textured(seed).save(raw / name)
    images, _ = curate(raw, RULE, CurationConfig())
    assert len({p.file_name for p in images}) == 4


def test_a_name_that_is_not_utf8_is_reported(mixed, tmp_path):
    for name in (b"caf\xe9.jpg", b"caf\xe9.txt"):
        (mixed / os.fsdecode(name)).write_bytes((mixed / "a.png").read_bytes())
    images, report = curate(mixed, RULE, CurationConfig())
    summary = report.summary()
    assert (summary["in"], summary["kept"], summary["dropped"]) == (11, 3, 8)
    odd = next(v for v in report.dropped if v.reason == "misnamed")
    assert (odd.file, "rename the file" in odd.detail) == ("caf\\udce9.jpg", True)
    # What is written holds no name that could not be.
    json.dumps([report.rows(), summary, report.warnings], ensure_ascii=False).encode()
    write_imagefolder(tmp_path / "set", images)
