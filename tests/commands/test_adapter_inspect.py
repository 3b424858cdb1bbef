import json

import pytest
import torch
from click.testing import CliRunner

from blockwise_lora.adapters import AdapterSpec, attach, block_norms, read_adapter, save_adapter
from blockwise_lora.cli import cli


def inspect(*arguments: object, code: int = 0):
    result = CliRunner().invoke(cli, ["adapter", "inspect", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def save(make_unet, tmp_path):
    def saved(spec: AdapterSpec):
        unet = make_unet(
            block_out_channels=(16, 16, 32, 32), cross_attention_dim=24, attention_head_dim=1
        )
        attach(unet, spec, "a", torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
        save_adapter(tmp_path / "saved", unet, "a", spec=spec)
        return tmp_path / "saved"

    return saved


def test_what_is_told(save):
    folder = save(AdapterSpec("in1-mid", rank=2, alpha=1))
    for path, format in ((folder, "diffusers"), (folder / "adapter.safetensors", "kohya")):
        out = inspect(path)
        for line in (
            f"format      {format}",
            "base model  the structure of Stable Diffusion 1.x",
            "method      LoRA",
            "mask        in1-mid",
            "scale       0.5",
        ):
            assert line in out.splitlines()
        assert [line.split()[0] for line in out.splitlines() if "█" in line] == [
            "IN04", "IN05", "IN07", "IN08", "MID",
        ]  # fmt: skip


def test_for_programs(save):
    folder = save(AdapterSpec("in1-mid", rank=2, alpha=1))
    found = json.loads(inspect(folder, "--json"))
    norms = {block["block"]: block["norm"] for block in found["blocks"]}
    assert norms == pytest.approx(block_norms(read_adapter(folder)))
    assert found["sha256"] == read_adapter(folder).sha256


def test_dora_is_measured_with_its_base(save, tiny_base_folder):
    folder = save(AdapterSpec("mid", "dora", rank=2))
    out = inspect(folder)
    assert "█" not in out
    assert "depends on the base: give it with --base" in out
    out = inspect(folder, "--base", tiny_base_folder)
    assert "█" in out and "--base" not in out


def test_a_file_that_is_no_adapter(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html>")
    assert "is a web page" in inspect(tmp_path / "a.safetensors", code=1)
