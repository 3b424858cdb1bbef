import json

import numpy as np
import torch
from PIL import Image

from blockwise_lora.emoji.corpus import Corpus, Emoji, code_point, render
from blockwise_lora.emoji.sampling import ConceptSampler
from blockwise_lora.emoji.shipped import file_stem, ship_pictures
from blockwise_lora.emoji.splits import load_splits


def test_presentation_selectors_do_not_make_another_code_point():
    assert code_point("2764-fe0f-200d-1f525") == "2764-200D-1F525"


def test_rendering_is_on_white_and_square():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4">'
        '<path fill="#f00" d="M1 1h2v2H1z"/></svg>'
    )
    pixels = render(svg)
    assert pixels.shape == (64, 64, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[32, 32].tolist() == [255, 0, 0]


def test_a_wide_drawing_is_centred_not_stretched():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 4">'
        '<path fill="#00f" d="M0 0h8v4H0z"/></svg>'
    )
    ink = (render(svg) == [0, 0, 255]).all(-1)
    assert ink.sum(0).max() in range(30, 35)
    assert ink.sum(1).max() == 64


def test_skin_tones_share_the_weight_of_one_concept():
    def emoji(code, set_name="noto", group=1):
        return Emoji(code, set_name, "x", (), group, 0)

    tones = [emoji(f"1F590-1F3F{t}") for t in "BCDEF"]
    sampler = ConceptSampler([emoji("1F590"), *tones, emoji("1F697", group=5)])
    weights = sampler.weights
    assert torch.isclose(weights[:6].sum(), weights[6]), "a hand with tones weighs as a car"
    assert torch.isclose(weights[0], torch.tensor(0.7))
    assert sampler.concepts.tolist() == [0, 0, 0, 0, 0, 0, 1]


def synthetic():
    splits = load_splits()
    codes = {c for f in splits.families.values() for c in f.members} | set(splits.style_set)
    rows = [
        Emoji(code, name, f"label {code}", (), 0, 0)
        for name in ("noto", *splits.styles)
        for code in sorted(codes)
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), 8, 8, 3), dtype=np.uint8)
    return Corpus(tuple(rows), pixels), splits


def test_shipping_writes_dev_pairs_only(tmp_path):
    corpus, splits = synthetic()
    ship_pictures(corpus, splits, tmp_path)
    names = {
        p.name for kind in ("characters", "styles", "truth") for p in (tmp_path / kind).iterdir()
    }
    assert "cat" in names and "cat-openmoji" in names and "openmoji" in names
    assert not [n for n in names if "fluent" in n or "monkey" in n or "clock" in n or "woman" in n]


def test_a_true_picture_is_neither_trained_on_nor_of_another_style(tmp_path):
    corpus, splits = synthetic()
    ship_pictures(corpus, splits, tmp_path)
    cat = splits.families["cat"]
    lines = (tmp_path / "truth/cat-openmoji/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [
        f"cat face, {x}" for x in cat.test.values()
    ]
    rows = {(e.set_name, e.code): i for i, e in enumerate(corpus.emojis)}
    first = next(iter(cat.test))
    name = json.loads(lines[0])["file_name"]
    true = np.asarray(Image.open(tmp_path / "truth/cat-openmoji" / name))
    assert (true == corpus.pixels[rows["openmoji", first]]).all()
    trained = {p.name for p in (tmp_path / "characters/cat").glob("*.png")}
    assert len(trained) == len(cat.train) and name not in trained
    caption = (tmp_path / "characters/cat" / sorted(trained)[0]).with_suffix(".txt").read_text()
    assert caption.startswith("cat face, ")


def test_file_names_hold_letters_digits_and_hyphens():
    assert (
        file_stem(Emoji("1F63B", "noto", "man’s shoe: O'Clock!", (), 0, 0)) == "man-s-shoe-O-Clock"
    )
