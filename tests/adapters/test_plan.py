import pytest
import torch
from diffusers import UNet2DConditionModel

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.blocks import BlockMap, MaskError

# Parameters of SD 1.5 at rank 16 by coarse block, for attention LoRA and for LoCon.
SD15 = {
    "in0": (376_832, 684_032),
    "in1": (704_512, 1_247_232),
    "in2": (1_359_872, 2_404_352),
    "in3": (0, 901_120),
    "mid": (679_936, 1_581_056),
    "out0": (0, 2_293_760),
    "out1": (2_039_808, 4_231_168),
    "out2": (1_056_768, 2_285_568),
    "out3": (565_248, 1_184_768),
}


@pytest.fixture(scope="module")
def sd15() -> BlockMap:
    with torch.device("meta"):
        return BlockMap.of(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8))


@pytest.mark.parametrize(("method", "column", "modules"), [("lora", 0, 192), ("locon", 1, 278)])
def test_sd15_parameter_counts(sd15, method, column, modules):
    plan = Plan.of(sd15, AdapterSpec(method=method, rank=16))
    counted = {
        coarse: sum(plan.parameters.get(name, 0) for name in members)
        for coarse, members in sd15.coarse.items()
    }
    assert counted == {coarse: row[column] for coarse, row in SD15.items()}
    assert len(plan.layers) == modules
    assert sum(counted.values()) == (6_782_976, 16_813_056)[column]


def test_attention_lora_reports_blocks_without_attention(sd15):
    plan = Plan.of(sd15, AdapterSpec("in3-out1"))
    assert plan.empty_blocks == ("IN10", "IN11", "OUT00", "OUT01", "OUT02")
    assert set(plan.parameters) == {"MID", "OUT03", "OUT04", "OUT05"}
    assert Plan.of(sd15, AdapterSpec("in3-out1", "locon")).empty_blocks == ()


def test_a_mask_of_only_such_blocks_is_refused_with_the_reason(sd15):
    with pytest.raises(MaskError, match=r"blocks without attention \(IN10, IN11, OUT00.*locon"):
        Plan.of(sd15, AdapterSpec("in3+out0"))


def test_ranks_of_mask_method_and_convolution(sd15):
    plan = Plan.of(sd15, AdapterSpec("in0-in1+in1:16", "locon", rank=8, conv_rank=4))
    ranks = plan.ranks
    assert ranks["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == 8
    assert ranks["down_blocks.0.attentions.0.proj_in"] == 8  # a 1x1 convolution
    assert ranks["down_blocks.0.resnets.0.time_emb_proj"] == 8
    assert ranks["down_blocks.0.resnets.0.conv1"] == 4
    assert ranks["down_blocks.0.downsamplers.0.conv"] == 4
    assert ranks["down_blocks.1.resnets.0.conv_shortcut"] == 16
    assert ranks["down_blocks.1.resnets.0.conv1"] == 16  # what a mask names is for all layers
    assert not any(name.startswith(("mid", "up")) for name in ranks)


def test_a_rank_in_the_mask_leaves_the_scale_alone(sd15):
    spec = AdapterSpec("in0+in1:32", "locon", rank=8, alpha=4, conv_rank=4, conv_alpha=1)
    for layer in Plan.of(sd15, spec).layers:
        spatial = layer.layer.shape[2:] == (3, 3)
        assert layer.scale == (0.25 if spatial else 0.5)


def test_sdxl_attention_by_block():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
        )
    blocks = BlockMap.of(unet)
    plan = Plan.of(blocks, AdapterSpec(rank=16))
    millions = [
        round(sum(plan.parameters.get(name, 0) for name in members) / 1e6, 2)
        for members in blocks.coarse.values()
    ]
    assert millions == [0, 1.49, 12.94, 6.47, 19.42, 2.24, 0]
