import dataclasses

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, attach, set_strengths, trainable_parameters
from blockwise_lora.diffusion.batched import BatchedAdapters
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import generator_for

CONFIG = TrainingConfig(batch_size=3)
SPECS = {
    "whole": AdapterSpec("all", "locon", 4, alpha=2.0, conv_rank=2),
    "ranks": AdapterSpec("all:2+mid:5+in0:0", "locon", 3),
    "bottom": AdapterSpec("in3-out0", "locon", 2, conv_alpha=3.0),
    "shallow": AdapterSpec("out3", "lora", 2),
}


def attach_all(base, specs):
    """Attach with B drawn, too: where it is zero, A has no gradient."""
    for name, spec in specs.items():
        attach(base.unet, spec, name, generator_for(1, name))
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for up in trainable_parameters(base.unet, name)[1::2]:
                up.copy_(torch.randn(up.shape, generator=generator) * 0.3)


@torch.no_grad()
def gradients(base, adapters, name):
    """Gradients in the shapes of PEFT's weights; the adapter's values are as before."""
    before = [p.clone() for p in adapters.parameters(name)]
    for parameter in adapters.parameters(name):
        parameter.copy_(parameter.grad)
        parameter.grad.zero_()
    adapters.write_back()
    found = [p.clone() for p in trainable_parameters(base.unet, name)]
    for parameter, value in zip(adapters.parameters(name), before, strict=True):
        parameter.copy_(value)
    adapters.write_back()
    return found


def alone(base, adapters, name, batch):
    with adapters.acting([name], [0], CONFIG.batch_size):
        loss = batch.loss(predict(base, [batch]))
        loss.backward()
    return loss.item(), gradients(base, adapters, name)


def peft(base, name, batch):
    """PEFT's own forward pass, with nothing of ours in it."""
    base.unet.set_adapter(name)
    loss = batch.loss(predict(base, [batch]))
    loss.backward()
    found = [p.grad.clone() for p in trainable_parameters(base.unet, name)]
    base.unet.zero_grad()
    return loss.item(), found


