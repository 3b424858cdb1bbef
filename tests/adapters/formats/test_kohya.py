import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import conv2d

from adapter_effects import assert_close, assert_same, base_output, effect, run
from blockwise_lora.adapters import AdapterError, Dora, Hadamard, Kronecker, LowRank, Orthogonal
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats import read, write


def by_kohyas_formula(unet, file):
    """W + alpha / rank * up @ down for every lora_unet_ name, written anew."""
    unet = copy.deepcopy(unet).double()
    names = {"lora_unet_" + n.replace(".", "_"): n for n, _ in unet.named_modules() if n}
    used = set()
    with torch.no_grad():
        for lora in {key.partition(".")[0] for key in file}:
            keys = [f"{lora}.{key}" for key in ("lora_down.weight", "lora_up.weight", "alpha")]
            down, up, alpha = (file[key].double() for key in keys)
            used |= set(keys)
            weight = unet.get_submodule(names[lora]).weight
            if down.dim() == 2:
                weight += alpha / len(down) * (up @ down)
            else:
                product = conv2d(down.transpose(0, 1), up).transpose(0, 1)
                weight += alpha / len(down) * product
    assert used == set(file)
    return run(unet)


def through_diffusers(unet, path, pipeline):
    """The output with a file that diffusers' own loader put into a U-Net."""
    unet = copy.deepcopy(unet)
    state, alphas, config = pipeline.lora_state_dict(
        path.parent,
        weight_name=path.name,
        unet_config=unet.config,
        return_lora_metadata=True,
    )
    pipeline.load_lora_into_unet(state, alphas, unet, adapter_name="x", metadata=config)
    return run(unet.double())


def test_kohyas_formula_gives_the_same_output(sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet)
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    changed = by_kohyas_formula(sd_unet, load_file(path)) - base_output(sd_unet)
    assert_close(changed, effect(sd_unet, adapter.updates))


def test_every_layer_has_one_alpha_and_its_own_rank(sd_unet, make_adapter, tmp_path):
    """The trap: diffusers misses the alphas of q, k, v and out, unless all layers share one."""
    adapter = make_adapter(sd_unet, alphas=(4.0, 4.0, 0.5))
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    file = load_file(path)
    assert {file[key].item() for key in file if key.endswith(".alpha")} == {4.0}
    ranks = {len(file[key]) for key in file if key.endswith("lora_down.weight")}
    assert ranks == {2, 3, 4}
    with safe_open(path, "pt") as opened:
        notes = opened.metadata()
    assert notes["ss_network_module"] == "networks.lora"
    assert (notes["ss_network_dim"], notes["ss_network_alpha"]) == ("Dynamic", "4")


@pytest.mark.parametrize("model", ["sd", "xl"])
def test_diffusers_loads_the_file(model, sd_unet, xl_unet, make_adapter, tmp_path):
    """With ranks and alphas that differ, attention and convolutions; and sgm's names in SDXL."""
    unet = {"sd": sd_unet, "xl": xl_unet}[model]
    pipeline = {"sd": StableDiffusionPipeline, "xl": StableDiffusionXLPipeline}[model]
    adapter = make_adapter(unet)
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    changed = through_diffusers(unet, path, pipeline) - base_output(unet)
    assert_close(changed, effect(unet, adapter.updates))
    sgm = any("input_blocks" in key for key in load_file(path))
    assert sgm == (model == "xl")


def test_one_alpha_for_all_is_kept_to_the_bit(sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, alphas=(3.0,))
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    assert_same(read(path).updates, adapter.updates)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_unless_it_would_be_rescaled(dtype, sd_unet, make_adapter, tmp_path):
    same = make_adapter(sd_unet, alphas=(3.0,), dtype=dtype)
    path = write(same, tmp_path / "same.safetensors", "kohya")
    assert_same(read(path).updates, same.updates)
    mixed = make_adapter(sd_unet, alphas=(3.0, 0.7), dtype=dtype)
    path = write(mixed, tmp_path / "mixed.safetensors", "kohya")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    assert_close(effect(sd_unet, read(path).updates), effect(sd_unet, mixed.updates))


@pytest.mark.parametrize("kind", [Dora, Hadamard, Kronecker, Orthogonal])
def test_other_methods_are_refused(kind, sd_unet, make_adapter, tmp_path):
    """kohya's scripts would skip their tensors without a word."""
    with pytest.raises(AdapterError, match=rf"{kind.__name__}.*write format .*peft"):
        write(make_adapter(sd_unet, kind), tmp_path / "a.safetensors", "kohya")
    assert not any(tmp_path.iterdir())


def test_layers_without_strength(sd_unet, make_adapter, tmp_path):
    """Alpha 0 means rank to kohya and nothing to ComfyUI: never is it written."""
    adapter = make_adapter(sd_unet, alphas=(0.0, 0.0, 2.0))
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    assert {t.item() for key, t in load_file(path).items() if key.endswith("alpha")} == {2.0}
    names = [name for name, update in adapter.updates.items() if not update.scale]
    again = read(path).updates
    assert all(again[name].norm() == 0 for name in names)
    silent = Adapter({n: adapter.updates[n] for n in names}, {}, None, adapter.metadata, "")
    path = write(silent, tmp_path / "b.safetensors", "kohya")
    assert all(isinstance(x, LowRank) and x.norm() == 0 for x in read(path).updates.values())
