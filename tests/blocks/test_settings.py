import pytest

from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.settings import checked, per_block
from blockwise_lora.blocks.structure import BlockMap


@pytest.fixture
def blocks(tiny_unet) -> BlockMap:
    return BlockMap.of(tiny_unet)


def test_later_entries_win_and_blocks_nobody_names_are_left_out(blocks):
    found = per_block({"in3-out0": 4, "OUT00": 2.5, "mid": 0, "out0+in0:0": 1}, blocks)
    assert found == {
        "IN10": 4.0,
        "IN11": 4.0,
        "MID": 0.0,
        "OUT00": 1.0,
        "OUT01": 1.0,
        "OUT02": 1.0,
    }
    assert list(found) == [name for name in blocks.names if name in found]


def test_groups_and_presets_are_names_too(blocks):
    found = per_block({"all": 1, "STYLE": 0.5}, blocks)
    assert set(found) == set(blocks.names)
    assert {name for name, value in found.items() if value == 0.5} == {
        f"OUT{i:02d}" for i in range(6, 12)
    }


def test_names_become_canonical_and_keep_their_order():
    found = checked({"ALL": 8, "Out1-OUT2": 4, "in01": 1})
    assert list(found.items()) == [("all", 8.0), ("out1-out2", 4.0), ("IN01", 1.0)]


def test_another_spelling_of_a_name_counts_where_it_stands(blocks):
    settings = {"out1": 1, "all": 3, "OUT1": 2}
    assert list(checked(settings).items()) == [("all", 3.0), ("out1", 2.0)]
    found = per_block(settings, blocks)
    assert (found["OUT03"], found["OUT06"]) == (2.0, 3.0)


def test_every_mistake_is_named():
    with pytest.raises(MaskError) as caught:
        checked({"out1:4": 1, "ot1": 1, "mid": "x", "in0": float("nan"), "in1": True, "in2": 1})
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "'out1:4' has a rank (out1:4)" in lines[0]
    assert "did you mean 'out1'" in lines[1]
    assert [line.split(":")[0] for line in lines[2:]] == ["mid", "in0", "in1"]


def test_signs():
    assert checked({"all": -0.5}) == {"all": -0.5}
    assert checked({"all": 0}, "not negative") == {"all": 0.0}
    with pytest.raises(MaskError, match="all: -1 is not 0 or more"):
        checked({"all": -1}, "not negative")
    with pytest.raises(MaskError, match="all: 0 is not positive"):
        checked({"all": 0}, "positive")


def test_blocks_that_the_model_lacks(blocks):
    with pytest.raises(MaskError, match="no block out9"):
        per_block({"out9": 1}, blocks)
