import pytest

from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.report.sweep.masks import DrawnMask


@pytest.fixture(scope="module")
def model(loaded_tiny_base) -> BlockMap:
    return BlockMap.of(loaded_tiny_base.unet)


def drawn(mask: str, model: BlockMap) -> DrawnMask:
    return DrawnMask.of(mask, model, tuple(model.coarse))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("all", "all blocks"),
        ("in0-out3", "all blocks"),
        ("all+mid:0", "all blocks but mid"),
        ("all+in0:0+out3:0", "all blocks but in0 and out3"),
        ("out3", "out3 alone"),
        ("style", "out2 and out3"),
        ("in0-out0", "in0 to out0"),
        ("in0-in2+mid+out3", "in0 to in2, mid and out3"),
        ("in0+out2-out3", "in0, out2 and out3"),
        ("all+out3:4", None),
        ("OUT03", None),
    ],
)
def test_masks_in_words(mask, words, model):
    assert drawn(mask, model).words == words


def test_squares_are_filled_where_something_is_trained(model):
    shares = dict(drawn("in0+OUT03+out3:4", model).shares)
    assert shares["in0"] == "all" and shares["out1"] == shares["out3"] == "part"
    assert list(shares.values()).count("none") == 6
    svg = drawn("in0+OUT03", model).small("character")
    assert svg.count("<rect") == 9 and svg.count('class="all"') == 1
    assert "<title>in0, out1</title>" in svg
