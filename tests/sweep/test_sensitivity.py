import dataclasses

import pytest

from blockwise_lora.adapters import AdapterSpec, attached_names
from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.sweep.outcome import row_of
from blockwise_lora.sweep.sensitivity import gradient_norms, needs, pulls_apart
from blockwise_lora.sweep.studies import Pair


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


def test_needs_by_hand():
    def of(identity, style):
        return {s: Interval(v, v, v, 4) for s, v in (("identity", identity), ("style", style))}

    effects = {
        row_of(Pair("all+in1:0", "all"), "ablated"): of(-0.4, +0.1),  # the pair loses 0.3
        row_of(Pair("all", "all+in1:0"), "ablated"): of(+0.1, 0.0),  # gains 0.1
        row_of(Pair("all", "all+out3:0"), "ablated"): of(0.0, float("nan")),
    }
    found = needs(effects, ("in1", "out3"))
    assert found["in1"] == pytest.approx(0.4) and found["out3"] == 0


def test_pulls_are_compared_as_shares():
    """One lesson pulls ten times as hard everywhere; only where it pulls counts."""
    apart = pulls_apart(
        {"character": {"mid": 30.0, "out3": 10.0}, "style": {"in0": 2.0, "out3": 2.0}}
    )
    assert apart == {"mid": 0.75, "out3": -0.25, "in0": -0.5}
