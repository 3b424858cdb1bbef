import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._dynamo.utils import counters

from blockwise_lora.adapters import AdapterSpec, detach
from blockwise_lora.diffusion import compiling
from blockwise_lora.diffusion.compiling import CompileError
from blockwise_lora.diffusion.config import EfficiencyConfig, TrainingConfig
from blockwise_lora.diffusion.prefix import SharedPrefix
from blockwise_lora.diffusion.trainer import Job, train_many

EAGER = TrainingConfig(steps=4, batch_size=2, learning_rate=1e-2)
COMPILED = dataclasses.replace(EAGER, efficiency=EfficiencyConfig(compile=True))


def small(base, attention):
    """A model of one resolution: compiling takes its time."""
    kind = "CrossAttn" if attention else ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=(f"{kind}DownBlock2D",),
            mid_block_type=None,
            up_block_types=(f"{kind}UpBlock2D",),
            norm_num_groups=4,
            attention_head_dim=1,
            cross_attention_dim=24,
        )
    return dataclasses.replace(base, unet=unet.requires_grad_(False).eval())


def losses(base, images, config, specs, **options):
    """Of each adapter and step; the U-Net is as before."""
    jobs = [Job(f"a{i}", images, spec, config) for i, spec in enumerate(specs)]
    outcomes = train_many(base, jobs, **options)
    for job in jobs:
        detach(base.unet, job.name)
    return [loss for outcome in outcomes for loss in outcome.losses]


class Counting:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self):
        self.graphs = self.calls = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.calls += 1
            return graph(*args)

        return run


@pytest.fixture
def counting(monkeypatch):
    backend = Counting()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    return backend


def test_a_compiled_training_learns_the_same(base, images, monkeypatch):
    """With the real compiler, which takes 10 s for each part: one will do."""
    parts = compiling._parts
    monkeypatch.setattr(compiling, "_parts", lambda unet: parts(unet)[-1:])
    model, specs = small(base, attention=False), [AdapterSpec("all", "locon", 2)]
    plain = losses(model, images, EAGER, specs)
    before = counters["stats"]["unique_graphs"]
    fast = losses(model, images, COMPILED, specs)
    assert counters["stats"]["unique_graphs"] - before == 1
    assert fast == pytest.approx(plain, rel=1e-4) and fast[-1] != plain[0]
    assert not any("forward" in vars(module) for module in model.unet.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_in_one_pass_share_a_compiled_prefix(
    base, images, counting, monkeypatch, checkpointing
):
    shared, sharing = [], SharedPrefix.sharing
    monkeypatch.setattr(
        SharedPrefix, "sharing", lambda self, *a: shared.append(self._unet) or sharing(self, *a)
    )
    model = small(base, attention=not checkpointing)
    specs = [AdapterSpec("out0", "locon", 2), AdapterSpec("all", "locon", 3)]
    plain = losses(model, images, EAGER, specs)
    efficiency = EfficiencyConfig(compile=True, gradient_checkpointing=checkpointing)
    config, graphs = dataclasses.replace(EAGER, efficiency=efficiency), []
    fast = losses(model, images, config, specs, on_step=lambda step: graphs.append(counting.graphs))
    assert fast == pytest.approx(plain, rel=1e-4)
    parts = 3 if checkpointing else 6
    assert graphs[0] >= parts and len(set(graphs)) == 1, "each part, in the first step only"
    assert shared and counting.calls >= 4 * parts


def test_methods_without_factors_are_compiled_too(base, images, counting):
    model, specs = small(base, attention=False), [AdapterSpec("out0", "loha", 2, conv=True)]
    once, compiled = (dataclasses.replace(config, steps=1) for config in (EAGER, COMPILED))
    plain = losses(model, images, once, specs)
    assert losses(model, images, compiled, specs) == pytest.approx(plain, rel=1e-4)
    assert counting.calls > 0


def test_without_gradients_nothing_is_compiled(base, counting):
    model = small(base, attention=False)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor(5), torch.randn(1, 3, 24)
    with compiling.compiled(model.unet):
        with torch.no_grad():
            model.unet(*inputs)
        assert counting.calls == 0
        model.unet(*inputs)
        assert counting.calls == 3


def test_a_compiler_that_is_missing_is_named_with_the_remedy(base, images, monkeypatch):
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    model = small(base, attention=False)
    with pytest.raises(CompileError, match=r"efficiency\.compile.*compiler.*compile: false"):
        losses(model, images, COMPILED, [AdapterSpec("all", "locon", 3)])
    assert not any("forward" in vars(module) for module in model.unet.modules())
