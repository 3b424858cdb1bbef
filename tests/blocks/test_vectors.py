import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.vectors import LAYOUTS, Vector

# Written out as the extension's page has them; kohya's as its scripts count.
SD_LORA = "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10"
SD_LORA += " OUT11"
IN12 = " ".join(f"IN{i:02d}" for i in range(12))
OUT12 = " ".join(f"OUT{i:02d}" for i in range(12))
XL = (
    "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 "
    "OUT06 OUT07 OUT08"
)
PUBLISHED = {
    12: "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: SD_LORA,
    20: XL,
    25: f"{IN12} MID {OUT12}",
    26: f"BASE {IN12} MID {OUT12}",
}


@pytest.mark.parametrize(("length", "names"), PUBLISHED.items())
def test_positions_are_the_published_ones(length, names):
    ours = LAYOUTS[length].names
    theirs = tuple("" if name == "IN00" else name for name in names.split())
    assert ours == theirs
    assert len(ours) == length


def test_positions_of_flux_and_of_kohyas_sdxl():
    flux = LAYOUTS[61].names
    assert (flux[:4], flux[21:23], flux[-2:]) == (
        ("BASE", "BASE", "", "D00"),
        ("D18", "S00"),
        ("S37", ""),
    )
    kohya = LAYOUTS[23].names
    assert (kohya[0], kohya[1], kohya[2], kohya[9]) == ("", "", "IN01", "IN08")
    assert kohya[10:13] == ("MID", "MID", "MID")
    assert (kohya[13], kohya[21], kohya[22]) == ("OUT00", "OUT08", "")
    assert all(len(layout.names) == length for length, layout in LAYOUTS.items())


SDXL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
SMALL = {"attention_head_dim": 8, "cross_attention_dim": 16}


@pytest.mark.parametrize(("length", "config"), [(26, {}), (20, SDXL), (17, {}), (12, SDXL)])
def test_families_are_those_of_the_models_themselves(length, config):
    with torch.device("meta"):
        model = UNet2DConditionModel(**(SMALL | config))
    real, family = BlockMap.of(model, nn.ModuleDict()), LAYOUTS[length].family
    assert family.names == real.names
    assert family.coarse == real.coarse
    if length in (12, 17):  # the short lists name the blocks that have attention, and no others
        attention = {name for name, modules in real.modules("attention").items() if modules}
        assert set(LAYOUTS[length].names) - {"BASE"} == attention


def test_the_flux_family_is_the_models():
    tiny = {"num_attention_heads": 1, "attention_head_dim": 8, "axes_dims_rope": (2, 2, 4)}
    tiny |= {"joint_attention_dim": 8, "pooled_projection_dim": 8}
    with torch.device("meta"):
        blocks = BlockMap.of(FluxTransformer2DModel(**tiny), nn.ModuleDict())
    assert LAYOUTS[61].family.names == blocks.names
    assert LAYOUTS[61].family.coarse == blocks.coarse


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (",".join("1" * 26), "sd+all+base"),
        (",".join("1" * 25), "sd+all"),
        (",".join("1" * 23), "sdxl+all"),
        (",".join("1" * 61), "flux+all+base"),
        ("0" + ",1" * 19, "sdxl+all"),
        ("0,0,0,0,0,0,1,0,0,0,0,0", "sdxl+OUT00"),
        ("1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0", "sd+IN01-IN02+IN04+base"),
        ("0 0 0 0 0 0 0 0 1 1 1 1 1 1 0 0 0", "sd+out1-out2"),
        ("[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]", "sd+mid"),
        ("0.0;0;0;0;0;0;0;0;0;0;0;0;0;0;0;0;1.0", "sd+OUT11"),
    ],
)
def test_a_list_is_a_spelling_of_a_mask(numbers, sentence):
    assert str(Mask.parse(numbers)) == sentence
    assert Mask.parse(numbers) == Mask.parse(sentence)


