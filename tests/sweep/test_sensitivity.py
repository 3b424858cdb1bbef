import dataclasses

import pytest

from blockwise_lora.adapters import AdapterSpec, attached_names
from blockwise_lora.sweep.candidates import Space, keeping
from blockwise_lora.sweep.search import Means
from blockwise_lora.sweep.sensitivity import (
    ballast,
    foretold,
    gradient_norms,
    needs,
    pulls_apart,
    shares,
)


def test_gradients_are_of_the_blocks_that_have_layers(base, lesson):
    lora = gradient_norms(base, lesson, batches=2)
    assert list(lora) == ["in0", "in1", "in2", "mid", "out1", "out2", "out3"]
    assert all(value > 0 for value in lora.values())
    locon = dataclasses.replace(lesson, spec=AdapterSpec(method="locon", rank=2))
    assert {"in3", "out0"} <= set(gradient_norms(base, locon, batches=2))
    assert attached_names(base.unet) == ()


def test_a_block_that_blocks_the_way_has_a_smaller_pull(base, lesson):
    """The last block's output is scaled down, so what it adds matters less."""
    before = gradient_norms(base, lesson, batches=2)
    norm = base.unet.conv_norm_out.weight
    kept = norm.detach().clone()
    try:
        norm.data.mul_(0.1)
        after = gradient_norms(base, lesson, batches=2)
    finally:
        norm.data.copy_(kept)
    assert after["out3"] < 0.5 * before["out3"]


FULL_SCORES = Means(0.7, 0.2, 0.0, 0.3)


def test_needs_by_hand():
    without = {
        ("character", "in1"): Means(0.3, 0.3, 0.0, 0.2),  # the pair loses 0.3
        ("style", "in1"): Means(0.8, 0.2, 0.0, 0.3),  # gains 0.1
        ("style", "out3"): Means(0.7, 0.1, 0.0, 0.2),
    }
    found = needs(FULL_SCORES, without)
    assert found == pytest.approx({"in1": 0.4, "out3": -0.1})


def test_ballast_is_what_a_pair_is_better_without():
    without = {
        ("character", "in0"): Means(0.6, 0.3, 0.0, 0.4),  # better at both
        ("character", "in1"): Means(0.7, 0.2, 0.0, 0.31),  # too little to count
        ("style", "in0"): Means(0.1, 0.4, 0.0, 0.4),  # the weaker score falls below 0.2
        ("style", "mid"): Means(0.7, 0.25, 0.0, 0.3),  # as many pictures with both, each nearer
    }
    found = ballast(FULL_SCORES, without, smallest=0.02)
    assert found == {"character": {"in0"}, "style": {"mid"}}


def test_shares_by_hand():
    assert shares({"in0": 3.0, "mid": 0.0, "out3": 4.0}) == {"in0": 0.36, "mid": 0.0, "out3": 0.64}


def test_pulls_are_compared_as_shares():
    apart = pulls_apart(
        {"character": {"mid": 0.75, "out3": 0.25}, "style": {"in0": 0.5, "out3": 0.5}}
    )
    assert apart == {"mid": 0.75, "out3": -0.25, "in0": -0.5}


def test_a_block_regains_as_much_as_it_pulls():
    space = Space(
        {"character": ("in0", "mid", "out3"), "style": ("in0", "out3")},
        {"character": (0, 4, 8), "style": (0, 8)},
    )
    pulled = {
        "character": {"in0": 0.25, "mid": 0.0, "out3": 0.75},
        "style": {"in0": 0.36, "out3": 0.64},
    }
    cut, full = Means(0.2, 0.8, 0.5, 0.3), Means(1.0, 0.4, 0.7, 0.6)

    def told(**kept) -> Means:
        return foretold(cut, full, keeping(space, kept), pulled)

    assert told(character=["in0"]).objectives == pytest.approx((0.6, 0.6, 0.6))  # half way
    assert told(character=["in0"]).combined == pytest.approx(0.6)
    assert told(character=["in0"], style=["out3"]).objectives[0] == pytest.approx(0.2 + 0.8 * 0.4)
    assert told(character=["mid"]).objectives == cut.objectives, "nothing pulls there"
    assert told().objectives == pytest.approx(full.objectives)
    low = space.candidate(
        {"character": {"in0": 4, "mid": 0, "out3": 0}, "style": {"in0": 8, "out3": 8}}
    )
    assert foretold(cut, full, low, pulled).identity == pytest.approx(0.6), "a low rank learns, too"
