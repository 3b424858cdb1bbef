"""Against LyCORIS's own modules, in both directions."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lycoris.modules import get_module, make_module
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import load_file, save_file

from adapter_effects import assert_close, assert_same, base_output, effect, run
from blockwise_lora.adapters import AdapterError, Dora, Hadamard, Kronecker, LowRank, Orthogonal
from blockwise_lora.adapters.formats import Names, read, write

KINDS = [LowRank, Dora, Hadamard, Kronecker]
LAYERS = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.2.resnets.0.conv1",
    "down_blocks.2.resnets.0.conv_shortcut",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.upsamplers.0.conv",
    "up_blocks.3.resnets.0.time_emb_proj",
]


def through_lycoris(unet, path):
    """The output with LyCORIS's own modules, made from a file."""
    unet, state = copy.deepcopy(unet).double(), load_file(path)
    layers = Names.of(unet).layers
    modules = []
    for name in {key.partition(".")[0] for key in state}:
        kind, values = get_module(state, name)
        with torch.no_grad():
            module = make_module(kind, values, name, unet.get_submodule(layers[name]))
        modules.append(module.double())
        modules[-1].apply_to()
    return run(unet)


def made_by_lycoris(unet, path, kind, **settings):
    """Write LyCORIS's modules with random values to a file; the output with them."""
    unet, state = copy.deepcopy(unet), {}
    generator = torch.Generator().manual_seed(2)
    for i, layer in enumerate(LAYERS):
        name = "lora_unet_" + layer.replace(".", "_")
        module = kind(
            name, unet.get_submodule(layer), 1.0, lora_dim=2 + i % 2, alpha=1 + i / 4, **settings
        )
        with torch.no_grad():
            for key, parameter in module.named_parameters():
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter + noise if "scale" in key else noise)
        stored = module.state_dict()
        state |= {f"{name}.{key}": tensor.clone().contiguous() for key, tensor in stored.items()}
        module.apply_to()
    save_file(state, path)
    return run(unet.double())


@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_reads_what_is_written(kind, sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, kind)
    path = write(adapter, tmp_path / "a.safetensors", "lycoris")
    changed = through_lycoris(sd_unet, path) - base_output(sd_unet)
    assert_close(changed, effect(sd_unet, adapter.updates), 3e-6 if kind is Dora else 1e-6)


def test_lycoris_reads_kohyas_format_too(sd_unet, make_adapter, tmp_path):
    """One alpha for all layers and the true scale in `up`, through LyCORIS's own LoCon."""
    adapter = make_adapter(sd_unet, alphas=(4.0, 4.0, 0.5))
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    changed = through_lycoris(sd_unet, path) - base_output(sd_unet)
    assert_close(changed, effect(sd_unet, adapter.updates))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LoConModule, {}),
        (LoConModule, {"use_tucker": True}),
        (LoConModule, {"weight_decompose": True}),
        (LoConModule, {"rs_lora": True}),
        (LohaModule, {}),
        (LohaModule, {"use_tucker": True}),
        (LokrModule, {"factor": 2}),
        (LokrModule, {"factor": 4, "decompose_both": True}),
        (LokrModule, {"factor": 2, "use_tucker": True}),
        (LokrModule, {"full_matrix": True}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(value) or "plain",
)
def test_what_lycoris_wrote_is_read(kind, settings, sd_unet, tmp_path):
    path = tmp_path / "a.safetensors"
    changed = made_by_lycoris(sd_unet, path, kind, **settings) - base_output(sd_unet)
    adapter = read(path)
    assert sorted(adapter.updates) == sorted(LAYERS)
    tolerance = 3e-6 if "weight_decompose" in settings else 1e-6
    assert_close(effect(sd_unet, adapter.updates), changed, tolerance)
    for format, name in (("lycoris", "b.safetensors"), ("peft", "b")):
        again = read(write(adapter, tmp_path / name, format))
        assert_close(effect(sd_unet, again.updates), effect(sd_unet, adapter.updates))


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_and_alpha_is_kept_to_the_bit(kind, sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, kind, alphas=(1.0, 8.0, 0.25), dtype=torch.float16)
    if kind is Kronecker:  # where both factors are whole, the format has no alpha
        adapter = make_adapter(sd_unet, kind, ranks=(2,), alphas=(2.0,), dtype=torch.float16)
    path = write(adapter, tmp_path / "a.safetensors", "lycoris")
    assert_same(read(path).updates, adapter.updates)
    ranks, alphas = (
        len({getattr(x, y) for x in adapter.updates.values()}) for y in ("rank", "scale")
    )
    assert kind is Kronecker or ranks > 1 < alphas


def test_a_lokr_of_whole_factors_has_no_alpha_there(sd_unet, make_adapter, tmp_path):
    """LyCORIS forgets it, so its strength goes into a factor, which half precision cannot hold."""
    adapter = make_adapter(sd_unet, Kronecker, ranks=(64,), alphas=(3.0,), dtype=torch.float16)
    assert all(update.w2 is not None for update in adapter.updates.values())
    path = write(adapter, tmp_path / "a.safetensors", "lycoris")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    assert_close(effect(sd_unet, read(path).updates), effect(sd_unet, adapter.updates))
    assert_close(
        through_lycoris(sd_unet, path) - base_output(sd_unet), effect(sd_unet, adapter.updates)
    )


