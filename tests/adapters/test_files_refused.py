"""Files that cannot be used are refused, by name and with the remedy."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blockwise_lora.adapters import (
    AdapterError,
    LowRank,
    attached_names,
    detach,
    load_adapter,
    read_adapter,
)
from blockwise_lora.adapters.files import WEIGHTS_FILE


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_another_structure_is_refused_and_the_unet_untouched(saved, make_unet):
    adapter = read_adapter(saved)
    wider = make_unet(block_out_channels=(32, 32, 64, 128))
    modules = [name for name, _ in wider.named_modules()]
    with pytest.raises(AdapterError, match=r"another structure.*of another size.* more\. Load it"):
        load_adapter(wider, adapter, "a")
    shorter = make_unet(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    with pytest.raises(AdapterError, match=r"\.proj_in is missing.* and \d+ more"):
        load_adapter(shorter, adapter, "a")
    assert [name for name, _ in wider.named_modules()] == modules
    assert attached_names(wider) == ()


def test_layers_of_text_encoders_need_the_text_encoders(saved, make_unet):
    adapter = read_adapter(saved)
    update = LowRank(torch.ones(1, 4), torch.ones(4, 1), 1.0)
    layers = {"text_encoder.encoder.layers.0.mlp.fc1": update}
    both = replace(adapter, updates={**adapter.updates, **layers})
    with pytest.raises(AdapterError, match=r"text encoders.*\(text_encoder: .* Parts\(") as error:
        load_adapter(make_unet(), both, "a")
    assert "another structure" not in str(error.value)
    with pytest.raises(AdapterError, match="another structure"):
        load_adapter(make_unet(block_out_channels=(32, 32, 64, 128)), both, "a")


def test_a_taken_name_is_refused_on_loading(tiny_unet, saved):
    with pytest.raises(AdapterError, match="'a' is taken"):
        load_adapter(tiny_unet, read_adapter(saved), "a")
    detach(tiny_unet, "a")
    load_adapter(tiny_unet, read_adapter(saved), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, not weights"),
        (b"\n <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00 and so on", "is not a safetensors file"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, message):
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=message) as error:
        read_adapter(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_unopened(tmp_path, zipped):
    path = tmp_path / "adapter.pt"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save(Bomb(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AdapterError, match=r"adapter\.pt is a pickle.*convert it to safetensors"):
        read_adapter(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_files_are_refused(saved, kept):
    path = saved / WEIGHTS_FILE
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AdapterError, match="cut short or damaged: fetch it again"):
        read_adapter(saved)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(AdapterError, match="does not exist"):
        read_adapter(tmp_path / "nowhere" / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=f"{WEIGHTS_FILE} does not exist"):
        read_adapter(tmp_path)


def test_tampered_files_are_refused(saved, tmp_path):
    tensors, notes = load_file(saved / WEIGHTS_FILE), metadata(saved / WEIGHTS_FILE)
    path = tmp_path / "changed.safetensors"
    first = next(key for key in tensors if key.endswith("lora_A.weight"))
    for changed in (
        {key: t for key, t in tensors.items() if key != first},
        tensors | {"text_encoder.x": torch.ones(1)},
        tensors | {first: tensors[first][:0]},
        tensors | {first: tensors[first][:-1].contiguous()},
    ):
        save_file(changed, path, notes)
        with pytest.raises(AdapterError, match=r"changed\.safetensors"):
            read_adapter(path)
    for key, value in [
        ("blockwise_lora.spec", "{}x"),
        ("blockwise_lora.spec", '{"rank": "many"}'),
        ("blockwise_lora.blocks", "{}"),
        *((f"blockwise_lora.{key}", "[" * 100_000) for key in ("spec", "blocks", "shapes")),
        ("blockwise_lora.shapes", '{"mid_block": [Infinity]}'),
        ("lora_adapter_metadata", "[]"),
        ("lora_adapter_metadata", '{"unet.lora_alpha": NaN, "unet.alpha_pattern": {}}'),
    ]:
        save_file(tensors, path, notes | {key: value})
        with pytest.raises(AdapterError, match=r"damaged|lacks"):
            read_adapter(path)
