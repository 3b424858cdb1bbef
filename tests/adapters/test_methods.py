"""docs/methods.md, cell by cell."""

import copy
import functools
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from torch import nn

from adapter_effects import assert_same
from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    Parts,
    attach,
    attached_names,
    detach,
    extract,
    load_adapter,
    read_adapter,
    save_adapter,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.files import SINGLE_FILE, WEIGHTS_FILE
from blockwise_lora.adapters.formats import write
from blockwise_lora.parameters import typed

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
KINDS = ("Linear", "1x1", "3x3")


def table() -> dict[str, dict[str, bool]]:
    """Specification to the answers of the page's first table."""
    lines = PAGE.read_text("utf-8").partition("\n| ")[2].splitlines()
    lines = ["| " + lines[0], *lines[2:]]  # without the rule below the head
    head, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[:10])
    answers = {"yes": True, "no": False, "U-Net": "U-Net"}
    return {
        row[0].strip("`"): {column: answers[c] for column, c in zip(head[1:], row[1:], strict=True)}
        for row in rows
    }


TABLE = table()
every = pytest.mark.parametrize("row", TABLE)


def spec_of(row: str, blocks: str = "mid") -> AdapterSpec:
    values = yaml.safe_load("{" + row + "}") | {"blocks": blocks, "rank": 4}
    scaled = not {"oft", "full"} & {values["method"]}
    return typed(AdapterSpec, values | ({"alpha": 6} if scaled else {}), "row")


@every
def test_acting_draws_nothing(make_unet, output, trained, row, monkeypatch):
    """The lowest number that PEFT may draw for its dropout would leave a layer out."""
    unet = make_unet()
    trained(unet, spec_of(row), "a")
    before, answer = torch.get_rng_state(), output(unet)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))
    assert torch.equal(output(unet), answer)


def kind(module: nn.Module) -> str:
    return (
        "Linear"
        if module.weight.dim() == 2
        else f"{module.weight.shape[2]}x{module.weight.shape[3]}"
    )


def exact(unet: nn.Module) -> torch.Tensor:
    """The output in double precision, so that what is left of a difference is no rounding."""
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 4, 16, 16, generator=generator).double()
    text = torch.randn(1, 5, 32, generator=generator).double()
    with torch.no_grad():
        return unet.double()(latents, 300, text).sample


def close(one: nn.Module, other: nn.Module, base: nn.Module) -> bool:
    """Whether two models agree to 1e-6 of what an adapter does to the base's output."""
    ours, theirs, plain = exact(one), exact(other), exact(base)
    return bool((ours - theirs).norm() / (theirs - plain).norm() < 1e-6)


def merged(plain: nn.Module, *weighted) -> nn.Module:
    """A copy of the plain model with weight * change of each adapter in its weights."""
    result = copy.deepcopy(plain.double())
    with torch.no_grad():
        for updates, weight in weighted:
            for name, update in updates.items():
                change = update.delta(plain.get_submodule(name).weight.detach())
                result.get_submodule(name).weight += weight * change
    return result


def test_the_table_knows_every_method():
    from typing import get_args

    from blockwise_lora.adapters.spec import Method

    assert {spec_of(row).method for row in TABLE} == set(get_args(Method))


@every
def test_layers_start_as_they_were_and_all_learn(make_unet, output, trained, row):
    unet = make_unet()
    kinds = {
        name: kind(module)
        for name, module in unet.named_modules()
        if hasattr(module, "weight") and module.weight is not None and module.weight.dim() > 1
    }
    before = output(unet)
    attached = attach(unet, spec_of(row), "a", torch.Generator().manual_seed(0))
    torch.testing.assert_close(output(unet), before, atol=1e-5, rtol=1e-5)
    assert {kinds[name] for name in attached.ranks} == {k for k in KINDS if TABLE[row][k]}
    assert sum(attached.blocks.values()) == sum(p.numel() for p in trainable_parameters(unet, "a"))
    detach(unet, "a")
    trained(unet, spec_of(row), "a")
    assert not torch.allclose(output(unet), before, atol=1e-4)
    unet(torch.randn(1, 4, 16, 16), 10, torch.randn(1, 5, 32)).sample.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in trainable_parameters(unet, "a")
    )
    assert {id(p) for p in unet.parameters() if p.requires_grad} == {
        id(p) for p in trainable_parameters(unet, "a")
    }