def test_oft_is_refused_both_ways(sd_unet, make_adapter, tmp_path):
    """LyCORIS turns a layer's outputs, PEFT its inputs: the same numbers, another adapter."""
    with pytest.raises(AdapterError, match=r"OFT.*outputs.*inputs.*write format peft"):
        write(make_adapter(sd_unet, Orthogonal), tmp_path / "a.safetensors", "lycoris")
    path = tmp_path / "b.safetensors"
    made_by_lycoris(sd_unet, path, DiagOFTModule)
    with pytest.raises(AdapterError, match=r"oft_blocks: OFT in LyCORIS turns a layer's outputs"):
        read(path)


def test_magnitudes_by_input_are_refused(sd_unet, tmp_path):
    path = tmp_path / "a.safetensors"
    made_by_lycoris(sd_unet, path, LoConModule, weight_decompose=True, wd_on_out=False)
    with pytest.raises(AdapterError, match="magnitudes by input"):
        read(path)


def test_dora_of_another_method_is_refused(sd_unet, tmp_path):
    path = tmp_path / "a.safetensors"
    made_by_lycoris(sd_unet, path, LohaModule, weight_decompose=True)
    with pytest.raises(AdapterError, match="magnitudes for a method other than LoRA"):
        read(path)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("diff", "more beside it"),
        ("diff_b", "biases"),
        ("w_norm", "normalisation layers"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA"),
        ("hada_w1_x", "hada_w1_x"),
    ],
)
def test_other_contents_are_refused(key, reason, sd_unet, make_adapter, tmp_path):
    path = write(make_adapter(sd_unet), tmp_path / "a.safetensors", "lycoris")
    state = load_file(path)
    first = next(iter(state)).partition(".")[0]
    save_file(state | {f"{first}.{key}": torch.ones(3)}, path)
    with pytest.raises(AdapterError, match=reason):
        read(path)


def test_whole_differences_are_read(sd_unet, make_adapter, tmp_path):
    """As LyCORIS's full method writes them, here beside layers of LoRA."""
    path = write(make_adapter(sd_unet), tmp_path / "a.safetensors", "lycoris")
    state = load_file(path)
    layer = "down_blocks.0.resnets.1.conv2"
    diff = 0.1 * torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(4))
    save_file(state | {f"lora_unet_{layer.replace('.', '_')}.diff": diff}, path)
    assert torch.equal(read(path).updates[layer].delta(), diff)
    changed = through_lycoris(sd_unet, path) - base_output(sd_unet)
    assert_close(effect(sd_unet, read(path).updates), changed)


def test_alphas(sd_unet, make_adapter, tmp_path):
    path = write(make_adapter(sd_unet), tmp_path / "a.safetensors", "lycoris")
    state = load_file(path)
    plain = {key: tensor for key, tensor in state.items() if not key.endswith(".alpha")}
    save_file(plain, path)  # of the first year, when there were none
    assert {update.scale for update in read(path).updates.values()} == {1.0}
    first = min(state).partition(".")[0]
    save_file({k: t for k, t in state.items() if k != f"{first}.alpha"}, path)
    with pytest.raises(AdapterError, match=f"{first} has no alpha while other layers have"):
        read(path)
    for value in (torch.tensor(0.0), torch.tensor([1.0, 2.0])):
        save_file(state | {f"{first}.alpha": value}, path)
        with pytest.raises(AdapterError, match=rf"{first} has an alpha of .* no usable number"):
            read(path)


@pytest.mark.parametrize("kind", [LowRank, Dora])
def test_diffusers_is_wrong_about_such_files(kind, sd_unet, make_adapter, tmp_path):
    """It misses alphas of q, k, v and out, and drops DoRA's magnitudes: docs/formats.md says so.

    Should this fail one day, diffusers has learned it, and the documentation may say more.
    """
    adapter = make_adapter(sd_unet, kind, every=1)
    path = write(adapter, tmp_path / "a.safetensors", "lycoris")
    unet = copy.deepcopy(sd_unet)
    state, alphas = StableDiffusionPipeline.lora_state_dict(path.parent, weight_name=path.name)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, adapter_name="x")
    found, true = run(unet.double()) - base_output(sd_unet), effect(sd_unet, adapter.updates)
    assert (found - true).norm() > 0.01 * true.norm()


@pytest.mark.parametrize("kind", [Hadamard, Kronecker])
def test_lycoris_merges_these_at_the_squared_scale(kind, sd_unet, make_adapter, tmp_path):
    """Its layers act with the scale once, its merging takes it twice: docs/formats.md says so."""
    adapter = make_adapter(sd_unet, kind, ranks=(2,), alphas=(1.0,))
    state = load_file(write(adapter, tmp_path / "a.safetensors", "lycoris"))
    names = Names.of(sd_unet)
    layer = next(iter(adapter.updates))
    module = make_module(
        *get_module(state, names.joined(layer)), layer, sd_unet.get_submodule(layer)
    )
    true = adapter.updates[layer].delta()
    merged, _ = module.get_diff_weight(shape=true.shape)
    assert true.norm() > 0.1
    assert torch.allclose(merged, 0.5 * true, atol=1e-6)
