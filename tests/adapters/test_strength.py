import copy

import pytest
import torch
from torch import nn

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    attach,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.blocks import BlockMap, MaskError


def with_deltas(
    plain: nn.Module, unet: nn.Module, strengths: dict[str, dict[str, float]]
) -> nn.Module:
    """A copy of the plain U-Net with the sum of strength * alpha / rank * B A in its weights."""
    sum_of_all = copy.deepcopy(plain)
    modules, blocks = dict(sum_of_all.named_modules()), BlockMap.of(plain).layers
    with torch.no_grad():
        for name, by_block in strengths.items():
            for key, layer in adapted_layers(unet, name):
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                delta = torch.einsum("or,ri->oi", b.flatten(1).double(), a.flatten(1).double())
                delta *= layer.lora_alpha[name] / layer.r[name] * by_block[blocks[key][0].name]
                modules[key].weight += delta.reshape(modules[key].weight.shape).float()
    return sum_of_all


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() / other.norm() < 2e-6)


@pytest.fixture
def two(make_unet, trained):
    """A U-Net with two adapters that differ in mask, rank, method and scale, and a plain one."""
    unet = make_unet()
    trained(unet, AdapterSpec("in0-out1+mid:2", "locon", rank=8, alpha=4, conv_rank=3), "one", 1)
    trained(unet, AdapterSpec("in1+out:16", "lora", rank=4, alpha=6), "two", 2)
    return make_unet(), unet


def every(unet: nn.Module, strength: float) -> dict[str, float]:
    return dict.fromkeys(BlockMap.of(unet).names, strength)


@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.5, 0.0), (0.0, 1.5), (-0.7, 0.3)])
def test_two_adapters_act_as_the_sum_of_their_updates(two, output, pair):
    plain, unet = two
    set_strengths(unet, {"one": pair[0], "two": pair[1]})
    expected = with_deltas(
        plain, unet, {"one": every(plain, pair[0]), "two": every(plain, pair[1])}
    )
    assert close(output(unet), output(expected))


def test_strengths_by_block_reach_every_layer(two, output):
    plain, unet = two
    returned = set_strengths(
        unet, {"one": {"in": 0.25, "IN10": 0, "out0": 2}, "two": {"all": 0, "OUT07-out3": 0.5}}
    )
    names = BlockMap.of(plain).names
    one = every(plain, 1) | {name: 0.25 for name in names if name.startswith("IN")}
    one |= {"IN10": 0} | dict.fromkeys(["OUT00", "OUT01", "OUT02"], 2)
    two_ = every(plain, 0) | dict.fromkeys(["OUT07", "OUT08", "OUT09", "OUT10", "OUT11"], 0.5)
    assert close(output(unet), output(with_deltas(plain, unet, {"one": one, "two": two_})))
    # Only what an adapter touches comes back: the blocks of its mask that have such layers.
    assert returned["one"] == {k: v for k, v in one.items() if k < "OUT06"}
    touched = {"IN04", "IN05", *(f"OUT{i:02d}" for i in range(3, 12))}
    assert returned["two"] == {k: v for k, v in two_.items() if k in touched}


@pytest.mark.parametrize("block", ["in3", "out0", "IN03", "mid"])
def test_convolutions_of_one_block_can_be_silenced(make_unet, output, trained, block):
    """In blocks without attention, too: there diffusers' set_adapters leaves them at 1."""
    plain, unet = make_unet(), make_unet()
    trained(unet, AdapterSpec(block, "locon"), "a")
    assert not close(output(unet), output(plain))
    set_strengths(unet, {"a": {block: 0}})
    assert torch.equal(output(unet), output(plain))


def test_whatever_is_not_named_is_off(two, output):
    plain, unet = two
    set_strengths(unet, {"one": 1.0})
    assert close(output(unet), output(with_deltas(plain, unet, {"one": every(plain, 1)})))
    set_strengths(unet, {})
    assert torch.equal(output(unet), output(plain))
    set_strengths(unet, {"two": 1.0})
    assert close(output(unet), output(with_deltas(plain, unet, {"two": every(plain, 1)})))


def test_strengths_do_not_add_up_over_calls(two, output):
    _, unet = two
    set_strengths(unet, {"one": 0.8, "two": 0.6})
    before = output(unet)
    set_strengths(unet, {"one": 0.1, "two": {"out": 0}})
    set_strengths(unet, {"one": 0.8, "two": 0.6})
    assert torch.equal(output(unet), before)


def test_disabled_adapters_come_back(two, output):
    plain, unet = two
    set_strengths(unet, {"one": 1.0, "two": 1.0})
    before = output(unet)
    unet.disable_adapters()
    assert torch.equal(output(unet), output(plain))
    set_strengths(unet, {"one": 1.0, "two": 1.0})
    assert torch.equal(output(unet), before)


def test_what_is_trainable_stays_so(tiny_unet):
    attach(tiny_unet, AdapterSpec("mid"), "frozen", torch.Generator())
    attach(tiny_unet, AdapterSpec("mid"), "trained", torch.Generator())
    set_strengths(tiny_unet, {"frozen": 1.0, "trained": 0.0})
    assert not any(p.requires_grad for p in trainable_parameters(tiny_unet, "frozen"))
    assert all(p.requires_grad for p in trainable_parameters(tiny_unet, "trained"))


@pytest.mark.parametrize(
    ("strengths", "error", "message"),
    [
        ({"three": 1.0}, AdapterError, "no adapter 'three' in this U-Net; attached: one, two"),
        ({"one": 0.5, "two": {"in9": 1}}, MaskError, "no block in9"),
        ({"one": 0.5, "two": {"upper1": 1}}, MaskError, "did you mean 'upper'"),
        ({"one": 0.5, "two": float("nan")}, AdapterError, "not finite"),
        ({"one": 0.5, "two": {"mid": "1"}}, AdapterError, "not a number"),
    ],
)
def test_mistakes_change_nothing(two, output, strengths, error, message):
    _, unet = two
    before = output(unet)
    with pytest.raises(error, match=message):
        set_strengths(unet, strengths)
    assert torch.equal(output(unet), before)
