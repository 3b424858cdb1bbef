"""The tables as they lie on disk, where people open them."""

import codecs
from pathlib import Path

import pytest
import yaml
from kedro.io import AbstractDataset
from PIL import Image

from blockwise_lora.imagesets.review import ReviewRow, read_review
from blockwise_lora.pipelines.curation import nodes

ROOT = Path(__file__).parents[3]
NAMES = ("'=b.png", "-c.png", "=a.png", "x.png", "ä.png")


@pytest.fixture
def tables(tmp_path):
    """The datasets of the shipped catalog, with their files in a folder of the test's own."""
    entries = yaml.safe_load((ROOT / "conf" / "base" / "catalog_curation.yml").read_text("utf-8"))
    return {
        name: AbstractDataset.from_config(
            name, entries[f"{{concept}}.{name}"] | {"filepath": str(tmp_path / f"{name}.csv")}
        )
        for name in ("caption_table", "curation_table")
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cat").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (64, 64), (50 * number, 0, 50)).save(tmp_path / "cat" / name)
        (tmp_path / "cat" / name).with_suffix(".txt").write_text(f"=cat {number}")
    return tmp_path / "cat"


def curate(folder, tables, review=None):
    """One run's tables."""
    concept = {"trigger": "zkc", "class_word": "cat", "pictures": str(folder), "review": review}
    screened = nodes.screen_pictures(concept, {}, {})
    base = {"source": str(ROOT / "data" / "06_models" / "base")}
    _, report = nodes.caption_pictures(screened, screened, concept, {}, {}, base, "cpu")
    tables["caption_table"].save(nodes.tabulate_captions(report))
    tables["curation_table"].save(nodes.tabulate(report))


def test_a_persons_word_stays_through_copies_of_the_table(folder, tables, tmp_path):
    curate(folder, tables)
    table, review = tmp_path / "caption_table.csv", tmp_path / "review.csv"
    assert read_review(table).rows == {name: ReviewRow() for name in NAMES}
    # As a spreadsheet does it: one cell with the apostrophe, one without.
    text = table.read_text("utf-8-sig")
    text = text.replace("'=a.png,,,", "=a.png,drop,,").replace("\n''=b.png,,,", "\n''=b.png,keep,,")
    text = text.replace("x.png,,,", "x.png,,'=mine,").replace("ä.png,,,", "ä.png,drop,'@gone,")
    review.write_text(text + "moved.png,drop,,,,,,\n", "utf-8")
    said = {
        "'=b.png": ReviewRow("keep"),
        "-c.png": ReviewRow(),
        "=a.png": ReviewRow("drop"),
        "moved.png": ReviewRow("drop"),
        "x.png": ReviewRow("", "=mine"),
        "ä.png": ReviewRow("drop", "@gone"),
    }
    assert read_review(review).rows == said
    for _ in range(2):
        curate(folder, tables, str(review))
        review.write_bytes(table.read_bytes())  # the documented copy
        assert read_review(review).rows == said
    captions = tables["caption_table"].load().set_index("file")["after"]
    assert captions["x.png"] == "zkc =mine"
    lines = table.read_text("utf-8-sig").splitlines()
    assert [line.rpartition(",")[2].isdecimal() for line in lines[1:]] == [
        *(True, True, False, False, True, False)  # no 5.0, and none for what was dropped
    ]


def test_spreadsheets_can_tell_the_encoding_and_run_nothing(folder, tables, tmp_path):
    curate(folder, tables)
    for name, dataset in tables.items():
        data = (tmp_path / f"{name}.csv").read_bytes()
        assert data.startswith(codecs.BOM_UTF8)
        assert b"\r" not in data.replace(b"\r\n", b"")
        loaded = dataset.load()
        assert loaded.columns[0] == "file"
        assert "ä.png" in set(loaded["file"])
        texts = loaded.select_dtypes(exclude="number").fillna("").astype(str)
        assert not texts.map(lambda cell: cell.startswith(tuple("=+-@"))).any(axis=None)
        assert dataset.preview()["columns"][0] == "file"  # what kedro-viz shows
