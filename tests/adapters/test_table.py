import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.adapters.parts import Parts
from blockwise_lora.adapters.table import block_table


@pytest.fixture(scope="module")
def parts() -> Parts:
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 16}
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32, 64, 64), attention_head_dim=4, cross_attention_dim=32
        )
        return Parts(unet, (CLIPTextModel(CLIPTextConfig(**config, num_attention_heads=2)),))


def test_rows_add_up_to_the_plan(parts):
    spec = AdapterSpec("all+base", "locon", rank=4)
    rows = block_table(parts, spec)
    plan = Plan.of(parts.blocks, spec)
    assert [row.block for row in rows] == list(parts.blocks.names)
    assert sum(row.layers for row in rows) == len(plan.layers)
    assert {row.block: row.values for row in rows} == plan.parameters
    # A text encoder's layer of width 32 has 4 x (32 + 32) values, of the feed-forward 4 x 96.
    assert rows[0].values == 2 * (4 * 4 * 64 + 2 * 4 * 96)


def test_what_a_mask_leaves_out_and_what_a_method_cannot_fill(parts):
    rows = {row.block: row for row in block_table(parts, AdapterSpec("in3-out1", "lora", rank=4))}
    assert [name for name, row in rows.items() if row.trained] == [
        "IN10",
        "IN11",
        "MID",
        "OUT00",
        "OUT01",
        "OUT02",
        "OUT03",
        "OUT04",
        "OUT05",
    ]
    empty = [name for name, row in rows.items() if row.empty]
    assert empty == ["IN10", "IN11", "OUT00", "OUT01", "OUT02"]
    assert all(rows[name].values == 0 for name in empty)
    assert not rows["BASE"].trained
