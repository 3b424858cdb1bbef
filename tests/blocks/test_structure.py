import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.structure import BlockMap, StructureError

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def on_meta(**config) -> BlockMap:
    with torch.device("meta"):
        return BlockMap.of(UNet2DConditionModel(**config))


@pytest.fixture(scope="module")
def sd15() -> BlockMap:
    return on_meta(**SD15)


@pytest.fixture(scope="module")
def sdxl() -> BlockMap:
    return on_meta(**SDXL)


def numbered(side: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{side}{i:02d}" for i in range(first, last + 1))


def test_sd15_has_the_community_names_within_the_papers_blocks(sd15):
    assert dict(sd15.coarse) == {
        "in0": numbered("IN", 1, 3),
        "in1": numbered("IN", 4, 6),
        "in2": numbered("IN", 7, 9),
        "in3": numbered("IN", 10, 11),
        "mid": ("MID",),
        "out0": numbered("OUT", 0, 2),
        "out1": numbered("OUT", 3, 5),
        "out2": numbered("OUT", 6, 8),
        "out3": numbered("OUT", 9, 11),
    }
    assert list(sd15.coarse) == ["in0", "in1", "in2", "in3", "mid", "out0", "out1", "out2", "out3"]
    assert sd15.names == (*numbered("IN", 1, 11), "MID", *numbered("OUT", 0, 11))
    assert sd15.depth == 4


def test_sdxl_counts_its_own_blocks(sdxl):
    assert dict(sdxl.coarse) == {
        "in0": numbered("IN", 1, 3),
        "in1": numbered("IN", 4, 6),
        "in2": numbered("IN", 7, 8),
        "mid": ("MID",),
        "out0": numbered("OUT", 0, 2),
        "out1": numbered("OUT", 3, 5),
        "out2": numbered("OUT", 6, 8),
    }
    assert sdxl.depth == 3


def test_sub_blocks_are_one_resnet_with_its_attention_or_one_sampler(sd15):
    prefixes = {block.name: block.prefixes for block in sd15.sub_blocks}
    assert prefixes["IN01"] == ("down_blocks.0.resnets.0", "down_blocks.0.attentions.0")
    assert prefixes["IN03"] == ("down_blocks.0.downsamplers",)
    assert prefixes["IN11"] == ("down_blocks.3.resnets.1",)
    assert prefixes["MID"] == ("mid_block",)
    assert prefixes["OUT02"] == ("up_blocks.0.resnets.2", "up_blocks.0.upsamplers")
    assert prefixes["OUT11"] == ("up_blocks.3.resnets.2", "up_blocks.3.attentions.2")


@pytest.mark.parametrize(
    ("config", "attention", "both"), [(SD15, 192, 278), (SD21, 192, 278), (SDXL, 722, 788)]
)
def test_module_counts_are_those_of_kohyas_networks(config, attention, both):
    blocks = on_meta(**config)
    count = {k: sum(map(len, blocks.modules(k).values())) for k in ("attention", "conv")}
    assert count["attention"] == attention
    assert count["attention"] + count["conv"] == both


def test_sd2_has_the_blocks_of_sd1(sd15):
    assert on_meta(**SD21).coarse == sd15.coarse


@pytest.mark.parametrize("config", [SD15, SD21, SDXL])
def test_every_layer_is_in_one_sub_block_or_left_out(config):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    blocks = BlockMap.of(unet)
    listed = [layer.name for block in blocks.sub_blocks for layer in block.layers]
    every = {n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    outside = {n for n in every if n.split(".")[0] in blocks.left_out}
    assert len(listed) == len(set(listed))
    assert set(listed) | outside == every
    assert not set(listed) & outside


def test_left_out_is_what_masks_cannot_reach(sd15, sdxl):
    assert set(sd15.left_out) == {"conv_in", "time_embedding", "conv_norm_out", "conv_out"}
    assert set(sdxl.left_out) == {*sd15.left_out, "add_embedding"}


def test_blocks_without_attention_list_none(sd15):
    attention = sd15.modules("attention")
    without = {name for name, modules in attention.items() if not modules}
    assert without == {"IN03", "IN06", "IN09", "IN10", "IN11", "OUT00", "OUT01", "OUT02"}
    assert sd15.modules("conv")["IN03"] == ("down_blocks.0.downsamplers.0.conv",)
    assert "down_blocks.0.resnets.0.time_emb_proj" in sd15.modules("conv")["IN01"]
    assert "down_blocks.0.attentions.0.proj_in" in attention["IN01"]


def test_the_small_unet_is_built_like_sd15(sd15, tiny_unet):
    small = BlockMap.of(tiny_unet)
    assert small.names == sd15.names
    assert list(small.layers) != []
    # SD 1.5 widens between blocks 1 and 2 where the small one may not: shortcuts differ there.
    different = set(small.layers) ^ set(sd15.layers)
    assert all(name.endswith("conv_shortcut") for name in different)


def test_uneven_layers_are_counted_through(make_unet):
    blocks = BlockMap.of(make_unet(layers_per_block=(1, 2, 1, 1)))
    assert blocks.coarse["in0"] == ("IN01", "IN02")
    assert blocks.coarse["in1"] == ("IN03", "IN04", "IN05")
    assert blocks.coarse["out0"] == ("OUT00", "OUT01")


def test_a_map_survives_wrapping(tiny_unet):
    class Wrapped(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer
            self.extra = nn.Linear(4, 4)

    before = BlockMap.of(tiny_unet)
    resnet = tiny_unet.down_blocks[0].resnets[0]
    resnet.conv1 = Wrapped(resnet.conv1)
    assert BlockMap.of(tiny_unet) == before


CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 16}
CLIP |= {"num_attention_heads": 2}


def text_encoders() -> tuple[nn.Module, nn.Module]:
    with torch.device("meta"):
        config = CLIPTextConfig(**CLIP)
        return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def test_text_encoders_are_one_block_that_comes_first(tiny_unet):
    one, two = text_encoders()
    alone, both = BlockMap.of(tiny_unet, one), BlockMap.of(tiny_unet, one, two)
    assert both.names == ("BASE", *BlockMap.of(tiny_unet).names)
    assert both.denoiser_names == BlockMap.of(tiny_unet).names == both.names[1:]
    assert both.coarse["base"] == ("BASE",)
    assert both.depth == 4
    first, second = alone.sub_blocks[0], both.sub_blocks[0]
    assert (first.prefixes, second.prefixes) == (
        ("text_encoder",),
        ("text_encoder", "text_encoder_2"),
    )
    # Six layers in each of two transformer layers, as in kohya's: no projection, no embeddings.
    assert (len(first.layers), len(second.layers)) == (12, 24)
    assert not any("text_projection" in layer.name for layer in second.layers)
    assert {layer.kind for layer in second.layers} == {"attention"}
    for prefix, encoder in zip(second.prefixes, (one, two), strict=True):
        for layer in second.layers:
            if layer.name.startswith(f"{prefix}."):
                module = encoder.get_submodule(layer.name.removeprefix(f"{prefix}."))
                assert tuple(module.weight.shape) == layer.shape


def test_sd15_text_encoder_has_kohyas_72_layers(tiny_unet):
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(num_hidden_layers=12))
    assert len(BlockMap.of(tiny_unet, encoder).sub_blocks[0].layers) == 72


def flux() -> BlockMap:
    with torch.device("meta"):
        return BlockMap.of(FluxTransformer2DModel(**FLUX))


FLUX = {"num_layers": 2, "num_single_layers": 3, "num_attention_heads": 2}
FLUX |= {"attention_head_dim": 16, "joint_attention_dim": 24, "pooled_projection_dim": 8}
FLUX |= {"axes_dims_rope": (4, 6, 6)}


def test_flux_has_double_and_single_blocks():
    blocks = flux()
    assert dict(blocks.coarse) == {"double": ("D00", "D01"), "single": ("S00", "S01", "S02")}
    assert blocks.sub_blocks[0].prefixes == ("transformer_blocks.0",)
    assert blocks.sub_blocks[4].prefixes == ("single_transformer_blocks.2",)
    assert blocks.depth == 0
    assert {"x_embedder", "context_embedder", "proj_out"} <= set(blocks.left_out)
    attention, rest = blocks.modules("attention"), blocks.modules("conv")
    # What diffusers' own scripts adapt: q, k, v, out for picture and text, and both feed-forwards.
    assert len(attention["D00"]) == 12
    assert [name.split(".", 2)[2] for name in attention["S01"]] == [
        "proj_mlp",
        "proj_out",
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
    ]
    assert rest["D01"] == (
        "transformer_blocks.1.norm1.linear",
        "transformer_blocks.1.norm1_context.linear",
    )


def test_masks_work_on_transformers_as_on_unets():
    blocks = flux()
    assert Mask.parse("D01-S00").selected(blocks) == ("D01", "S00")
    assert Mask.parse("all+single:0+s02:4").ranks(blocks, 8) == {
        "D00": 8,
        "D01": 8,
        "S00": 0,
        "S01": 0,
        "S02": 4,
    }
    with pytest.raises(MaskError, match="U-Nets of 3 or 4 in-blocks, and this is a transformer"):
        Mask.parse("style").ranks(blocks, 8)
    with pytest.raises(MaskError, match="no block in0"):
        Mask.parse("in0").ranks(blocks, 8)


def test_sd3_has_joint_blocks():
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            num_layers=3, num_attention_heads=2, attention_head_dim=16, dual_attention_layers=(0,)
        )
    blocks = BlockMap.of(model)
    assert dict(blocks.coarse) == {"double": ("D00", "D01", "D02")}
    assert "transformer_blocks.0.attn2.to_q" in blocks.modules("attention")["D00"]
    listed = {layer.name for block in blocks.sub_blocks for layer in block.layers}
    every = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert every - listed == {n for n in every if n.split(".")[0] in blocks.left_out}


def test_runs_are_values_in_the_words_of_masks(sd15):
    values = {"IN01": 0.5, "IN02": 0.5, "IN03": 0.5, "IN04": 0.5, "IN06": 0.5, "MID": 0.0}
    assert sd15.runs(values) == [("in0-IN04", 0.5), ("IN06", 0.5), ("mid", 0.0)]
    assert sd15.runs(dict.fromkeys(sd15.names, 1.0)) == [("all", 1.0)]


def test_other_models_are_refused_by_name():
    with pytest.raises(StructureError, match="Linear has no down_blocks"):
        BlockMap.of(nn.Linear(2, 2))


def test_unknown_kinds_are_refused(sd15):
    with pytest.raises(ValueError, match="attention, conv"):
        sd15.modules("linear")
