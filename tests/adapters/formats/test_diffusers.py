"""Against diffusers' own loaders, and its files of all years."""

import copy
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from adapter_effects import assert_close, assert_same, base_output, effect, run
from blockwise_lora.adapters import AdapterError, Dora, Hadamard, Kronecker, LowRank, Orthogonal
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats import Names, read, write
from blockwise_lora.adapters.formats.diffusers import WEIGHTS_FILE


def loaded(unet, path):
    """A copy of a U-Net with a file loaded by diffusers."""
    unet = copy.deepcopy(unet)
    state, alphas, config = StableDiffusionPipeline.lora_state_dict(
        path.parent, weight_name=path.name, unet_config=unet.config, return_lora_metadata=True
    )
    StableDiffusionPipeline.load_lora_into_unet(
        state, alphas, unet, adapter_name="x", metadata=config
    )
    return unet


@pytest.mark.parametrize("model", ["sd", "xl"])
@pytest.mark.parametrize("kind", [LowRank, Dora])
def test_diffusers_loads_what_is_written(kind, model, sd_unet, xl_unet, make_adapter, tmp_path):
    """Attention and convolutions: nothing is dropped, and every rank and alpha is its own."""
    unet = {"sd": sd_unet, "xl": xl_unet}[model]
    adapter = make_adapter(unet, kind)
    path = write(adapter, tmp_path / "a", "diffusers")
    assert path == tmp_path / "a" / WEIGHTS_FILE
    changed = run(loaded(unet, path).double()) - base_output(unet)
    assert_close(changed, effect(unet, adapter.updates))
    assert_same(read(tmp_path / "a").updates, adapter.updates)


def test_lokr_is_loaded_into_the_unet(sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, Kronecker)
    path = write(adapter, tmp_path / "a.safetensors", "diffusers")
    unet = copy.deepcopy(sd_unet)
    unet.load_lora_adapter(path.parent, weight_name=path.name, prefix="unet")
    assert_close(run(unet.double()) - base_output(sd_unet), effect(sd_unet, adapter.updates))


@pytest.mark.parametrize("kind", [Hadamard, Orthogonal])
def test_methods_that_diffusers_cannot_load_are_refused(kind, sd_unet, make_adapter, tmp_path):
    with pytest.raises(AdapterError, match=rf"diffusers knows .*{kind.__name__}.*format peft"):
        write(make_adapter(sd_unet, kind), tmp_path / "a", "diffusers")


def test_what_diffusers_wrote_is_read(sd_unet, tmp_path):
    unet = copy.deepcopy(sd_unet)
    config = LoraConfig(
        r=4, lora_alpha=2, target_modules=["to_k", "conv1"], rank_pattern={"to_k": 3}
    )
    unet.add_adapter(config, adapter_name="a")
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet, adapter_name="a"),
        unet_lora_adapter_metadata=unet.peft_config["a"].to_dict(),
    )
    adapter = read(tmp_path)
    changed = run(unet.double()) - base_output(sd_unet)
    assert_close(effect(sd_unet, adapter.updates), changed)
    assert {update.scale for update in adapter.updates.values()} == {0.5, 2 / 3}


def test_without_a_configuration_alpha_is_the_rank(sd_unet, make_adapter, tmp_path):
    """As diffusers itself has it."""
    path = write(make_adapter(sd_unet), tmp_path / "a.safetensors", "diffusers")
    save_file(load_file(path), path)
    adapter = read(path)
    assert {update.scale for update in adapter.updates.values()} == {1.0}
    changed = run(loaded(sd_unet, path).double()) - base_output(sd_unet)
    assert_close(effect(sd_unet, adapter.updates), changed)


OLD = [
    lambda layer, x: f"unet.{layer}.lora.{x}.weight",
    lambda layer, x: f"unet.{layer}.lora_linear_layer.{x}.weight",
    lambda layer, x: f"unet.{attention_processor(layer)}.{x}.weight",
    lambda layer, x: f"{attention_processor(layer)}.{x}.weight",
]


def attention_processor(layer):
    block, _, name = layer.partition(".attn")
    number, _, projection = name.partition(".")
    return f"{block}.attn{number}.processor.{projection.removesuffix('.0')}_lora"


