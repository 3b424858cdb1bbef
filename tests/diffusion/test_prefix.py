"""How much of the U-Net runs for whom, read off the batches that pass through it."""

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, attach
from blockwise_lora.blocks import BlockMap
from blockwise_lora.diffusion.batched import BatchedAdapters
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import generator_for

CONFIG = TrainingConfig(batch_size=2)


def passes(base, images, masks, sources=None):
    """Batch and need of a gradient of each sub-block's output, in forward order."""
    names = [f"m{i}" for i in range(len(masks))]
    for name, mask in zip(names, masks, strict=True):
        attach(base.unet, AdapterSpec(mask, "locon", 2), name, generator_for(0))
    seen = {}

    def watch(block):
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[block] = len(output), output.requires_grad

        return hook

    hooks = []
    for block in BlockMap.of(base.unet).sub_blocks:
        module = base.unet.get_submodule(block.prefixes[0])
        module = module[0] if isinstance(module, torch.nn.ModuleList) else module
        hooks.append(module.register_forward_hook(watch(block.name)))
    adapters = BatchedAdapters(base.unet, names)
    sources = sources or [0] * len(masks)
    cached = CachedSet.of(base, images)
    batches = [Batch.of(base, cached, CONFIG, step) for step in range(max(sources) + 1)]
    with adapters.installed(), adapters.acting(names, sources, CONFIG.batch_size):
        answer = predict(base, batches)
    for hook in hooks:
        hook.remove()
    assert answer.shape[0] == CONFIG.batch_size * len(masks)
    return seen


# For each case: slices (streams of the base among them) from the named blocks on.
@pytest.mark.parametrize(
    ("masks", "slices"),
    [
        (["OUT11", "OUT11"], {"OUT11": 2}),
        (["mid", "out3"], {"MID": 2}),  # the last one would only take the stream's place
        (["OUT04", "out2-out3", "OUT11"], {"OUT04": 2, "OUT06": 3}),
        (["OUT05", "OUT06", "OUT10", "OUT10"], {"OUT05": 2, "OUT06": 3, "OUT10": 4}),
        (["IN05", "IN06", "IN06", "IN07", "IN07"], {"IN05": 2, "IN06": 4, "IN07": 5}),
        (["all", "mid", "mid", "out3", "out3"], {"IN01": 2, "MID": 4, "OUT09": 5}),
    ],
    ids=str,
)
def test_each_adapter_has_a_slice_from_its_first_block_on(base, images, masks, slices):
    seen = passes(base, images, masks)
    expected, now = {}, 1
    for block in seen:
        now = slices.get(block, now)
        expected[block] = CONFIG.batch_size * now, now > 1
    assert seen == expected


def test_inputs_that_differ_are_each_run_once(base, images):
    seen = passes(base, images, ["out2", "out2", "out3", "out3", "out3"], sources=[0, 1, 0, 1, 0])
    assert seen["IN01"] == (4, False) and seen["OUT05"] == (4, False)
    assert seen["OUT06"] == (8, True) and seen["OUT08"] == (8, True)
    assert seen["OUT09"] == (10, True) and seen["OUT11"] == (10, True)


def test_nothing_is_repeated_where_all_inputs_differ(base, images):
    seen = passes(base, images, ["out2", "out3"], sources=[0, 1])
    assert {rows for rows, _ in seen.values()} == {4}
    assert seen["OUT05"] == (4, False) and seen["OUT06"] == (4, True)


def test_one_adapter_has_no_gradient_below_its_first_block(base, images):
    seen = passes(base, images, ["mid+out3"])
    assert [block for block, (_, needed) in seen.items() if not needed] == [
        f"IN{i:02d}" for i in range(1, 12)
    ]


def test_no_gradient_reaches_below_the_block_where_an_adapter_begins(base, images):
    """The backward pass, counted: rows whose gradient is not zero."""
    names = ["m0", "m1", "m2", "m3"]
    for name, mask in zip(names, ["OUT05", "out3", "out3", "out3"], strict=True):
        attach(base.unet, AdapterSpec(mask, "locon", 2), name, generator_for(0))
    went_back = {}

    def watch(block):
        def hook(module, inputs, output):
            output.register_hook(lambda g: went_back.update({block: g.flatten(1).norm(dim=1) > 0}))

        return hook

    resnets = {"OUT06": "up_blocks.2.resnets.0", "OUT09": "up_blocks.3.resnets.0"}
    hooks = [
        base.unet.get_submodule(name).register_forward_hook(watch(block))
        for block, name in resnets.items()
    ]
    adapters = BatchedAdapters(base.unet, names)
    batch = Batch.of(base, CachedSet.of(base, images), CONFIG, 0)
    with adapters.installed(), adapters.acting(names, [0] * 4, CONFIG.batch_size):
        predict(base, [batch]).square().mean().backward()
    for hook in hooks:
        hook.remove()
    assert went_back["OUT06"].tolist() == [True, True, False, False], "m0 alone, not the stream"
    assert went_back["OUT09"].tolist() == [True] * 8
