"""Checks, the review that wins over them, and what is kept from run to run."""

import sqlite3

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate, screen_folder
from blockwise_lora.imagesets import crew as crew_module
from blockwise_lora.imagesets.config import Check, Checks, DuplicateRules
from blockwise_lora.imagesets.crew import measure_files
from blockwise_lora.imagesets.judging import judged
from blockwise_lora.imagesets.measures import Measures, measure
from blockwise_lora.imagesets.store import Store

RULE = CaptionRule("zkc", "cat face")


@pytest.fixture
def faulty(raw, textured):
    textured(0, 256, 256).save(raw / "good.png")
    textured(1, 256, 256).filter(ImageFilter.GaussianBlur(6)).save(raw / "blurred.png")
    textured(2, 256, 256).point(lambda v: v // 8).save(raw / "dark.png")
    textured(3, 400, 100).save(raw / "wide.png")
    return raw


def test_faults_are_flagged_with_their_number_or_dropped(faulty):
    _, report = curate(faulty, RULE, CurationConfig())
    flags = {v.file: v.flags for v in report.verdicts}
    assert flags["good.png"] == ()
    assert flags["wide.png"] == ("aspect (4)",)
    assert flags["dark.png"][0].startswith("dark (")
    assert flags["blurred.png"][0].startswith("blurred (0.0")
    assert report.summary()["flags"] == {"aspect": 1, "blurred": 1, "dark": 1}
    strict = Checks(blurred=Check(0.04, "drop"), dark=Check(40, "off"), aspect=Check(3, "drop"))
    _, report = curate(faulty, RULE, CurationConfig(checks=strict))
    assert {v.file: v.reason for v in report.dropped} == {
        "blurred.png": "blurred",
        "wide.png": "aspect",
    }
    assert next(v for v in report.dropped if v.reason == "aspect").number == 4


def test_a_persons_word_wins_and_is_never_written_over(faulty, tmp_path, textured):
    textured(0, 256, 256).save(faulty / "copy.png")
    Image.new("RGB", (20, 20), "red").save(faulty / "tiny.png")
    (faulty / "broken.png").write_text("x")
    review = tmp_path / "review.csv"
    rows = ["file,decision,caption", "good.png,drop,", "wide.png,keep,a wide one", "gone.png,keep,"]
    rows += ["copy.png,keep,", "tiny.png,keep,", "broken.png,keep,"]
    review.write_text("\n".join(rows))
    strict = CurationConfig(checks=Checks(aspect=Check(3, "drop")))
    for _ in range(2):
        images, report = curate(faulty, RULE, strict, review=review)
        reasons = {v.file: v.reason for v in report.verdicts}
        assert reasons["good.png"] == "reviewed"
        assert (reasons["wide.png"], reasons["copy.png"], reasons["tiny.png"]) == ("", "", "")
        assert reasons["broken.png"] == "not an image"  # nobody can keep what is no picture
        assert images.find("wide.png").caption == "zkc a wide one"
        assert any(
            "speaks of 1 pictures that are not there: gone.png" in w for w in report.warnings
        )
        assert review.read_text() == "\n".join(rows)


def test_a_second_run_decodes_only_what_is_new(faulty, tmp_path, monkeypatch, textured):
    cache = tmp_path / "cache"
    first = curate(faulty, RULE, CurationConfig(), cache=cache)
    measured = []
    real = measure

    def counted(name, *rest):
        measured.append(name)
        return real(name, *rest)

    monkeypatch.setattr(crew_module, "measure", counted)
    (faulty / "good.png").rename(faulty / "renamed.png")
    textured(9).save(faulty / "new.png")
    curate(faulty, RULE, CurationConfig(), cache=cache)
    assert measured == ["new.png"]
    (faulty / "new.png").unlink()
    (faulty / "renamed.png").rename(faulty / "good.png")
    again = curate(faulty, RULE, CurationConfig(), cache=cache)
    assert again[1].rows() == first[1].rows()
    assert again[0].sha256 == first[0].sha256
    curate(faulty, RULE, CurationConfig(square="crop"), cache=cache)
    assert len(measured) == 5  # another framing gives other pixels


def test_a_damaged_store_costs_time_only(faulty, tmp_path):
    path = tmp_path / "cache" / "measures.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    expected = curate(faulty, RULE, CurationConfig())[1].rows()
    for _ in range(2):
        assert curate(faulty, RULE, CurationConfig(), cache=path.parent)[1].rows() == expected
    with sqlite3.connect(path) as database:
        database.execute("UPDATE measures SET value = x'00'")
    assert curate(faulty, RULE, CurationConfig(), cache=path.parent)[1].rows() == expected


def test_measures_survive_the_store(tmp_path, textured, raw):
    textured(0).save(raw / "a.png")
    measures = measure("a.png", (raw / "a.png").read_bytes(), CurationConfig())
    again = Measures.from_bytes(measures.to_bytes())
    assert again == measures
    assert (again.pixels, again.focus, again.notes) == (measures.pixels, (0.5, 0.5), ())
    store = Store(tmp_path / "m.sqlite")
    store.put([("k", measures)])
    assert store.get("k").framed == measures.framed
    assert store.get("other") is None


def test_two_processes_give_what_one_gives(raw, textured):
    for seed in range(70):
        textured(seed, 24, 24).save(raw / f"{seed:02}.png")
    paths = sorted(raw.iterdir())
    one = list(measure_files(paths, CurationConfig(workers=1), Store(None)))
    two = list(measure_files(paths, CurationConfig(workers=2), Store(None)))
    assert [m.pixels for m in one] == [m.pixels for m in two]
    assert len({m.pixels for m in one}) == 70


def test_transparency_becomes_a_mask(raw, tmp_path):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    image.save(raw / "a.png")
    images, _ = curate(raw, RULE, CurationConfig(alpha="mask"))
    mask = np.asarray(images[0].open_mask())
    assert (mask[:, :32] == 255).all()
    assert (mask[:, 32:] == 0).all()
    assert curate(raw, RULE, CurationConfig())[0][0].open_mask() is None


@pytest.mark.parametrize(("square", "size"), [("focal", (64, 64)), ("buckets", (88, 40))])
def test_the_subject_stays_in_view(raw, square, size):
    image = Image.new("RGB", (400, 180), (120, 120, 120))
    image.paste((255, 0, 0), (330, 60, 390, 120))
    image.save(raw / "a.png")
    images, _ = curate(raw, RULE, CurationConfig(square=square))
    opened = images[0].open()
    assert opened.size == (images[0].width, images[0].height) == size
    red = (np.asarray(opened)[..., 0] > 200) & (np.asarray(opened)[..., 1] < 60)
    assert red.mean() > 0.03


def test_small_folders_count_alike_when_asked(raw, textured):
    for name, count in (("many", 6), ("few", 2), ("one", 1)):
        (raw / name).mkdir()
        for number in range(count):
            textured(10 * len(name) + number + (name == "few") * 100).save(
                raw / name / f"{number}.png"
            )
    images, _ = curate(raw, RULE, CurationConfig(balance=True, most_repeats=4))
    repeats = {p.source.split("/")[0]: p.repeats for p in images}
    assert repeats == {"many": 1, "few": 3, "one": 4}
    assert {p.repeats for p in curate(raw, RULE, CurationConfig())[0]} == {1}


def test_one_background_and_one_pose_are_warned_of(raw, textured):
    for number in range(9):
        image = Image.new("RGB", (256, 256), "white")
        image.paste(textured(number, 80, 80).point(lambda v: v * 3 // 4), (90, 90))
        image.save(raw / f"{number}.png")
    _, report = curate(raw, RULE, CurationConfig(resolution=256))
    assert any(
        "100% of the pictures have the same background, #ffffff" in w for w in report.warnings
    )
    assert any(
        "100% of the pictures show the subject in the same pose" in w for w in report.warnings
    )


class Judge:
    """Sees the mean colour."""

    scale = 100.0

    def images(self, pictures):
        colours = np.array([np.asarray(p, float).mean(axis=(0, 1)) for p in pictures]) + 1
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)


def test_the_judge_finds_who_does_not_belong(raw, textured):
    rng = np.random.default_rng(1)
    for number in range(10):
        noise = rng.integers(0, 60, (64, 64, 3)) + np.array((0, 120 + number, 0))
        Image.fromarray(noise.astype(np.uint8)).save(raw / f"{number}.png")
    red = rng.integers(0, 60, (64, 64, 3)) + np.array((150, 0, 0))
    Image.fromarray(red.astype(np.uint8)).save(raw / "wrong.png")
    config = CurationConfig(checks=Checks(outlier=Check(-3, "drop"), alike=Check(1, "off")))
    screening = screen_folder(raw, config, judge=Judge())
    reasons = {p.verdict.file: p.verdict.reason for p in screening.pictures}
    assert {file for file, reason in reasons.items() if reason} == {"wrong.png"}


class Eye:
    """Sees how much of a picture is covered by something that is neither green nor grey."""

    scale = 100.0

    def __init__(self, blind=False):
        self._blind = blind

    def images(self, pictures):
        found = []
        for picture in pictures:
            pixels = np.asarray(picture, float)
            other = np.abs(pixels - (30, 150, 30)).max(axis=2) > 60
            cover = 0.0 if self._blind else other.mean()
            found.append((1.0, 3 * cover, 0.01 * pixels[:8, :8].mean() / 255))
        vectors = np.array(found)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_marks_are_looked_for_where_the_judge_can_tell_them(raw):
    rng = np.random.default_rng(1)
    for number in range(12):
        noise = rng.integers(0, 60, (64, 64, 3)) + np.array((0, 120, 0))
        image = Image.fromarray(noise.astype(np.uint8))
        if number in (3, 7):
            pen = ImageDraw.Draw(image)
            for line in range(4):
                pen.text((2, 14 * line), "SAMPLE TEXT", "white", ImageFont.load_default(12))
        image.save(raw / f"{number:02}.png")
    config = CurationConfig(
        checks=Checks(outlier=Check(-3, "off"), marked=Check(0.5, "drop"), alike=Check(1, "off")),
        duplicates=DuplicateRules(near=False),
    )
    plain = screen_folder(raw, config)
    found, warnings = judged(plain.pictures, Eye(), config)
    reasons = {p.verdict.file: p.verdict.reason for p in found}
    assert {file for file, reason in reasons.items() if reason} == {"03.png", "07.png"}
    assert {p.verdict.reason for p in found} == {"", "marked"}
    assert not [w for w in warnings if "writing" in w]
    found, warnings = judged(plain.pictures, Eye(blind=True), config)
    assert not any(p.verdict.reason for p in found)
    assert [w.partition(" in these")[0] for w in warnings] == [
        "the judge cannot tell writing",
        "the judge cannot tell a watermark",
    ]


def test_alike_is_the_later_of_two_and_never_like_one_that_was_dropped(raw, textured):
    for number in range(4):
        textured(number).save(raw / f"{number}.png")

    class Same:
        def images(self, pictures):
            return np.tile(np.array([[1.0, 0.0]]), (len(pictures), 1))

    config = CurationConfig(checks=Checks(alike=Check(0.99, "drop")))
    screening = screen_folder(raw, config, judge=Same())
    assert [(p.verdict.reason, p.verdict.twin) for p in screening.pictures] == [
        ("", ""),
        *[("alike", "0.png")] * 3,
    ]
