import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.captioning.sources.onnx_tagger import OnnxTagger, OnnxTaggerConfig

HEAD = "tag_id,name,category,count\n"
LIST = HEAD + "0,safe,9,9\n1,blue_sky,0,5\n2,o_o,0,5\n3,red_(hero),4,2\n4,someone,1,1\n"
# Columns: rating, blue, green, red, the artist; each the mean of a channel of the padded square.
CHANNELS = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 1, 1]], np.float32)


def write(folder, tags=LIST, batch="n", side=8):
    """A tagger whose probabilities are the mean blue, green and red of a picture over 255."""
    folder.mkdir(exist_ok=True)
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "channels"], ["sum"]),
        helper.make_node("Mul", ["sum", "scale"], ["y"]),
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "channels": CHANNELS,
        "scale": np.array(1 / 255, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, side, side, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    (folder / "selected_tags.csv").write_text(tags, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("batch", ["n", 1])
def test_tags_by_probability(tmp_path, subject, batch):
    folder = write(tmp_path / "tagger", batch=batch)
    source = OnnxTagger.load(OnnxTaggerConfig(folder, threshold=0.35, batch_size=2))
    subjects = [
        subject("a", "#0000ff"),
        subject("b", "#000000"),
        subject("c", "#ff00ff"),
        subject("d", "#e00080"),  # red 0.88, blue 0.50
        subject("e", "#d08000"),  # red 0.82, green 0.50
    ]
    assert source.captions(subjects) == [
        "blue sky",
        None,  # ratings and artists are no captions, however likely
        "blue sky, red (hero)",
        "red (hero), blue sky",
        "o_o",  # a face of signs keeps its underscore; a hero is named from 0.85 on
    ]


def test_pictures_are_padded_with_white(tmp_path, subject):
    source = OnnxTagger.load(OnnxTaggerConfig(write(tmp_path / "tagger")))
    pixels = source._pixels(Image.new("RGB", (16, 8), "red"))
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[4, 4].tolist() == [0, 0, 255]  # blue, green, red


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(ImageSetError, match=r"onnx_tagger\.folder is empty"):
        OnnxTagger.load(OnnxTaggerConfig())
    with pytest.raises(ImageSetError, match=r"model\.onnx: no such file"):
        OnnxTagger.load(OnnxTaggerConfig(str(tmp_path)))
    folder = write(tmp_path / "short", HEAD + "0,a,0,1\n")
    with pytest.raises(ImageSetError, match=r"knows 5 tags and selected_tags.csv 1"):
        OnnxTagger.load(OnnxTaggerConfig(folder))
    folder = write(tmp_path / "no_list", "name\nx\n")
    with pytest.raises(ImageSetError, match="columns name and category"):
        OnnxTagger.load(OnnxTaggerConfig(folder))
    folder = write(tmp_path / "fixed", batch=4)
    with pytest.raises(ImageSetError, match="any or 1"):
        OnnxTagger.load(OnnxTaggerConfig(folder))
    (tmp_path / "short" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ImageSetError, match="no ONNX model"):
        OnnxTagger.load(OnnxTaggerConfig(str(tmp_path / "short")))


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "tagger")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImageSetError, match=r'pip install "blockwise-lora\[onnx\]"'):
        OnnxTagger.load(OnnxTaggerConfig(folder))


def test_mistakes_are_refused_together():
    with pytest.raises(ValueError, match=r"threshold is in \[0, 1\], not 2\nbatch_size"):
        OnnxTaggerConfig(threshold=2, batch_size=0)
