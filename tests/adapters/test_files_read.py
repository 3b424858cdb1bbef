"""Written files give back the same adapter, here and in other tools."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from blockwise_lora.adapters import (
    AdapterSpec,
    load_adapter,
    read_adapter,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.adapters.files import SINGLE_FILE, WEIGHTS_FILE

SPECS = [
    AdapterSpec(),
    AdapterSpec("out1-out3", rank=4, alpha=1),
    AdapterSpec("all+in0:0+out1:16", "locon", rank=8, alpha=3, conv_rank=5, conv_alpha=2),
    AdapterSpec("style", "locon", rank=6),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_loading_back_is_bit_exact(make_unet, trained, output, tmp_path, spec):
    unet, other = make_unet(), make_unet()
    attached = trained(unet, spec, "character")
    path = save_adapter(tmp_path, unet, "character", spec=spec)
    adapter = read_adapter(path)
    again = load_adapter(other, adapter, "anything")
    assert (again.ranks, again.blocks, again.empty_blocks, again.spec) == (
        attached.ranks,
        attached.blocks,
        attached.empty_blocks,
        spec,
    )
    pairs = zip(
        trainable_parameters(unet, "character"),
        trainable_parameters(other, "anything"),
        strict=True,
    )
    assert all(torch.equal(one, two) for one, two in pairs)
    assert torch.equal(output(unet), output(other))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_diffusers_loads_both_files(make_unet, trained, output, tmp_path, spec):
    """The folder bit for bit, the single file to 1e-6; judged by the U-Net's output."""
    unet = make_unet()
    base = output(unet)
    trained(unet, spec, "a")
    save_adapter(tmp_path, unet, "a", spec=spec)
    expected = output(unet)

    def through_diffusers(name: str) -> torch.Tensor:
        loaded = make_unet()
        state, alphas, config = StableDiffusionPipeline.lora_state_dict(
            tmp_path, weight_name=name, unet_config=loaded.config, return_lora_metadata=True
        )
        StableDiffusionPipeline.load_lora_into_unet(
            state, alphas, loaded, adapter_name="x", metadata=config
        )
        return output(loaded)

    assert torch.equal(through_diffusers(WEIGHTS_FILE), expected)
    difference = through_diffusers(SINGLE_FILE) - expected
    assert difference.norm() / expected.norm() < 1e-6
    assert difference.norm() / (expected - base).norm() < 1e-5


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_the_single_file_by_kohyas_formula(make_unet, trained, output, tmp_path, spec):
    """W + alpha / rank * up @ down for every lora_unet_ name: written anew, file in hand."""
    unet, merged = make_unet(), make_unet()
    trained(unet, spec, "a")
    save_adapter(tmp_path, unet, "a", spec=spec)
    file = load_file(tmp_path / SINGLE_FILE)
    names = {"lora_unet_" + n.replace(".", "_"): n for n, _ in merged.named_modules() if n}
    used = set()
    with torch.no_grad():
        for key in file:
            if not key.endswith(".alpha"):
                continue
            lora = key.removesuffix(".alpha")
            down, up = file[f"{lora}.lora_down.weight"], file[f"{lora}.lora_up.weight"]
            scale = file[key].item() / down.shape[0]
            module = merged.get_submodule(names[lora])
            if down.dim() == 2:
                module.weight += scale * (up @ down)
            else:
                update = torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(
                    1, 0, 2, 3
                )
                module.weight += scale * update
            used |= {key, f"{lora}.lora_down.weight", f"{lora}.lora_up.weight"}
    assert used == set(file)
    assert len({file[key].item() for key in file if key.endswith(".alpha")}) == 1
    assert (output(merged) - output(unet)).norm() / output(unet).norm() < 1e-6


def test_the_pipelines_own_loader(tiny_unet, saved, output, make_unet):
    """`load_lora_weights(folder)`, the call in every tutorial."""
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=make_unet(),
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(saved)
    assert torch.equal(output(pipe.unet), output(tiny_unet))


def test_an_adapter_can_be_loaded_beside_others(make_unet, saved, trained, output):
    unet = make_unet()
    trained(unet, AdapterSpec("in0-mid", "locon", 2), "other")
    adapter = read_adapter(saved)
    load_adapter(unet, adapter, "a")
    alone = make_unet()
    load_adapter(alone, adapter, "a")
    assert torch.equal(output(unet), output(alone))
    state = {f"{m}.lora_A.weight" for m in adapter.updates} & adapter.state.keys()
    assert len(state) == len(adapter.updates)


def test_the_single_file_and_files_of_other_tools_are_read_too(saved, tmp_path):
    own, single = read_adapter(saved), read_adapter(saved / SINGLE_FILE)
    assert single.spec == own.spec
    assert dict(single.sub_blocks) == dict(own.sub_blocks)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(saved / WEIGHTS_FILE), foreign)
    assert read_adapter(foreign).spec is None