@pytest.mark.parametrize("key", OLD)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_files_of_earlier_years(key, with_alpha, sd_unet, make_adapter, tmp_path):
    whole = make_adapter(sd_unet, every=1, alphas=(2.0, 8.0))
    updates = {n: u for n, u in whole.updates.items() if ".attn" in n}
    state = {}
    for layer, update in updates.items():
        state[key(layer, "down")], state[key(layer, "up")] = update.down, update.up
        if with_alpha:
            alpha = key(layer, "down").replace(".down.weight", ".alpha")
            state[alpha] = torch.tensor(update.scale * update.rank)
    path = tmp_path / "old.safetensors"
    save_file(state, path)
    found = read(path).updates
    if not with_alpha:
        updates = {n: LowRank(u.down, u.up, 1.0) for n, u in updates.items()}
    assert found.keys() == updates.keys()
    for layer, update in updates.items():
        assert torch.equal(found[layer].delta(), update.delta())


def test_old_names_of_text_encoders(sd_unet, make_adapter, tmp_path):
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    state = {f"unet.{k}": t for k, t in make_adapter(sd_unet).state.items()}
    for old in ("self_attn.to_out_lora", "self_attn.out_proj.lora_linear_layer"):
        stem = f"text_encoder.text_model.encoder.layers.3.{old}"
        file = state | {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
        save_file(file, tmp_path / "old.safetensors")
        adapter = read(tmp_path / "old.safetensors")
        (layer,) = (name for name in adapter.updates if name.startswith("text_encoder"))
        assert layer.endswith("encoder.layers.3.self_attn.out_proj")
        assert torch.equal(adapter.updates[layer].up, up)
        assert adapter.sub_blocks[layer] == "BASE"
        path = write(adapter, tmp_path / old / "new.safetensors", "diffusers")
        # Files hold the name with text_model, whatever the installed transformers calls it.
        assert "text_encoder.text_model.encoder.layers.3.self_attn.out_proj.lora_A.weight" in (
            load_file(path)
        )
        assert_same(read(path).updates, adapter.updates)


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_text_encoders_through_diffusers(format, sd_unet, tmp_path):
    """The block BASE: what the text encoder puts out, with ranks and alphas that differ."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    words = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    encoder = CLIPTextModel(CLIPTextConfig(num_hidden_layers=2, **sizes, **words)).eval()
    names, tokens = Names.of(sd_unet, encoder), torch.arange(10)[None]
    changed = copy.deepcopy(encoder)
    updates = {}
    for i, kind in enumerate(("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")):
        layer = names.layers[f"text_encoder.encoder.layers.1.{kind}"]
        weight = changed.get_submodule(layer.removeprefix("text_encoder.")).weight
        rank = 2 + i % 2
        down, up = torch.randn(rank, weight.shape[1]), torch.randn(len(weight), rank)
        updates[layer] = LowRank(down, up, 0.5 + i)
        with torch.no_grad():
            weight += updates[layer].delta()
    adapter = Adapter(updates, {}, None, {"blockwise_lora.family": "sd1"}, "")
    path = write(adapter, tmp_path / "a.safetensors", format)
    state, alphas, config = StableDiffusionPipeline.lora_state_dict(
        tmp_path, weight_name=path.name, return_lora_metadata=True
    )
    loaded = copy.deepcopy(encoder)
    StableDiffusionPipeline.load_lora_into_text_encoder(
        state, alphas, loaded, prefix="text_encoder", adapter_name="x", metadata=config
    )
    with torch.no_grad():
        expected, found, plain = (m(tokens)[0] for m in (changed, loaded, encoder))
    assert_close(found - plain, expected - plain, 1e-5)


def test_the_configuration_names_every_layer_in_full(sd_unet, make_adapter, tmp_path):
    """PEFT shortens long lists of names to endings that other models may share."""
    adapter = make_adapter(sd_unet, every=2)
    path = write(adapter, tmp_path / "a.safetensors", "diffusers")
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert len(adapter.updates) > 20
    assert config["unet.target_modules"] == sorted(adapter.updates)


def test_an_alpha_of_no_layer_is_refused(sd_unet, make_adapter, tmp_path):
    path = write(make_adapter(sd_unet), tmp_path / "a.safetensors", "diffusers")
    save_file(load_file(path) | {"unet.mid_block.x.alpha": torch.ones(())}, path)
    with pytest.raises(AdapterError, match=r"mid_block\.x has an alpha and nothing else"):
        read(path)


def test_a_configuration_is_needed_where_no_tensor_tells_the_strength(
    sd_unet, make_adapter, tmp_path
):
    adapter = make_adapter(sd_unet, Hadamard)
    save_file({f"unet.{k}": t for k, t in adapter.state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="only PEFT's configuration tells"):
        read(tmp_path / "a.safetensors")


def test_an_empty_adapter_is_none(sd_unet, tmp_path):
    with pytest.raises(AdapterError, match="no layers"):
        write(Adapter({}, {}, None, {}, ""), tmp_path / "a", "diffusers")