def test_refusals_name_the_reason():
    assert not TABLE["method: oft"]["3x3"]
    with pytest.raises(ValueError, match="not the identity at its start"):
        AdapterSpec(method="oft", conv=True)


def test_pefts_oft_on_3x3_is_what_it_is_refused_for():
    from peft import OFTConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(1, 8, 6, 6)
    before = model(x)
    inject_adapter_in_model(OFTConfig(oft_block_size=4, target_modules=["0"]), model, "a")
    assert not torch.allclose(model(x), before, atol=1e-2)


@every
def test_saved_and_read_back_bit_for_bit(make_unet, output, trained, tmp_path, row):
    unet, other = make_unet(), make_unet()
    trained(unet, spec_of(row), "a")
    save_adapter(tmp_path, unet, "a", spec=spec_of(row))
    adapter = read_adapter(tmp_path)
    load_adapter(other, adapter, "b")
    assert torch.equal(output(other), output(unet))
    ours, theirs = (extract(model, name) for model, name in ((unet, "a"), (other, "b")))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].scale, ours[name].rank) == (theirs[name].scale, theirs[name].rank)
        one, two = ours[name].tensors(), theirs[name].tensors()
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / SINGLE_FILE).exists() == TABLE[row]["single file"]


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (AdapterSpec("all+out1:16", "oft", rank=8), {8, 16}),
        (AdapterSpec("all", "oft", rank=64), {32, 64}),  # lowered where the inputs are fewer
    ],
)
def test_rotations_of_several_block_sizes(make_unet, output, trained, tmp_path, spec, sizes):
    """Each layer's own tensor tells its size, where PEFT's configuration knows one for all."""
    unet, other = make_unet(), make_unet()
    assert {*trained(unet, spec, "a").ranks.values()} == sizes
    save_adapter(tmp_path, unet, "a", spec=spec)
    adapter = read_adapter(tmp_path)
    load_adapter(other, adapter, "b")
    assert torch.equal(output(other), output(unet))
    assert_same(adapter.updates, extract(unet, "a"))
    with pytest.raises(AdapterError, match=r"several block sizes \(\d+, \d+\)"):
        write(adapter, tmp_path / "peft", "peft")


@every
def test_diffusers_loads_the_folder_or_refuses_it(make_unet, output, trained, tmp_path, row):
    unet, loaded = make_unet(), make_unet()
    trained(unet, spec_of(row), "a")
    save_adapter(tmp_path, unet, "a", spec=spec_of(row))
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler", "safety_checker"))
    pipe = StableDiffusionPipeline(
        unet=loaded, **parts, feature_extractor=None, requires_safety_checker=False
    )
    if TABLE[row]["diffusers"] is True:
        pipe.load_lora_weights(tmp_path)
    else:
        with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
            pipe.load_lora_weights(tmp_path)
    if TABLE[row]["diffusers"] == "U-Net":
        loaded.load_lora_adapter(tmp_path, weight_name=WEIGHTS_FILE, prefix="unet")
    assert torch.equal(output(loaded), output(unet)) == bool(TABLE[row]["diffusers"])


@every
@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_a_strength_is_a_share_of_the_change(make_unet, trained, row, strength):
    plain, unet = make_unet(), make_unet()
    trained(unet, spec_of(row), "a")
    set_strengths(unet, {"a": strength})
    unet.double()
    assert close(unet, merged(plain, (extract(unet, "a"), strength)), plain)


