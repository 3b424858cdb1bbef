import math

import pytest
import torch

from blockwise_lora.adapters import Dora, LowRank, Orthogonal
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats import Source, bars, summarise
from blockwise_lora.blocks import BlockMap


def test_worked_by_hand():
    ones = LowRank(torch.ones(2, 3), torch.ones(4, 2), 0.5)  # every one of 12 entries is 1
    conv = LowRank(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1).half(), 2.0)  # 9 entries of 2
    adapter = Adapter(
        {"a": ones, "b": ones, "c": conv},
        {"a": "OUT00", "b": "OUT00", "c": "IN02"},
        None,
        {"ss_sd_model_name": "some.ckpt", "blockwise_lora.family": "sd1"},
        "123",
    )
    summary = summarise(Source(adapter, "kohya"))
    assert [(b.block, b.layers, b.ranks) for b in summary.blocks] == [
        ("IN02", 1, (1,)),
        ("OUT00", 2, (2,)),
    ]
    assert [b.norm for b in summary.blocks] == pytest.approx([6.0, math.sqrt(24)])
    assert summary.base == "some.ckpt, the structure of Stable Diffusion 1.x"
    assert (summary.methods, summary.layers, summary.values) == (("LoCon",), 3, 14 + 14 + 10)
    assert (summary.types, summary.scales) == (("float16", "float32"), (0.5, 2.0))
    lines = bars(summary, width=8)
    assert lines[1] == "IN02        1      1     6  ████████"
    assert lines[2] == "OUT00       2      2   4.9  ██████▌"


def test_methods_that_need_the_base(sd_unet, make_adapter):
    """Their norms are told only with its weights, and are then those of the true change."""
    for kind, name in ((Dora, "DoRA"), (Orthogonal, "OFT")):
        adapter = make_adapter(sd_unet, kind, every=9)
        without = summarise(Source(adapter, "peft"))
        assert without.methods == (name,)
        assert {block.norm for block in without.blocks} == {None}
        assert bars(without)[1].rstrip().endswith("-")
        weights = {n: sd_unet.get_submodule(n).weight.detach() for n in adapter.updates}
        found = {b.block: b.norm for b in summarise(Source(adapter, "peft"), weights).blocks}
        homes = BlockMap.of(sd_unet).layers
        for block, norm in found.items():
            square = sum(
                update.delta(weights[n]).double().square().sum().item()
                for n, update in adapter.updates.items()
                if homes[n][0].name == block
            )
            assert norm == pytest.approx(math.sqrt(square), rel=1e-5)


def test_an_adapter_that_does_nothing_has_no_bars():
    zero = LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    summary = summarise(Source(Adapter({"a": zero}, {"a": "MID"}, None, {}, ""), "kohya"))
    assert bars(summary)[1].split() == ["MID", "1", "1", "0"]
    assert summary.base == ""