def assert_near(first, second):
    # Some gradients are zero but for rounding: queries and keys where there is a single pixel.
    largest = max(b.norm() for b in second)
    assert largest > 0
    for a, b in zip(first, second, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7 * largest


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_are_those_of_separate_runs(base, images, shared):
    attach_all(base, SPECS)
    cached = CachedSet.of(base, images)
    assert sorted(SPECS, key=BatchedAdapters(base.unet, list(SPECS)).order) == list(SPECS)
    configs = [dataclasses.replace(CONFIG, seed=0 if shared else i) for i in range(len(SPECS))]
    batches = [Batch.of(base, cached, config, 7) for config in configs]
    reference = {name: peft(base, name, batch) for name, batch in zip(SPECS, batches, strict=True)}
    adapters = BatchedAdapters(base.unet, list(SPECS))
    distinct, sources = (batches[:1], [0] * 4) if shared else (batches, range(4))
    with adapters.installed():
        single = {
            name: alone(base, adapters, name, batch)
            for name, batch in zip(SPECS, batches, strict=True)
        }
        with adapters.acting(list(SPECS), sources, CONFIG.batch_size):
            answers = predict(base, distinct).split(CONFIG.batch_size)
            losses = [b.loss(a) for b, a in zip(batches, answers, strict=True)]
            sum(losses).backward()
    for name, loss in zip(SPECS, losses, strict=True):
        together = gradients(base, adapters, name)
        for other_loss, others in (single[name], reference[name]):
            assert loss.item() == pytest.approx(other_loss, rel=1e-4)
            assert_near(together, others)


@pytest.mark.parametrize("method", ["rslora", "dora", "loha", "lokr", "oft"])
def test_every_method_trains_beside_others(base, images, method):
    """Layers whose adapters are not all plain low-rank ones go through PEFT slice by slice."""
    specs = {
        "lora": AdapterSpec("mid+out3", "lora", 2),
        "other": AdapterSpec("mid+out2", method, 2),
    }
    attach_all(base, specs)
    batch = Batch.of(base, CachedSet.of(base, images), CONFIG, 7)
    reference = {name: peft(base, name, batch) for name in specs}
    adapters = BatchedAdapters(base.unet, list(specs))
    with adapters.installed(), adapters.acting(list(specs), [0, 0], CONFIG.batch_size):
        losses = [batch.loss(a) for a in predict(base, [batch]).split(CONFIG.batch_size)]
        sum(losses).backward()
    for name, loss in zip(specs, losses, strict=True):
        assert loss.item() == pytest.approx(reference[name][0], rel=1e-4)
        assert_near(gradients(base, adapters, name), reference[name][1])


def test_a_slice_that_is_not_finite_spoils_no_other(base, images):
    attach_all(base, SPECS)
    with torch.no_grad():
        trainable_parameters(base.unet, "whole")[0].fill_(torch.nan)
    adapters = BatchedAdapters(base.unet, list(SPECS))
    batch = Batch.of(base, CachedSet.of(base, images), CONFIG, 0)
    with adapters.installed(), adapters.acting(list(SPECS), [0] * 4, CONFIG.batch_size):
        answers = predict(base, [batch]).split(CONFIG.batch_size)
        losses = [batch.loss(answer) for answer in answers]
        sum(losses).backward()
    assert not losses[0].isfinite() and all(loss.isfinite() for loss in losses[1:])
    for name in ("ranks", "shallow", "bottom"):
        assert all(g.isfinite().all() for g in gradients(base, adapters, name))


METHODS = {
    "locon": AdapterSpec("mid", "locon", 2),
    "loha": AdapterSpec("mid", "loha", 2, conv=True),
    "dora": AdapterSpec("mid+out3", "dora", 2, conv=True),
    "oft": AdapterSpec("mid", "oft", 4),
}


def test_adapters_of_several_methods_share_a_pass(base, images):
    """They wrap the same layers; each slice has one of them, as if it were alone."""
    for name, spec in METHODS.items():
        attach(base.unet, spec, name, generator_for(1, name))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainable_parameters(base.unet, name):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    batch = Batch.of(base, CachedSet.of(base, images), CONFIG, 7)
    reference = {}
    for name in METHODS:
        set_strengths(base.unet, {name: 1.0})
        base.unet.requires_grad_(False)
        for parameter in trainable_parameters(base.unet, name):
            parameter.requires_grad_(True)
        loss = batch.loss(predict(base, [batch]))
        loss.backward()
        grads = [p.grad.clone() for p in trainable_parameters(base.unet, name)]
        reference[name] = loss.item(), grads
        base.unet.zero_grad()
    adapters = BatchedAdapters(base.unet, list(METHODS))
    order = sorted(METHODS, key=adapters.order)
    with adapters.installed(), adapters.acting(order, [0] * 4, CONFIG.batch_size):
        answers = predict(base, [batch]).split(CONFIG.batch_size)
        losses = {name: batch.loss(a) for name, a in zip(order, answers, strict=True)}
        sum(losses.values()).backward()
    for name, (loss, grads) in reference.items():
        assert losses[name].item() == pytest.approx(loss, rel=1e-4)
        assert_near([p.grad for p in trainable_parameters(base.unet, name)], grads)


@pytest.mark.parametrize("method", ["locon", "loha"])
def test_values_are_grouped_by_the_rate_of_their_block(base, method):
    rates = {"out": 0.5, "mid": 0.0}
    spec = AdapterSpec("in0+mid+out3", method, 2, conv=method == "loha", rates=rates)
    attached = attach(base.unet, spec, "a", torch.Generator())
    adapters = BatchedAdapters(base.unet, ["a"])
    groups = {group.rate: group.parameters for group in adapters.groups("a", attached.rates)}
    counted = {rate: sum(p.numel() for p in some) for rate, some in groups.items()}
    blocks = attached.blocks
    expected = {1.0: 0, 0.5: 0, 0.0: blocks["MID"]}
    for name, number in blocks.items():
        if name != "MID":
            expected[1.0 if name.startswith("IN") else 0.5] += number
    assert counted == expected