@every
def test_strength_zero_in_a_block_is_the_base_there(make_unet, output, trained, row):
    plain, unet = make_unet(), make_unet()
    trained(unet, spec_of(row, "mid+out1"), "a")
    set_strengths(unet, {"a": {"mid": 0, "out1": 0}})
    assert torch.equal(output(unet), output(plain))
    set_strengths(unet, {"a": {"mid": 0, "out1": 0.5}})
    unet.double()
    part = {k: v for k, v in extract(unet, "a").items() if k.startswith("up_blocks.1")}
    assert close(unet, merged(plain, (part, 0.5)), plain)


PAIRS = [
    ("method: locon", "method: loha, conv: true"),
    ("method: dora, conv: true", "method: dora, conv: true"),
    ("method: locon", "method: dora, conv: true"),
    ("method: oft", "method: oft"),
    ("method: oft", "method: dora, conv: true"),
    ("method: lokr, conv: true", "method: oft"),
]


@pytest.mark.parametrize("rows", PAIRS)
def test_methods_act_together_as_the_sum_of_their_changes(make_unet, trained, rows):
    """In either order of arrival, in layers that both touch and in layers that one touches."""
    plain = make_unet()
    for first, second in (rows, rows[::-1]):
        unet = make_unet()
        trained(unet, spec_of(first, "mid+out3"), "one", 1)
        trained(unet, spec_of(second, "in2+mid:2"), "two", 2)
        set_strengths(unet, {"one": 1, "two": {"in2": 1, "mid": 0.5}})
        unet.double()
        updates = extract(unet, "two")
        mid = {k: v for k, v in updates.items() if k.startswith("mid")}
        rest = {k: v for k, v in updates.items() if k not in mid}
        both = merged(plain, (extract(unet, "one"), 1), (mid, 0.5), (rest, 1))
        assert close(unet, both, plain)


def test_one_of_two_methods_can_leave(make_unet, trained):
    plain, unet = make_unet(), make_unet()
    trained(unet, spec_of("method: locon"), "one", 1)
    trained(unet, spec_of("method: loha, conv: true"), "two", 2)
    trained(unet, spec_of("method: oft"), "three", 3)
    detach(unet, "two")
    set_strengths(unet, {"one": 1})
    unet.double()
    assert close(unet, merged(plain, (extract(unet, "one"), 1)), plain)
    detach(unet, "one")
    detach(unet, "three")
    assert attached_names(unet) == ()
    assert [n for n, _ in unet.named_modules()] == [n for n, _ in plain.named_modules()]
    assert torch.equal(exact(unet), exact(plain))


@every
def test_the_text_encoder_is_the_block_base(make_unet, output, trained, tmp_path, row):
    def model() -> Parts:
        return Parts(make_unet(), (text_encoder(),))

    def text(parts: Parts) -> torch.Tensor:
        with torch.no_grad():
            return parts.text_encoders[0](torch.arange(8)[None]).last_hidden_state

    one, two, spec = model(), model(), spec_of(row, "out3+base:2")
    before = text(one)
    attached = trained(one, spec, "a")
    assert attached.blocks["BASE"] > 0
    assert any(name.startswith("text_encoder.") for name in attached.ranks)
    assert not torch.allclose(text(one), before, atol=1e-4)
    save_adapter(tmp_path, one, "a", spec=spec)
    load_adapter(two, read_adapter(tmp_path), "b")
    assert torch.equal(text(two), text(one))
    assert torch.equal(output(two.denoiser), output(one.denoiser))
    set_strengths(two, {"b": {"base": 0}})
    assert torch.equal(text(two), before)
    set_strengths(two, {"b": 1.0})
    assert torch.equal(text(two), text(one))
    detach(two, "b")
    assert torch.equal(text(two), before)


@functools.cache
def _encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        eos_token_id=63,
        bos_token_id=62,
        pad_token_id=0,
    )
    return CLIPTextModel(config).eval()


def text_encoder() -> nn.Module:
    return copy.deepcopy(_encoder())
