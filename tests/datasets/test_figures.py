import base64
import io

import pytest
from kedro.io import DatasetError
from matplotlib.figure import Figure
from PIL import Image

from blockwise_lora.datasets.figures import FiguresDataset


def figure() -> Figure:
    drawn = Figure(figsize=(2, 1))
    drawn.add_subplot().set_title("which blocks")
    return drawn


def test_every_figure_is_there_as_png_and_as_svg_with_text(tmp_path):
    dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
    dataset.save({"one": figure(), "two": figure()})
    assert set(dataset.load()) == {"one", "two"}
    assert Image.open(dataset.load()["one"]).size == (300, 150)
    assert "which blocks" in (tmp_path / "figures" / "two.svg").read_text(encoding="utf-8")


def test_old_figures_go(tmp_path):
    dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
    dataset.save({"one": figure()})
    dataset.save({"two": figure()})
    assert set(dataset.load()) == {"two"}


def test_the_preview_is_a_picture(tmp_path):
    dataset = FiguresDataset(filepath=str(tmp_path / "figures"))
    dataset.save({"one": figure()})
    assert Image.open(io.BytesIO(base64.b64decode(dataset.preview()))).size == (300, 150)


def test_without_figures_it_says_so(tmp_path):
    with pytest.raises(DatasetError, match="no figures"):
        FiguresDataset(filepath=str(tmp_path)).load()


@pytest.mark.parametrize(("cover", "width"), [("wide", 450), ("", 300), ("not drawn", 300)])
def test_the_cover_is_previewed_or_else_the_first(tmp_path, cover, width):
    dataset = FiguresDataset(filepath=str(tmp_path / "figures"), cover=cover)
    dataset.save({"wide": Figure(figsize=(3, 1)), "one": figure()})
    assert Image.open(io.BytesIO(base64.b64decode(dataset.preview()))).size == (width, 150)
