import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

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
from blockwise_lora.adapters.words import LearnedWord
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.ziplora import ZipLoraConfig, learn_columns
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures

CONFIG = ZipLoraConfig(steps=4, batch_size=3, seed=2)


def test_the_papers_numbers():
    """Section 4: lambda 0.01, at most 100 steps; appendix A: learning rate 0.01, start at ones."""
    plain = ZipLoraConfig()
    assert (plain.steps, plain.learning_rate, plain.overlap_weight) == (100, 0.01, 0.01)


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


class Zipped(nn.Module):
    """Equation 2 on a full matrix: W + m_c * D_c + m_s * D_s, column by column."""

    def __init__(self, changes):
        super().__init__()
        self.changes = changes
        self.columns = nn.ParameterList(torch.ones(change.shape[1]) for change in changes)

    def forward(self, weight):
        pairs = zip(self.columns, self.changes, strict=True)
        return weight + sum(m.reshape(1, -1, *(1,) * (d.dim() - 2)) * d for m, d in pairs)


def test_the_factors_are_those_of_the_published_loss(base, adapters, sets):
    """Equation 3, minimised anew by Adam on full matrices in the place of hooks on factors."""
    learned = learn_columns(base, adapters, sets, CONFIG).rule.columns
    draws, cached = TrainingConfig(batch_size=3, seed=2), [CachedSet.of(base, s) for s in sets]
    steps = [[Batch.of(base, one, draws, step) for one in cached] for step in range(CONFIG.steps)]
    nothing = [Weighted(one.adapter, 0.0) for one in adapters]
    alone = [merge([adapters[0], nothing[1]], Sum()), merge([nothing[0], adapters[1]], Sum())]
    wanted = [
        [answer(base, a.adapter, b) for a, b in zip(alone, two, strict=True)] for two in steps
    ]
    zipped = {}
    base.unet.requires_grad_(False)
    for name in dict.fromkeys(n for a in adapters for n in a.adapter.updates):
        having = [a for a in adapters if name in a.adapter.updates]
        rule = Zipped([a.weight * a.adapter.updates[name].delta() for a in having])
        rule.requires_grad_(len(having) == 2)
        register_parametrization(base.unet.get_submodule(name), "weight", rule)
        if len(having) == 2:
            zipped[name] = rule.columns
    optimizer = torch.optim.Adam([m for pair in zipped.values() for m in pair], lr=0.01)
    try:
        for batches, targets in zip(steps, wanted, strict=True):
            pairs = zip(batches, targets, strict=True)
            loss = sum((predict(base, [b]) - target).square().mean() for b, target in pairs)
            loss = loss + 0.01 * sum(torch.dot(c, s).abs() / len(c) for c, s in zipped.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        for name in dict.fromkeys(n for a in adapters for n in a.adapter.updates):
            remove_parametrizations(base.unet.get_submodule(name), "weight", False)
    assert set(zipped) == set(learned[0])
    for name, pair in zipped.items():
        for ours, theirs in zip(learned, pair, strict=True):
            assert (ours[name] - 1).abs().max() > 0.02
            torch.testing.assert_close(ours[name], theirs.detach(), rtol=0, atol=1e-3)


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


def test_adapters_that_change_what_captions_mean_are_refused(base, adapters, sets, tmp_path):
    word = LearnedWord("zkc", "zkc", (torch.ones(1, 24),))
    worded = Weighted(dataclasses.replace(adapters[0].adapter, word=word), name="cat")
    with pytest.raises(MergeError, match=r"cat has learned the word 'zkc': take rule sum"):
        learn_columns(base, [worded, adapters[1]], sets, CONFIG)
    spec = AdapterSpec("OUT11+base", "lora", rank=2)
    attach(base.parts, spec, "a", torch.Generator().manual_seed(0))
    text = Weighted(read_adapter(save_adapter(tmp_path / "text", base.parts, "a", spec=spec)))
    detach(base.parts, "a")
    with pytest.raises(MergeError, match="an adapter acts in the text encoder: take rule sum"):
        learn_columns(base, [adapters[0], text], sets, CONFIG)
    assert attached_names(base.parts) == ()
