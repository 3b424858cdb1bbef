import dataclasses

import pytest
import torch
from torch.nn.functional import mse_loss

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    attached_names,
    detach,
    load_adapter,
    read_adapter,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.adapters.merge import MergeError, Sum, Weighted, merge
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.ziplora import ZipLoraConfig, learn_columns
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures

CONFIG = ZipLoraConfig(steps=4, batch_size=3, seed=2)


@pytest.fixture
def adapters(base, tmp_path):
    """Two adapters that share the last sub-block."""
    made = []
    for seed, blocks in enumerate(("OUT10-OUT11", "OUT11")):
        spec = AdapterSpec(blocks, "locon", rank=2 + seed)
        attach(base.unet, spec, "a", torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in trainable_parameters(base.unet, "a"):
                parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
        made.append(read_adapter(save_adapter(tmp_path / str(seed), base.unet, "a", spec=spec)))
        detach(base.unet, "a")
    return [Weighted(made[0], 0.9), Weighted(made[1], 1.1)]


@pytest.fixture
def sets(images, tmp_path):
    return [images, read_imagefolder(write_tiny_pictures(tmp_path / "style", 3))]


def answer(base, adapter, batch):
    load_adapter(base.unet, adapter, "now")
    with torch.no_grad():
        result = predict(base, [batch])
    detach(base.unet, "now")
    return result


def distance(base, merged, adapters, batches):
    """How far the merge answers from each adapter alone, on that adapter's pictures."""
    total = 0.0
    for index, batch in enumerate(batches):
        off = [Weighted(w.adapter, w.weight if i == index else 0) for i, w in enumerate(adapters)]
        alone = merge(off, Sum()).adapter
        total += mse_loss(answer(base, merged, batch), answer(base, alone, batch)).item()
    return total


def test_the_first_loss_is_that_of_the_plain_sum(base, adapters, sets):
    """Worked out anew with merged adapters in place of hooks; the overlap of ones is 1 a layer."""
    draws = TrainingConfig(batch_size=3, seed=2)
    batches = [Batch.of(base, CachedSet.of(base, some), draws, 0) for some in sets]
    expected = distance(base, merge(adapters, Sum()).adapter, adapters, batches)
    shared = set(adapters[0].adapter.updates) & set(adapters[1].adapter.updates)
    learned = learn_columns(base, adapters, sets, dataclasses.replace(CONFIG, steps=1))
    assert learned.losses[0] == pytest.approx(expected + 0.01 * len(shared), rel=1e-5)


def test_what_two_adapters_have_in_common_is_not_done_twice(base, adapters, sets):
    """The same adapter as content and as style: the sum overshoots, factors of 1/2 are right."""
    twice = [Weighted(adapters[0].adapter)] * 2
    config = dataclasses.replace(CONFIG, steps=15, learning_rate=0.05, overlap_weight=0)
    rule = learn_columns(base, twice, sets, config).rule
    assert attached_names(base.unet) == ()
    merged, plain = (merge(twice, some).adapter for some in (rule, Sum()))
    unseen = TrainingConfig(batch_size=5, seed=99)
    batches = [Batch.of(base, CachedSet.of(base, some), unseen, 0) for some in sets]
    assert distance(base, merged, twice, batches) < 0.5 * distance(base, plain, twice, batches)
    assert {n: u.rank for n, u in merged.updates.items()} == {
        n: u.rank for n, u in plain.updates.items()
    }  # the factors cost no rank


def test_sharing_columns_costs(base, adapters, sets):
    def overlap(weight):
        config = dataclasses.replace(CONFIG, overlap_weight=weight)
        first, second = learn_columns(base, adapters, sets, config).rule.columns
        return sum((first[name] * second[name]).mean().item() for name in first) / len(first)

    assert overlap(1.0) < overlap(0.0) < 1.1


def test_it_is_deterministic_and_only_shared_layers_get_factors(base, adapters, sets):
    torch.manual_seed(1)
    first = learn_columns(base, adapters, sets, CONFIG).rule
    torch.manual_seed(2)
    second = learn_columns(base, adapters, sets, CONFIG).rule
    shared = set(adapters[0].adapter.updates) & set(adapters[1].adapter.updates)
    for one, two in zip(first.columns, second.columns, strict=True):
        assert set(one) == set(two) == shared
        assert all(torch.equal(one[name], two[name]) for name in one)
    record = merge(adapters, first).adapter.metadata["blockwise_lora.merge"]
    assert record == merge(adapters, second).adapter.metadata["blockwise_lora.merge"]
    assert all(word in record for word in (sets[1].sha256, base.sha256, '"steps": 4'))


def test_what_cannot_be_learned(base, adapters, sets):
    with pytest.raises(MergeError, match="two adapters and the two sets"):
        learn_columns(base, adapters, sets[:1], CONFIG)
    apart = [Weighted(adapters[0].adapter, 0.0), adapters[1]]
    with pytest.raises(MergeError, match=r"share no layer.*take rule sum"):
        learn_columns(base, apart, sets, CONFIG)
    with pytest.raises(ValueError, match=r"steps is at least 1.*\n.*learning_rate is positive"):
        ZipLoraConfig(steps=0, learning_rate=0)
