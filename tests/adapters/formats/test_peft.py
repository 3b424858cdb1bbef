"""Against PEFT's own loading and saving of directories."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adapter_effects import assert_close, assert_same, base_output, effect, run
from blockwise_lora.adapters import AdapterError, Dora, Hadamard, Kronecker, LowRank, Orthogonal
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats import Names, diffusers, read, write
from blockwise_lora.adapters.formats.peft import CONFIG_FILE, WEIGHTS_FILE

KINDS = [LowRank, Dora, Hadamard, Kronecker, Orthogonal]
TARGETS = ["attn2.to_k", "proj_in", "up_blocks.1.resnets.0.conv1", "down_blocks.2.resnets.0.conv2"]


@pytest.fixture
def folder(sd_unet, make_adapter, tmp_path):
    return write(make_adapter(sd_unet), tmp_path / "a", "peft")


def edit(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("model", ["sd", "xl"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_is_written(kind, model, sd_unet, xl_unet, make_adapter, tmp_path):
    unet = {"sd": sd_unet, "xl": xl_unet}[model]
    adapter = make_adapter(unet, kind)
    folder = write(adapter, tmp_path / "a", "peft")
    loaded = PeftModel.from_pretrained(copy.deepcopy(unet), folder).base_model.model
    changed = run(loaded.double()) - base_output(unet)
    assert_close(changed, effect(unet, adapter.updates), 3e-6 if kind is Orthogonal else 1e-6)
    assert_same(read(folder, Names.of(unet)).updates, adapter.updates)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=2, target_modules=TARGETS, rank_pattern={"to_k": 2}),
        LoraConfig(r=4, target_modules=TARGETS, alpha_pattern={r"up_blocks\.1.*conv1": 3.5}),
        LoraConfig(r=4, lora_alpha=3, target_modules=TARGETS, use_rslora=True),
        LoraConfig(r=4, target_modules=TARGETS, use_dora=True),
        LoHaConfig(r=2, alpha=5, target_modules=TARGETS, alpha_pattern={"proj_in": 1}),
        LoHaConfig(r=2, target_modules=TARGETS, use_effective_conv2d=True),
        LoKrConfig(r=2, alpha=3, target_modules=TARGETS, rank_pattern={"proj_in": 40}),
        LoKrConfig(r=1, target_modules=TARGETS, decompose_both=True, decompose_factor=4),
        LoKrConfig(r=2, target_modules=TARGETS, use_effective_conv2d=True),
        OFTConfig(oft_block_size=4, target_modules=TARGETS[:2], use_cayley_neumann=False),
        OFTConfig(oft_block_size=4, target_modules=TARGETS[:2], num_cayley_neumann_terms=4),
    ],
    ids=lambda config: type(config).__name__,
)
def test_what_peft_wrote_is_read(config, sd_unet, tmp_path):
    model = get_peft_model(copy.deepcopy(sd_unet), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "a")
    changed = run(model.base_model.model.double()) - base_output(sd_unet)
    names = Names.of(sd_unet)
    adapter = read(tmp_path / "a", names)
    assert_close(effect(sd_unet, adapter.updates), changed, 3e-6)
    again = read(write(adapter, tmp_path / "b", "peft"), names)
    assert_same(again.updates, adapter.updates)


def test_a_directory_handed_to_diffusers_loads_nothing(sd_unet, folder, tmp_path):
    """The trap, and the way out of it: 0 modules without an exception; all, once converted."""

    def loaded(path):
        pipe = StableDiffusionPipeline(
            *(None, None, None, copy.deepcopy(sd_unet), None, None, None),
            requires_safety_checker=False,
        )
        try:
            pipe.load_lora_weights(path)
        except OSError:  # it looks for files of its own names only
            return []
        return [n for n, module in pipe.unet.named_modules() if hasattr(module, "lora_A")]

    assert loaded(folder) == []
    assert sorted(loaded(write(read(folder), tmp_path / "b", "diffusers").parent)) == sorted(
        read(folder).updates
    )


def test_parts_for_text_encoders_are_directories_of_their_own(xl_unet, make_adapter, tmp_path):
    adapter = make_adapter(xl_unet)
    values = torch.randn(2, 16), torch.randn(16, 2)
    encoders = {
        "text_encoder.encoder.layers.0.self_attn.q_proj": LowRank(*values, 0.5),
        "text_encoder_2.text_model.encoder.layers.1.mlp.fc1": LowRank(*values, 2.0),
    }
    both = Adapter(
        dict(adapter.updates) | encoders, {}, None, {"blockwise_lora.family": "sdxl"}, ""
    )
    folder = write(both, tmp_path / "a", "peft")
    assert sorted(path.name for path in folder.iterdir()) == [
        "text_encoder",
        "text_encoder_2",
        "unet",
    ]
    again = read(folder)
    assert_same(again.updates, both.updates)
    assert again.sub_blocks["text_encoder.encoder.layers.0.self_attn.q_proj"] == "BASE"


def test_keys_without_weight_and_with_the_adapters_name(folder, sd_unet, make_adapter):
    adapter = read(folder)
    state = load_file(folder / WEIGHTS_FILE)
    for change in (
        lambda key: key.removesuffix(".weight"),
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.removeprefix("base_model.model."),
    ):
        save_file({change(key): tensor for key, tensor in state.items()}, folder / WEIGHTS_FILE)
        assert_same(read(folder).updates, adapter.updates)
    mixed = {
        key.replace(".weight", f".x{i % 2}.weight"): t for i, (key, t) in enumerate(state.items())
    }
    save_file(mixed, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="several adapters: x0, x1"):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model's own weights"),
        ({"init_lora_weights": "olora"}, "changes the base model's own weights"),
        ({"lora_alpha": None}, "damaged"),
        ({"lora_alpha": float("nan")}, "not usable"),
        ({"r": 7, "rank_pattern": {}}, "of 7 by PEFT's configuration"),
        ({"r": 0}, "not usable"),
        ({"rank_pattern": {"(": 3}}, "damaged"),
        ({"rank_pattern": {"(a)+x": 3}}, r"in rank_pattern, pattern '\(a\)\+x'"),
        ({"alpha_pattern": {".*": 10**400}}, "too large"),
        ({"alpha_pattern": [1]}, "damaged"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"bias": "all"}, "changes biases"),
        ({"use_dora": True}, "has no magnitudes"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is set"),
    ],
)
def test_configurations_that_mean_something_else_are_refused(changes, message, folder):
    edit(folder, **changes)
    with pytest.raises(AdapterError, match=message):
        read(folder)


def test_a_configuration_without_alpha_is_refused(folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config["lora_alpha"]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="lacks 'alpha'"):
        read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_damaged_configurations_are_named(text, folder):
    (folder / CONFIG_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(AdapterError, match=r"adapter_config\.json is damaged"):
        read(folder)


def test_links_out_of_the_directory_are_not_followed(folder, tmp_path):
    secret = tmp_path / "elsewhere.json"
    (folder / CONFIG_FILE).rename(secret)
    (folder / CONFIG_FILE).symlink_to(secret)
    with pytest.raises(AdapterError, match="is a link out of its directory"):
        read(folder)


def test_links_as_in_hugging_faces_cache_are_followed(folder, tmp_path):
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/abc"
    expected = read(folder).updates
    blobs.parent.mkdir()
    folder.rename(blobs)
    snapshot.mkdir(parents=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert_same(read(snapshot).updates, expected)


def test_weights_alone_are_not_enough(folder):
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(AdapterError, match=r"name the directory, with the adapter_config\.json"):
        read(folder / WEIGHTS_FILE)


def test_a_file_of_the_directory_names_it(folder):
    assert_same(read(folder / WEIGHTS_FILE).updates, read(folder).updates)


def test_several_methods_have_no_common_configuration(sd_unet, make_adapter, tmp_path):
    one, two = make_adapter(sd_unet), make_adapter(sd_unet, Dora, every=7)
    mixed = Adapter(dict(one.updates) | dict(two.updates), {}, None, one.metadata, "")
    for format in ("peft", "diffusers"):
        with pytest.raises(AdapterError, match=r"several methods \(Dora, LowRank\).*lycoris"):
            write(mixed, tmp_path / "a", format)
    path = write(mixed, tmp_path / "a.safetensors", "lycoris")
    assert_close(effect(sd_unet, read(path).updates), effect(sd_unet, mixed.updates))


def test_rotations_of_several_sizes_have_no_configuration(make_adapter, sd_unet, tmp_path):
    adapter = make_adapter(sd_unet, Orthogonal)
    name, update = next(iter(adapter.updates.items()))
    other = Orthogonal(torch.zeros(update.shape[1] // 2, 1), update.shape)
    mixed = Adapter(dict(adapter.updates) | {name: other}, {}, None, adapter.metadata, "")
    with pytest.raises(AdapterError, match="several block sizes"):
        write(mixed, tmp_path / "a", "peft")


def test_rotations_of_several_series_have_no_configuration(make_adapter, sd_unet, tmp_path):
    """Not in this project's own file either: no tensor tells how a rotation is worked out."""
    adapter = make_adapter(sd_unet, Orthogonal)
    name, update = next(iter(adapter.updates.items()))
    mixed = dict(adapter.updates) | {name: replace(update, terms=5)}
    with pytest.raises(AdapterError, match="worked out in several ways"):
        write(replace(adapter, updates=mixed), tmp_path / "a", "peft")
    with pytest.raises(AdapterError, match="worked out in several ways"):
        diffusers.encode(mixed)


def test_factors_that_peft_would_not_make_are_refused(make_adapter, sd_unet, tmp_path):
    adapter = make_adapter(sd_unet, Kronecker)
    name, update = next(iter(adapter.updates.items()))
    out, wide = update.shape[:2]
    odd = Kronecker(
        update.shape,
        1.0,
        64,
        w1=torch.ones(1, wide),
        w2=torch.ones(out, 1, *update.shape[2:]),
    )
    mixed = Adapter(dict(adapter.updates) | {name: odd}, {}, None, adapter.metadata, "")
    with pytest.raises(AdapterError, match=r"sizes that PEFT never makes.*write format lycoris"):
        write(mixed, tmp_path / "a", "peft")
    path = write(mixed, tmp_path / "a.safetensors", "lycoris")
    assert_close(effect(sd_unet, read(path).updates), effect(sd_unet, mixed.updates))
