import copy
import stat

import pytest
import torch
from safetensors import safe_open

from adapter_effects import assert_close, assert_same, effect
from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    LowRank,
    attach,
    load_adapter,
    save_adapter,
)
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.files import SINGLE_FILE
from blockwise_lora.adapters.formats import Names, read, write
from blockwise_lora.adapters.merge import Sum, Weighted, merge

FORMATS = ["diffusers", "peft", "kohya", "lycoris"]


def place(folder, format):
    return folder / (f"{format}.safetensors" if format != "peft" else "peft")


@pytest.mark.parametrize("model", ["sd", "xl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_through_all_formats_and_back(dtype, model, sd_unet, xl_unet, make_adapter, tmp_path):
    """Per-layer ranks and alphas: to the bit, but for kohya's one alpha."""
    unet = {"sd": sd_unet, "xl": xl_unet}[model]
    adapter = make_adapter(unet, every=4, alphas=(1.0, 8.0, 0.25), dtype=dtype)
    found = adapter
    for format in ("diffusers", "lycoris", "peft", "diffusers", "peft", "lycoris"):
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        found = read(write(found, place(folder, format), format))
    assert_same(found.updates, adapter.updates)
    assert dict(found.sub_blocks) == dict(adapter.sub_blocks)
    found = read(write(found, tmp_path / "k.safetensors", "kohya"))
    assert_close(effect(unet, found.updates), effect(unet, adapter.updates))


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_overwritten(format, sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, every=9)
    path = write(adapter, place(tmp_path, format), format)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")}
    with pytest.raises(AdapterError, match="is there already: choose another name"):
        write(adapter, path, format)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.safetensors")} == before
    broken = tmp_path / "link.safetensors"
    broken.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match="is there already"):
        write(adapter, broken, "kohya")


@pytest.mark.parametrize("format", FORMATS)
def test_equal_adapters_make_equal_bytes(format, sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, every=9)
    turned = Adapter(
        dict(reversed(adapter.updates.items())),
        {},
        None,
        dict(reversed(adapter.metadata.items())),
        "",
    )
    contents = []
    for name, one in (("a", adapter), ("b", turned)):
        (tmp_path / name).mkdir()
        write(one, place(tmp_path / name, format), format)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in files)
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("folder", "kohya", r"give it a name that ends in \.safetensors"),
        ("folder", "lycoris", r"give it a name that ends in \.safetensors"),
        ("a.safetensors", "peft", "is to be a folder"),
        ("a.ckpt", "onnx", "format is one of diffusers, peft, kohya, lycoris"),
    ],
)
def test_targets_that_do_not_fit(name, format, message, sd_unet, make_adapter, tmp_path):
    with pytest.raises(AdapterError, match=message):
        write(make_adapter(sd_unet, every=9), tmp_path / name, format)
    assert not any(tmp_path.iterdir())


def test_metadata_come_along_but_those_of_the_old_format(sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, every=9)
    one = read(write(adapter, tmp_path / "a.safetensors", "diffusers"))
    assert "lora_adapter_metadata" in one.metadata
    path = write(one, tmp_path / "b.safetensors", "kohya")
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    assert notes["ss_tag"] == "kept"
    assert "lora_adapter_metadata" not in notes


def test_what_is_in_both_sd_and_sdxl_needs_the_base(sd_unet, xl_unet, tmp_path):
    """A middle block alone: kohya's names differ, and nothing tells which are meant."""
    layer = "mid_block.attentions.0.proj_in"
    adapter = Adapter({layer: LowRank(torch.ones(1, 64), torch.ones(64, 1), 1.0)}, {}, None, {}, "")
    with pytest.raises(AdapterError, match="Name the base model"):
        write(adapter, tmp_path / "a.safetensors", "kohya")
    for name, unet, key in (
        ("sd", sd_unet, "lora_unet_mid_block_attentions_0_proj_in.alpha"),
        ("xl", xl_unet, "lora_unet_middle_block_1_proj_in.alpha"),
    ):
        path = write(adapter, tmp_path / f"{name}.safetensors", "kohya", names=Names.of(unet))
        with safe_open(path, "pt") as file:
            assert key in file.keys()  # noqa: SIM118
        assert read(path).metadata.get("blockwise_lora.family") == {"sd": None, "xl": "sdxl"}[name]
    said = Adapter(adapter.updates, {}, None, {"ss_base_model_version": "sdxl_base_v1-0"}, "")
    path = write(said, tmp_path / "said.safetensors", "kohya")
    with safe_open(path, "pt") as file:
        assert any("middle_block" in key for key in file.keys())  # noqa: SIM118


def test_a_trained_adapter_through_every_format_into_a_unet(make_unet, trained, output, tmp_path):
    """From training to a foreign file and back into a U-Net."""
    spec, unet = AdapterSpec("in0+out1", "locon", rank=4, alpha=2), make_unet()
    trained(unet, spec, "a")
    saved = read(save_adapter(tmp_path / "own", unet, "a", spec=spec))
    expected = output(unet)
    for path in (
        tmp_path / "own" / SINGLE_FILE,
        *(write(saved, place(tmp_path, format), format) for format in FORMATS),
    ):
        other = make_unet()
        adapter = read(path)
        assert adapter.spec == spec
        load_adapter(other, adapter, "b")
        assert torch.allclose(output(other), expected, rtol=1e-5, atol=1e-6)


def test_trained_for_sdxl_the_single_file_has_sgms_names(xl_unet, tmp_path):
    unet, spec = copy.deepcopy(xl_unet), AdapterSpec("OUT00-OUT01", rank=2)
    attach(unet, spec, "a", torch.Generator().manual_seed(0))
    save_adapter(tmp_path, unet, "a", spec=spec)
    with safe_open(tmp_path / SINGLE_FILE, "pt") as file:
        assert all(key.startswith("lora_unet_output_blocks_") for key in file.keys())  # noqa: SIM118


def test_a_merge_keeps_the_family_that_names_its_layers(xl_unet, tmp_path):
    """A middle block alone, which is named differently in files for SD and for SDXL."""
    layer = "mid_block.attentions.0.proj_in"
    update = LowRank(torch.ones(1, 64), torch.ones(64, 1), 1.0)
    one = Adapter({layer: update}, {layer: "MID"}, None, {"blockwise_lora.family": "sdxl"}, "1")
    merged = merge([Weighted(one), Weighted(one)], Sum())
    path = write(merged.adapter, tmp_path / "a.safetensors", "kohya")
    assert read(path).updates.keys() == {layer}
    with safe_open(path, "pt") as file:
        assert any("middle_block" in key for key in file.keys())  # noqa: SIM118
