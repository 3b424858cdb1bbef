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


@pytest.mark.parametrize(
    ("masks", "first"),
    [
        (["OUT04", "out2-out3", "OUT11"], "OUT04"),
        (["OUT05", "OUT06"], "OUT05"),
        (["mid", "out3"], "MID"),
        (["IN06", "IN07"], "IN06"),
        (["IN05", "all+in0:0"], "IN04"),
        (["all", "out3"], "IN01"),
        (["OUT11", "OUT11"], "OUT11"),
    ],
    ids=str,
)
def test_blocks_before_the_first_trained_one_run_once(base, images, masks, first):
    seen = passes(base, images, masks)
    before = list(seen)[: list(seen).index(first)]
    assert all(seen[block] == (CONFIG.batch_size, False) for block in before)
    after = [block for block in seen if block not in before]
    assert all(seen[block] == (CONFIG.batch_size * len(masks), True) for block in after)


def test_inputs_that_differ_are_each_run_once(base, images):
    seen = passes(base, images, ["out3", "out2", "out3"], sources=[0, 1, 0])
    assert seen["IN01"] == (4, False) and seen["OUT05"] == (4, False)
    assert seen["OUT06"] == (6, True) and seen["OUT11"] == (6, True)


def test_nothing_is_repeated_where_all_inputs_differ(base, images):
    seen = passes(base, images, ["out3", "out2"], sources=[0, 1])
    assert {rows for rows, _ in seen.values()} == {4}
    assert seen["OUT05"] == (4, False) and seen["OUT06"] == (4, True)


def test_one_adapter_has_no_gradient_below_its_first_block(base, images):
    seen = passes(base, images, ["mid+out3"])
    assert [block for block, (_, needed) in seen.items() if not needed] == [
        f"IN{i:02d}" for i in range(1, 12)
    ]
