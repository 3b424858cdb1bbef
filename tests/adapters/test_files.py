"""What is written, what it holds, and what is not written."""

import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    attach,
    read_adapter,
    save_adapter,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.files import SINGLE_FILE, WEIGHTS_FILE
from blockwise_lora.atomic import WriteError

SPEC = AdapterSpec("out1-out3", rank=4, alpha=1)


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_metadata_say_what_the_file_holds(saved, saved_spec):
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        found = metadata(saved / name)
        assert found["seed"] == "3"
        assert AdapterSpec.from_json(found["blockwise_lora.spec"]) == saved_spec
        assert found["blockwise_lora.mask"] == "all+in0:0+out1:16"
        blocks = json.loads(found["blockwise_lora.blocks"])
        assert blocks["IN04"]["ranks"] == [5, 8]
        assert blocks["OUT03"] == {
            "ranks": [16],
            "modules": ["up_blocks.1.resnets.0", "up_blocks.1.attentions.0"],
        }
        assert "IN01" not in blocks
    config = json.loads(metadata(saved / WEIGHTS_FILE)["lora_adapter_metadata"])
    modules = {key.split(".lora_")[0] for key in load_file(saved / WEIGHTS_FILE)}
    # Full names: not the shortened ones that PEFT keeps in the model.
    assert {f"unet.{name}" for name in config["unet.target_modules"]} == modules
    kohya = metadata(saved / SINGLE_FILE)
    assert kohya["ss_network_module"] == "networks.lora"
    assert kohya["ss_network_dim"] == "Dynamic"


def test_equal_adapters_make_equal_bytes(make_unet, trained, saved_spec, tmp_path):
    for folder in ("one", "two"):
        unet = make_unet()
        attach(unet, AdapterSpec("mid"), folder, torch.Generator())  # company changes nothing
        trained(unet, saved_spec, "a")
        notes = {"b": "2", "a": "1"} if folder == "one" else {"a": "1", "b": "2"}
        save_adapter(tmp_path / folder, unet, "a", spec=saved_spec, metadata=notes)
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
    assert read_adapter(tmp_path / "one").sha256 == read_adapter(tmp_path / "two").sha256


def test_strengths_do_not_enter_the_file(tiny_unet, trained, tmp_path):
    trained(tiny_unet, SPEC, "a")
    save_adapter(tmp_path / "one", tiny_unet, "a", spec=SPEC)
    set_strengths(tiny_unet, {"a": {"out1": 0.3}})
    save_adapter(tmp_path / "two", tiny_unet, "a", spec=SPEC)
    assert read_adapter(tmp_path / "one").sha256 == read_adapter(tmp_path / "two").sha256


def test_files_are_readable_as_the_umask_allows(saved):
    umask = os.umask(0)
    os.umask(umask)
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        assert stat.S_IMODE((saved / name).stat().st_mode) == 0o666 & ~umask


def test_diverged_weights_are_not_written(tiny_unet, tmp_path):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    with torch.no_grad():
        trainable_parameters(tiny_unet, "a")[3][0, 0] = float("inf")
    with pytest.raises(AdapterError, match=r"not finite in mid_block.*learning rate"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec("mid"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["format", "lora_adapter_metadata", "ss_seed"])
def test_reserved_metadata_is_refused(tiny_unet, tmp_path, key):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    with pytest.raises(AdapterError, match=f"{key}.*reserved"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec("mid"), metadata={key: ""})


def test_saving_what_is_not_there(tiny_unet, tmp_path):
    with pytest.raises(AdapterError, match="no adapter 'a' in this U-Net"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec())


def test_an_unwritable_target_is_named(tiny_unet, tmp_path):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file"):
        save_adapter(tmp_path / "file", tiny_unet, "a", spec=AdapterSpec("mid"))
