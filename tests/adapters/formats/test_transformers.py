"""Files for transformers: FLUX as diffusers' own pipeline writes it."""

import pytest
import torch
from click.testing import CliRunner
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    attach,
    extract,
    formats,
    load_adapter,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.commands.adapter import adapter as command

LAYERS = ("transformer_blocks.1.attn.to_q", "single_transformer_blocks.0.proj_mlp", "x_embedder")


@pytest.fixture
def make_flux():
    def make() -> FluxTransformer2DModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return FluxTransformer2DModel(
                in_channels=4,
                num_layers=2,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=8,
                pooled_projection_dim=8,
                axes_dims_rope=(4, 4, 8),
            ).eval()

    return make


@pytest.fixture
def file(make_flux, tmp_path):
    """A LoRA of rank 2 and alpha 3, of two blocks and a layer outside of all, by diffusers."""
    flux = make_flux()
    config = LoraConfig(r=2, lora_alpha=3, target_modules=list(LAYERS), init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        flux.add_adapter(config, "a")
    FluxPipeline.save_lora_weights(
        tmp_path / "flux",
        transformer_lora_layers=get_peft_model_state_dict(flux, adapter_name="a"),
        transformer_lora_adapter_metadata=flux.peft_config["a"].to_dict(),
    )
    return tmp_path / "flux" / "pytorch_lora_weights.safetensors"


def test_blocks_ranks_and_norms_are_told(file):
    tensors = load_file(file)
    assert all(key.startswith("transformer.") for key in tensors)
    result = CliRunner().invoke(command, ["inspect", str(file)])
    assert result.exit_code == 0, result.output
    assert "base model  a transformer (FLUX, Stable Diffusion 3)" in result.output
    assert "scale       1.5" in result.output
    rows = [line.split() for line in result.output.splitlines() if "█" in line]
    assert [row[0] for row in rows] == ["D01", "S00", "REST"]
    for (_, layers, rank, norm, _), layer in zip(rows, LAYERS, strict=True):
        a, b = (tensors[f"transformer.{layer}.lora_{x}.weight"] for x in "AB")
        assert (layers, rank) == ("1", "2")
        assert float(norm) == pytest.approx((1.5 * b @ a).norm().item(), rel=5e-3)


def test_without_metadata_alpha_is_the_rank_as_for_diffusers(file):
    save_file(load_file(file), file)
    assert {update.scale for update in formats.read(file).updates.values()} == {1.0}


def test_there_and_back(make_flux, file, tmp_path):
    adapter = formats.read(file)
    formats.write(adapter, tmp_path / "again", "diffusers")
    formats.write(adapter, tmp_path / "peft", "peft")
    before = load_file(file)
    after = load_file(tmp_path / "again" / "pytorch_lora_weights.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    for path in (tmp_path / "again", tmp_path / "peft"):
        read = formats.read(path)
        assert read.sub_blocks == adapter.sub_blocks
        assert {update.scale for update in read.updates.values()} == {1.5}
    for format in ("kohya", "lycoris"):
        with pytest.raises(AdapterError, match=r"no Stable Diffusion 1\.x, 2\.x or XL has"):
            formats.write(adapter, tmp_path / "a.safetensors", format)


def test_our_own_of_a_transformer_is_one_that_diffusers_loads(make_flux, tmp_path):
    flux, spec = make_flux(), AdapterSpec("D00+S00", rank=2, alpha=6)
    attach(flux, spec, "a", torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in trainable_parameters(flux, "a"):
            parameter += 0.1
    save_adapter(tmp_path, flux, "a", spec=spec)
    loaded, ours = make_flux(), make_flux()
    parts = dict.fromkeys(
        ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    )
    FluxPipeline(transformer=loaded, **parts).load_lora_weights(tmp_path)
    load_adapter(ours, formats.read(tmp_path), "b")
    for name, update in extract(flux, "a").items():
        layer = loaded.get_submodule(name)
        (active,) = layer.active_adapters
        assert torch.equal(layer.lora_B[active].weight, update.up)
        assert layer.scaling[active] == 3
    assert extract(ours, "b").keys() == extract(flux, "a").keys()
