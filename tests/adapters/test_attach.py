import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    attach,
    attached_names,
    detach,
    trainable_parameters,
)
from blockwise_lora.adapters.layers import adapted_layers, tuner_layers
from blockwise_lora.blocks import BlockMap, MaskError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(unet: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Every A of an adapter."""
    return {key: layer.lora_A[name].weight.detach() for key, layer in adapted_layers(unet, name)}


MASKS = ["all", "mid", "out1-out3", "all+in0:0+mid:0", "in2-mid+out1:16", "OUT07:3+IN04"]


@pytest.mark.parametrize("method", ["lora", "locon"])
@pytest.mark.parametrize("mask", MASKS)
def test_exactly_the_masks_layers_are_adapted_at_their_ranks(tiny_unet, mask, method):
    blocks = BlockMap.of(tiny_unet)
    spec = AdapterSpec(mask, method, rank=8, alpha=2)
    ranks = spec.mask.ranks(blocks, 8)
    kinds = ("attention",) if method == "lora" else ("attention", "conv")
    expected = {
        layer.name: ranks[block.name]
        for block, layer in blocks.layers.values()
        if layer.kind in kinds and ranks[block.name]
    }
    attached = attach(tiny_unet, spec, "a", seeded())
    layers = dict(tuner_layers(tiny_unet))
    assert {name: layer.r["a"] for name, layer in layers.items()} == expected
    assert {name: layer.lora_A["a"].weight.shape[0] for name, layer in layers.items()} == expected
    assert {layer.scaling["a"] for layer in layers.values()} == {0.25}
    assert attached.ranks == expected
    assert sum(attached.blocks.values()) == sum(
        p.numel() for p in tiny_unet.parameters() if p.requires_grad
    )


def test_a_new_adapter_changes_nothing_yet_and_freezes_the_base(tiny_unet, output):
    before = output(tiny_unet)
    attach(tiny_unet, AdapterSpec(method="locon"), "a", seeded())
    assert torch.equal(output(tiny_unet), before)
    trainable = {id(p) for p in tiny_unet.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in trainable_parameters(tiny_unet, "a")}


def test_every_trained_value_gets_a_gradient(tiny_unet, trained):
    trained(tiny_unet, AdapterSpec("all", "locon"), "a")
    generator = seeded()
    latents, text = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 32, generator=generator)
    tiny_unet(latents, 10, text).sample.square().sum().backward()
    for parameter in trainable_parameters(tiny_unet, "a"):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_initial_values_come_from_the_generator_alone(make_unet):
    def first(global_seed: int, seed: int) -> dict[str, torch.Tensor]:
        unet = make_unet()
        torch.manual_seed(global_seed)
        attach(unet, AdapterSpec(), "a", seeded(seed))
        return weights(unet, "a")

    one, same, other = first(1, 5), first(2, 5), first(1, 6)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_global_random_state_is_left_alone(tiny_unet):
    before = torch.get_rng_state()
    attach(tiny_unet, AdapterSpec(method="locon"), "a", seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_starts_the_same_in_every_mask(make_unet):
    full, part = make_unet(), make_unet()
    attach(full, AdapterSpec("all"), "a", seeded())
    attach(part, AdapterSpec("out1-out3", "locon"), "a", seeded())
    full_weights, part_weights = weights(full, "a"), weights(part, "a")
    shared = full_weights.keys() & part_weights.keys()
    assert len(shared) == 9 * 12
    assert all(torch.equal(full_weights[name], part_weights[name]) for name in shared)


def test_initial_values_are_kaiming_uniform_like_pefts(tiny_unet):
    attach(tiny_unet, AdapterSpec(method="locon", rank=32), "a", seeded())
    for name, a in weights(tiny_unet, "a").items():
        bound = a[0].numel() ** -0.5
        assert a.abs().max() <= bound, name
        if a.numel() > 2000:
            assert a.std() == pytest.approx(bound / 3**0.5, rel=0.1), name


def test_adapters_of_different_masks_live_in_one_unet(tiny_unet):
    first = attach(tiny_unet, AdapterSpec("in0-out1", "locon", 4), "one", seeded(1))
    second = attach(tiny_unet, AdapterSpec("mid+out2-out3:6", "lora", 8), "two", seeded(2))
    assert attached_names(tiny_unet) == ("one", "two")
    for attached in (first, second):
        found = {k: layer.r[attached.name] for k, layer in adapted_layers(tiny_unet, attached.name)}
        assert found == attached.ranks
    assert not any(p.requires_grad for p in trainable_parameters(tiny_unet, "one"))
    assert all(p.requires_grad for p in trainable_parameters(tiny_unet, "two"))


def test_detaching_the_last_adapter_restores_the_unet(tiny_unet, make_unet, output, trained):
    before = output(tiny_unet)
    trained(tiny_unet, AdapterSpec(method="locon"), "a")
    assert not torch.equal(output(tiny_unet), before)
    detach(tiny_unet, "a")
    assert [n for n, _ in tiny_unet.named_modules()] == [n for n, _ in make_unet().named_modules()]
    assert torch.equal(output(tiny_unet), before)
    assert attached_names(tiny_unet) == ()
    attach(tiny_unet, AdapterSpec("mid"), "a", seeded())  # and it can take a new one


def test_detaching_the_active_of_two_does_not_wake_the_other(tiny_unet, output, trained):
    before = output(tiny_unet)
    trained(tiny_unet, AdapterSpec("all"), "one")
    trained(tiny_unet, AdapterSpec("out", "locon"), "two")
    detach(tiny_unet, "two")
    assert attached_names(tiny_unet) == ("one",)
    assert torch.equal(output(tiny_unet), before)
    assert not any(p.requires_grad for p in trainable_parameters(tiny_unet, "one"))


def test_detaching_an_inactive_adapter_leaves_the_active_one(tiny_unet, output, trained):
    trained(tiny_unet, AdapterSpec("all"), "one")
    trained(tiny_unet, AdapterSpec("out", "locon"), "two")
    before = output(tiny_unet)
    detach(tiny_unet, "one")
    assert torch.equal(output(tiny_unet), before)
    assert all(p.requires_grad for p in trainable_parameters(tiny_unet, "two"))


@pytest.mark.parametrize(
    ("spec", "name", "error"),
    [
        (AdapterSpec("in7"), "b", MaskError),
        (AdapterSpec("in3"), "b", MaskError),
        (AdapterSpec("all+all:0"), "b", MaskError),
        (AdapterSpec(), "a", AdapterError),
        (AdapterSpec(), "b.c", AdapterError),
        (AdapterSpec(), "", AdapterError),
        (AdapterSpec(), "type", AdapterError),
    ],
)
def test_a_refused_attachment_leaves_the_unet_as_it_was(
    tiny_unet, output, trained, spec, name, error
):
    trained(tiny_unet, AdapterSpec("out", "locon"), "a")
    modules, before = [n for n, _ in tiny_unet.named_modules()], output(tiny_unet)
    with pytest.raises(error):
        attach(tiny_unet, spec, name, seeded())
    assert [n for n, _ in tiny_unet.named_modules()] == modules
    assert attached_names(tiny_unet) == ("a",)
    assert torch.equal(output(tiny_unet), before)


def test_a_failure_within_peft_is_cleaned_up(tiny_unet, output):
    """PEFT fails at a grouped convolution whose groups do not divide the rank, half way through."""
    resnet = tiny_unet.mid_block.resnets[1]
    resnet.conv1 = nn.Conv2d(64, 64, 3, padding=1, groups=4)
    modules, before = [n for n, _ in tiny_unet.named_modules()], output(tiny_unet)
    with pytest.raises(ValueError, match="groups"):
        attach(tiny_unet, AdapterSpec(method="locon", rank=3), "a", seeded())
    assert [n for n, _ in tiny_unet.named_modules()] == modules
    assert attached_names(tiny_unet) == ()
    assert torch.equal(output(tiny_unet), before)
    attach(tiny_unet, AdapterSpec(method="lora", rank=3), "a", seeded())


def test_unknown_names_list_the_known_ones(tiny_unet):
    with pytest.raises(AdapterError, match="no adapter 'x' in this U-Net; attached: none"):
        detach(tiny_unet, "x")
    attach(tiny_unet, AdapterSpec("mid"), "a", seeded())
    with pytest.raises(AdapterError, match=r"no adapter 'x'.*attached: a"):
        trainable_parameters(tiny_unet, "x")


def test_adapters_are_float32_on_a_half_precision_base(tiny_unet, output):
    tiny_unet.to(torch.bfloat16)
    attach(tiny_unet, AdapterSpec("mid", "locon"), "a", seeded())
    assert {p.dtype for p in trainable_parameters(tiny_unet, "a")} == {torch.float32}


def test_full_size_on_the_meta_device():
    """As benchmarks/attach.py does, which measures it."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    attached = attach(unet, AdapterSpec("all+in0:0+mid:0+out3:4", "locon", 16), "a", seeded())
    assert len(attached.ranks) == 278 - 31 - 18
    assert trainable_parameters(unet, "a")[0].device.type == "meta"
