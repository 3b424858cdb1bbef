import pytest
from click.testing import CliRunner

from adapter_effects import assert_same
from blockwise_lora.adapters import AdapterSpec, attach, read_adapter, save_adapter
from blockwise_lora.cli import cli


def convert(*arguments: object, code: int = 0):
    result = CliRunner().invoke(cli, ["adapter", "convert", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def saved(tiny_unet, tmp_path):
    import torch

    spec = AdapterSpec("in1-mid", rank=2, alpha=2)
    attach(tiny_unet, spec, "a", torch.Generator().manual_seed(0))
    save_adapter(tmp_path / "saved", tiny_unet, "a", spec=spec)
    return tmp_path / "saved"


def test_there_and_back(saved, tmp_path):
    out = convert(saved, tmp_path / "k.safetensors", "--to", "kohya")
    assert "(diffusers) -> " in out and "k.safetensors (kohya), 60 layers" in out
    convert(tmp_path / "k.safetensors", tmp_path / "p", "--to", "peft")
    convert(tmp_path / "p", tmp_path / "l.safetensors", "--to", "lycoris")
    convert(tmp_path / "l.safetensors", tmp_path / "d", "--to", "diffusers")
    assert_same(read_adapter(tmp_path / "d").updates, read_adapter(saved).updates)


def test_nothing_is_overwritten(saved, tmp_path):
    convert(saved, tmp_path / "k.safetensors", "--to", "kohya")
    out = convert(saved, tmp_path / "k.safetensors", "--to", "lycoris", code=1)
    assert "is there already: choose another name, or move it away" in out


def test_the_base_model_tells_the_names(saved, tmp_path, tiny_base_folder):
    convert(saved, tmp_path / "k.safetensors", "--to", "kohya", "--base", tiny_base_folder)
    out = convert(saved, tmp_path / "x", "--to", "peft", "--base", tmp_path / "none", code=1)
    assert "Error: " in out and "none" in out


def test_a_mistake_is_told_in_plain_words(tmp_path):
    out = convert(tmp_path / "none.safetensors", tmp_path / "x", "--to", "peft", code=1)
    assert "none.safetensors does not exist" in out
    assert "one of 'diffusers', 'peft'" in convert("a", "b", "--to", "onnx", code=2)
