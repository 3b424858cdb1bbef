import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.sweep.candidates import (
    Candidate,
    Space,
    alone,
    everything,
    keeping,
    mask_of,
    shared_out,
    skips,
    without,
)

NINE = ("in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3")


@pytest.fixture(scope="module")
def blocks(loaded_tiny_base) -> BlockMap:
    return BlockMap.of(loaded_tiny_base.unet)


@given(st.lists(st.sampled_from([0, 4, 8]), min_size=9, max_size=9).filter(any))
def test_a_mask_says_exactly_the_ranks(blocks, ranks):
    """Also where no block has the adapter's own rank, 8."""
    by_block = dict(zip(NINE, ranks, strict=True))
    told = Mask.parse(mask_of(by_block, 8)).ranks(blocks, 8)
    for coarse, subs in blocks.coarse.items():
        assert {told[sub] for sub in subs} == {by_block[coarse]}


def test_masks_are_short():
    assert mask_of(dict.fromkeys(NINE, 8), 8) == "all"
    assert mask_of(dict.fromkeys(NINE, 4), 8) == "in0-out3:4"
    assert mask_of(dict.fromkeys(NINE, 0) | {"mid": 8, "out2": 8, "out3": 8}, 8) == "mid+out2-out3"
    assert mask_of({"in0": 8, "in1": 4, "in2": 4}, 8) == "in0+in1-in2:4"
    assert mask_of({"in2": 8, "mid": 8, "out1": 0}, 8) == "in2-mid", "in3 has no layers here"
    with pytest.raises(ValueError, match="no block"):
        mask_of({"in0": 0}, 8)


def test_the_space_has_only_blocks_with_layers(blocks):
    specs = {"character": AdapterSpec(rank=8), "style": AdapterSpec(method="locon", rank=4)}
    space = Space.of(blocks, specs, between=(2, 4))
    assert "in3" not in space.blocks["character"] and space.blocks["style"] == NINE
    assert space.ranks == {"character": (0, 2, 4, 8), "style": (0, 2, 4)}
    assert str(everything(space).pair) == "all / all"


def test_blocks_go_to_the_adapter_that_needs_them(blocks):
    specs = dict.fromkeys(("character", "style"), AdapterSpec(method="locon", rank=8))
    space = Space.of(blocks, specs)
    needs = {"in1": 0.4, "mid": 0.1, "out3": -0.5, "out2": -0.1}
    pair = shared_out(space, needs).pair
    assert (pair.character, pair.style) == ("in1+mid", "out2-out3")
    # Nobody is left without a block: the style gets the one that it misses least less.
    pair = shared_out(space, dict.fromkeys(NINE, 1.0) | {"out3": 0.2}).pair
    assert (pair.character, pair.style) == ("all", "out3")


def test_blocks_are_left_out_of_one_adapter(blocks):
    specs = dict.fromkeys(("character", "style"), AdapterSpec(method="locon", rank=8))
    space = Space.of(blocks, specs)
    assert str(without(space, {"character": {"in0", "mid"}}).pair) == "in1-in3+out0-out3 / all"
    single = skips(space)
    assert len(single) == 18
    assert str(single["style", "out3"].pair) == "all / in0-out2"
    one = Space({"character": ("mid",), "style": ("mid", "out3")}, space.ranks)
    assert str(alone(space)["character", "mid"].pair) == "mid / all"
    assert len(alone(space)) == 18
    assert keeping(space, {"style": ("out2", "out3")}) == without(space, {"style": NINE[:-2]})
    assert list(skips(one)) == [("style", "mid"), ("style", "out3")], "nobody is left with nothing"


def test_equal_candidates_are_one():
    full = {"character": 8, "style": 8}
    a, b = (Candidate({"in0": 8}, {"mid": 8}, full) for _ in range(2))
    assert len({a, b}) == 1 and a.trains_both
    assert not Candidate({"in0": 0}, {"mid": 8}, full).trains_both
