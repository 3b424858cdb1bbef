from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.captioning.sources.zero_shot import (
    ZeroShot,
    ZeroShotConfig,
    read_tags,
)

ROOT = Path(__file__).parents[4]
COLOURS = ("red", "green", "blue")


class Eye:
    """Sees the mean colour of a picture, and of a text the colour that it names."""

    scale = 10.0

    def __init__(self):
        self.read = []
        self.largest = 0

    def images(self, pictures):
        self.largest = max(self.largest, len(pictures))
        rows = np.array([np.asarray(p, float).mean((0, 1)) for p in pictures])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, texts):
        self.read += texts
        rows = np.array([[float(name in text) for name in COLOURS] for text in texts])
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def test_the_surest_tag_of_each_group(subject):
    eye = Eye()
    config = ZeroShotConfig(prompt="a {tag} thing")
    source = ZeroShot(eye, (("red", "green", "blue"), ("grey", "plain")), config)
    subjects = [subject(str(i), colour) for i, colour in enumerate(("red", "blue", "white"))]
    # White is equally near to all three colours, and no group but the second (undecided: 0.5
    # each) has a share of one half.
    assert source.captions(subjects) == ["red, grey, plain", "blue, grey, plain", "grey, plain"]
    assert eye.read[0] == "a red thing"
    unsure = ZeroShot(eye, (("red", "green", "blue"),), config)
    assert unsure.captions(subjects) == ["red", "blue", None]


def test_shares_are_a_softmax_over_the_group(subject):
    half = Image.new("RGB", (64, 64), (100, 50, 0))
    v = np.array([100, 50, 0]) / np.hypot(100, 50)
    share = 1 / (1 + np.exp(10 * (v[1] - v[0])))
    picture = replace(subject("a"), open=lambda: half)
    for confidence, tags in ((share - 1e-6, ["red"]), (share + 1e-6, [None])):
        config = ZeroShotConfig(confidence=confidence)
        assert ZeroShot(Eye(), (("red", "green"),), config).captions([picture]) == tags


def test_pictures_are_opened_a_few_at_a_time(subject):
    eye = Eye()
    source = ZeroShot(eye, (COLOURS,), ZeroShotConfig())
    assert source.captions([subject(str(i)) for i in range(70)]) == ["red"] * 70
    assert eye.largest <= 32
    assert eye.read == list(COLOURS)  # once, not once a batch


def test_the_shipped_judge_knows_colours(subject):
    from blockwise_lora.judges.clip import load_clip

    judge = load_clip(ROOT / "data" / "06_models" / "judges" / "clip")
    groups = (("red", "green", "blue", "yellow", "purple", "black"),)
    source = ZeroShot(judge, groups, ZeroShotConfig())
    hearts = [_heart(subject, name) for name in ("blue", "purple", "yellow", "black", "red")]
    assert source.captions(hearts) == ["blue", "purple", "yellow", "black", "red"]


def _heart(subject, colour):
    file = ROOT / "data" / "01_raw" / "characters" / "heart" / f"{colour}-heart.png"
    return replace(subject(colour), open=lambda: Image.open(file).convert("RGB"))


def test_a_list_of_tags(tmp_path):
    file = tmp_path / "tags.txt"
    file.write_text("\ufeff# colours\nred\nblue  # cold\n\n\n dog  house\ncat\n", "utf-8")
    assert read_tags(file) == (("red", "blue"), ("dog house", "cat"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no tags in it"),
        ("red\n", "'red' is alone in its group"),
        ("red\na, b\n", "line 2: 'a, b' has a comma"),
        ("blue eyes\nred\n\nBlue_Eyes\nx", "line 4: 'Blue_Eyes' is there already, line 1"),
    ],
)
def test_lists_that_cannot_be_meant(tmp_path, text, match):
    (tmp_path / "tags.txt").write_text(text)
    with pytest.raises(ImageSetError, match=match):
        read_tags(tmp_path / "tags.txt")


def test_no_list(tmp_path):
    with pytest.raises(ImageSetError, match=r"nowhere.txt.*captioning.zero_shot.tags"):
        read_tags(tmp_path / "nowhere.txt")
    (tmp_path / "tags.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ImageSetError, match="not UTF-8"):
        read_tags(tmp_path / "tags.txt")


def test_mistakes_are_refused_together():
    with pytest.raises(ValueError, match=r"has no \{tag\}\nconfidence"):
        ZeroShotConfig(prompt="a photo", confidence=0)
    with pytest.raises(ValueError, match=r"prompt has \{tags\}"):
        ZeroShotConfig(prompt="{tags}")
