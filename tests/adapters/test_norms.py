import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, block_norms, read_adapter, save_adapter
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.blocks import BlockMap


def test_norms_are_those_of_the_full_updates(tiny_unet, trained, tmp_path):
    spec = AdapterSpec("in2-out1+MID:3", "locon", rank=8, alpha=4, conv_rank=2)
    trained(tiny_unet, spec, "a")
    squares = {}
    blocks = BlockMap.of(tiny_unet)
    for key, layer in adapted_layers(tiny_unet, "a"):
        square = layer.get_delta_weight("a").double().square().sum().item()
        name = blocks.layers[key][0].name
        squares[name] = squares.get(name, 0) + square
    norms = block_norms(read_adapter(save_adapter(tmp_path, tiny_unet, "a", spec=spec)))
    assert list(norms) == [name for name in blocks.names if name in squares]
    assert norms == pytest.approx({k: s**0.5 for k, s in squares.items()}, rel=1e-5)


def test_an_untrained_adapter_has_norm_zero(tiny_unet, tmp_path):
    from blockwise_lora.adapters import attach

    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    adapter = read_adapter(save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec("mid")))
    assert block_norms(adapter) == {"MID": 0}
