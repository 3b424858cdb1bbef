"""DreamBooth's full fine-tuning, as an adapter of full rank."""

import pytest
import torch

from blockwise_lora.adapters import (
    AdapterSpec,
    detach,
    load_adapter,
    read_adapter,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.adapters.plan import Plan
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from blockwise_lora.diffusion.trainer import train

FULL = AdapterSpec(method="full")
CONFIG = TrainingConfig(
    steps=3,
    batch_size=2,
    learning_rate=1e-3,
    schedule=ScheduleConfig("constant"),
    optimizer=OptimizerConfig(weight_decay=0.0),
)


def trained_directly(base, images, names):
    """The weights' changes, by training them themselves."""
    cached = CachedSet.of(base, images)
    weights = [base.unet.get_submodule(name).weight for name in names]
    before = [weight.detach().clone() for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
        for step in range(CONFIG.steps):
            batch = Batch.of(base, cached, CONFIG, step)
            optimizer.zero_grad()
            batch.loss(predict(base, [batch])).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        return [(w.detach() - b) for w, b in zip(weights, before, strict=True)]
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.requires_grad_(False).copy_(value)


def test_it_is_training_the_weights_themselves(base, images, tmp_path):
    names = list(Plan.of(BlockMap.of(base.unet), FULL).ranks)
    wanted = trained_directly(base, images, names)
    trained = train(base, images, FULL, CONFIG)
    save_adapter(tmp_path, base.unet, "adapter", spec=FULL)
    adapter = read_adapter(tmp_path)
    for name, change in zip(names, wanted, strict=True):
        # Adam divides by the gradient's size, so that rounding of tiny ones is as large as a step.
        off = (adapter.updates[name].delta() - change).abs()
        assert off.max() < 1e-3 and (off > 1e-5).float().mean() < 0.02, name
    assert sum(trained.attached.blocks.values()) > sum(c.numel() for c in wanted)


def test_the_identity_stays_and_only_the_change_is_trained(base, images):
    train(base, images, FULL, CONFIG)
    pairs = trainable_parameters(base.unet, "adapter")
    for down, up in zip(pairs[::2], pairs[1::2], strict=True):
        rank, flat = len(down), [down.flatten(1), up.flatten(1)]
        assert sum(torch.equal(part, torch.eye(rank)) for part in flat) == 1


def test_the_mask_chooses_blocks_and_the_file_comes_back(base, images, tmp_path):
    spec = AdapterSpec("out3", "full")
    plan = Plan.of(BlockMap.of(base.unet), spec)
    assert all(name.startswith("up_blocks.3") for name in plan.ranks)
    weights = [base.unet.get_submodule(name).weight for name in plan.ranks]
    assert sum(plan.parameters.values()) == sum(w.numel() for w in weights)
    train(base, images, spec, CONFIG)
    batch = Batch.of(base, CachedSet.of(base, images), CONFIG, 5)
    answer = predict(base, [batch])
    save_adapter(tmp_path, base.unet, "adapter", spec=spec)
    detach(base.unet, "adapter")
    assert not torch.equal(predict(base, [batch]), answer)
    load_adapter(base.unet, read_adapter(tmp_path), "again")
    assert torch.equal(predict(base, [batch]), answer)


def test_ranks_and_scales_have_no_place_in_it():
    with pytest.raises(ValueError, match="full trains the weights themselves"):
        AdapterSpec(method="full", alpha=4.0)