def test_a_list_for_one_kind_of_model_is_refused_by_another(tiny_unet):
    """IN04 and OUT00 are in both, and other layers in each: nothing else would notice."""
    sd, xl = BlockMap.of(tiny_unet), LAYOUTS[23].family
    for length, right, wrong in ((25, sd, xl), (23, xl, sd)):
        mask = Mask.parse(str(Vector.of({"IN04": 1, "OUT00": 1}, length)))
        assert mask.selected(right) == ("IN04", "OUT00")
        assert Mask.parse(str(mask)) == mask
        with pytest.raises(MaskError, match="the same names mean other layers"):
            mask.ranks(wrong, 8)


def test_any_mask_may_be_held_to_a_kind_of_model(tiny_unet):
    blocks = BlockMap.of(tiny_unet)
    assert Mask.parse("SD+mid:4").ranks(blocks, 8) == Mask.parse("mid:4").ranks(blocks, 8)
    with pytest.raises(MaskError, match="for sdxl, with sub-blocks IN01 to OUT08, and this model"):
        Mask.parse("mid+sdxl").ranks(blocks, 8)
    with pytest.raises(MaskError, match="trains nothing"):
        Mask.parse("sd").ranks(blocks, 8)
    for text, message in (
        ("sdxl:4", "a kind of model, no block: it stands alone"),
        ("sd-mid", "a kind of model, no block"),
        ("in0-sd", "'sd' cannot end a range"),
        ("NOT sd", "a kind of model, which nothing skips"),
    ):
        with pytest.raises(MaskError, match=message):
            Mask.parse(text)


@pytest.mark.parametrize("length", LAYOUTS)
@given(data=st.data())
def test_lists_and_masks_round_trip(length, data):
    layout = LAYOUTS[length]
    ones = data.draw(st.sets(st.sampled_from([n for n in layout.names if n]), min_size=1))
    vector = Vector.of(dict.fromkeys(ones, 1), length)
    mask = Mask.parse(str(vector))
    assert set(mask.selected(layout.family)) == ones
    assert Vector.of(mask.ranks(layout.family, 1), length) == vector


@pytest.mark.parametrize("numbers", ["1,1,0,0,1", "1 1 0", "1;1", "1,1,0,", ",".join("1" * 16)])
def test_a_miscounted_list_names_the_lengths(numbers):
    count = numbers.strip(",").replace(";", ",").replace(" ", ",").count(",") + 1
    with pytest.raises(MaskError) as caught:
        Mask.parse(numbers)
    message = str(caught.value)
    assert f"a list of {count} numbers is no list of blocks" in message
    assert all(f"{length} (" in message for length in (12, 17, 20, 23, 25, 26, 61))


def test_strengths_and_ranks_are_refused_with_where_they_belong():
    with pytest.raises(MaskError, match=r"number 3 of the list is 0\.5.*combination\.strengths"):
        Mask.parse("1,1,0.5" + ",1" * 14)
    with pytest.raises(MaskError, match=r"number 1 of the list is 16.*all\+out1:16"):
        Mask.parse("16" + ",0" * 24)


def test_a_list_of_zeros_trains_nothing():
    with pytest.raises(MaskError, match="nothing would be trained"):
        Mask.parse(",".join("0" * 17))


def test_positions_of_one_block_must_agree():
    numbers = ["1"] * 61
    numbers[1] = "0"
    with pytest.raises(MaskError, match=r"BASE has several positions in a list of 61"):
        Mask.parse(",".join(numbers))


def test_values_by_block_keep_fractions_and_signs():
    vector = Vector.parse("1,-.5,+0.25" + ",0" * 14)
    assert {k: v for k, v in vector.by_block.items() if v} == {
        "BASE": 1,
        "IN01": -0.5,
        "IN02": 0.25,
    }
    assert str(vector) == "1,-0.5,0.25" + ",0" * 14


def test_a_length_that_is_not_in_use():
    with pytest.raises(MaskError, match="no list has 18 numbers; in use: 12, 17"):
        Vector.of({}, 18)
