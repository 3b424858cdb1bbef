from dataclasses import replace

import pytest
import yaml

from blockwise_lora.imagesets import CaptioningConfig, CaptionRule, CurationConfig, curate
from blockwise_lora.imagesets.captioning import ConceptTagRules
from blockwise_lora.imagesets.card import Origin, data_card, is_card
from blockwise_lora.imagesets.imagefolder import in_kohya_folders, write_imagefolder

RULE = CaptionRule("zkc", "cat face")


@pytest.fixture
def curated(raw, textured):
    (raw / "sub").mkdir()
    for seed, name in enumerate(("a", "b", "sub/c", "sub/d")):
        textured(seed).save(raw / f"{name}.png")
        (raw / f"{name}.txt").write_text(f"cat face, {seed}")
    (raw / "broken.png").write_text("x")
    removing = CaptioningConfig(concept_tags=ConceptTagRules(remove=True)).captioner(RULE)
    return curate(raw, removing, CurationConfig())


def test_what_the_card_says(curated):
    images, report = curated
    origin = Origin("character", "Noto Emoji, Google", "Apache-2.0")
    card = data_card(images, report, origin, {"a.png": "CC-BY-4.0", "b.png": "CC|0"})
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["license_name"]) == ("other", "Apache-2.0")
    assert head["size_categories"] == ["n<1K"]
    for line in (
        "# character",
        "| pictures found | 5 |",
        "| dropped | 1 |",
        "| dropped: not an image | 1 |",
        "| kept | 4 |",
        "| kept, 64x64 pixels | 4 |",
        "| with a mask | 0 |",
        "| shown in one pass | 4 |",
        "Source: Noto Emoji, Google.",
        "Licence: Apache-2.0.",
        "| . | 2 |",
        "| sub | 2 |",
        "| CC-BY-4.0 | 1 |",
        "| CC\\|0 | 1 |",
        "| not stated | 2 |",
        "| sidecar | 4 |",
        "Tags that all pictures share, taken out: cat face.",
    ):
        assert line in card.splitlines(), line
    assert f"`{images.sha256}`" in card


@pytest.mark.parametrize("kohya", [False, True])
def test_datasets_finds_the_pictures_by_the_folders_name(curated, tmp_path, monkeypatch, kohya):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    images, report = curated
    images = replace(images, card=data_card(images, report, Origin("x")))
    if kohya:  # as many texts as pictures
        images = in_kohya_folders(images, "zkc cat face", 10)
    write_imagefolder(tmp_path / "set", images)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=cache)
    assert [row["text"] for row in rows] == list(images.captions)
    for row, picture in zip(rows, images, strict=True):
        assert row["image"].tobytes() == picture.open().tobytes()


def test_repeats_count_and_what_nobody_said_is_not_made_up(curated):
    images, report = curated
    images = replace(images, pictures=tuple(replace(p, repeats=3) for p in images))
    card = data_card(images, report, Origin("x"))
    assert "| shown in one pass | 12 |" in card
    assert "Source: not stated." in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "unknown"
    assert "single pictures" not in card


def test_only_our_own_card_is_one(tmp_path, curated):
    (tmp_path / "README.md").write_text("# My notes\n")
    assert not is_card(tmp_path / "README.md")
    (tmp_path / "README.md").write_text(data_card(*curated, Origin("x")))
    assert is_card(tmp_path / "README.md")
    assert not is_card(tmp_path / "nowhere.md")
