"""Adapters of every method, against both at work in a U-Net."""

import pytest
import torch

from blockwise_lora.adapters import (
    AdapterSpec,
    Dora,
    Hadamard,
    LowRank,
    load_adapter,
    read_adapter,
    save_adapter,
    set_strengths,
)
from blockwise_lora.adapters.merge import (
    Base,
    Dare,
    KLora,
    Linear,
    MagnitudePrune,
    MergeError,
    Pick,
    Sum,
    Svd,
    Ties,
    Weighted,
    ZipLora,
    choose_adapter,
    merge,
)
from blockwise_lora.adapters.merge.parts import in_float32

SPECS = {
    "lora": AdapterSpec("mid-out1", rank=3),
    "locon": AdapterSpec("in2-out0", "locon", rank=4, alpha=2),
    "rslora": AdapterSpec("mid+out2", "rslora", rank=4, alpha=2),
    "dora": AdapterSpec("mid-out1", "dora", rank=2),
    "loha": AdapterSpec("mid-out1", "loha", rank=2, conv=True),
    "lokr": AdapterSpec("mid-out1", "lokr", rank=2, conv=True),
    "oft": AdapterSpec("mid-out1", "oft", rank=4),
}
WEIGHTS = {"first": 0.8, "second": -0.5}
NEED_BASE = ("dora", "oft")


@pytest.fixture
def make(make_unet, trained, tmp_path):
    """An adapter of a method, as its file holds it."""

    def read(method, seed=1):
        unet, spec = make_unet(), SPECS[method]
        trained(unet, spec, "a", seed=seed)
        return read_adapter(save_adapter(tmp_path / f"{method}{seed}", unet, "a", spec=spec))

    return read


def relative(one, other, origin):
    return ((one - other).norm() / (other - origin).norm()).item()


PAIRS = [("locon", m) for m in SPECS] + [("loha", "loha"), ("dora", "oft"), ("dora", "lokr")]


@pytest.mark.parametrize("methods", PAIRS, ids="-".join)
def test_the_sum_is_both_at_once(make, make_unet, output, methods):
    adapters = [make(method, seed) for seed, method in enumerate(methods)]
    both, origin = make_unet(), output(make_unet())
    for name, adapter in zip(WEIGHTS, adapters, strict=True):
        load_adapter(both, adapter, name)
    set_strengths(both, WEIGHTS)
    expected = output(both)
    pair = [Weighted(a, w) for a, w in zip(adapters, WEIGHTS.values(), strict=True)]
    plain = make_unet()
    merged = merge(pair, Sum(), base=Base.of(plain))
    assert merged.errors == {}
    load_adapter(plain, merged.adapter, "merged")
    assert relative(output(plain), expected, origin) < 1e-4
    baked = make_unet()
    merge(pair, Sum(), base=Base.of(baked), bake=True).apply(baked)
    assert relative(output(baked), expected, origin) < 1e-4


@pytest.mark.parametrize("method", NEED_BASE)
def test_what_depends_on_the_base_says_so(make, make_unet, method):
    pair = [Weighted(make(method), 0.5), Weighted(make("lora"))]
    for rule in (Sum(), Svd(4), Ties(rank=4), Dare(rank=4), MagnitudePrune(rank=4), KLora()):
        with pytest.raises(MergeError, match=r"adapter 1 is .*name the base model"):
            merge(pair, rule)
        merge(pair, rule, base=Base.of(make_unet()))


@pytest.mark.parametrize("method", ["dora", "loha", "lokr", "oft"])
def test_rules_of_factors_refuse_other_methods(make, method, make_unet):
    pair = [Weighted(make("lora")), Weighted(make(method))]
    base = Base.of(make_unet())
    with pytest.raises(MergeError, match=r"linear adds factors A and B.*take svd"):
        merge(pair, Linear(), base=base)
    columns = {m: torch.ones(u.shape[1]) for m, u in pair[1].adapter.updates.items()}
    with pytest.raises(MergeError, match="ziplora scales the factor A"):
        merge(pair, ZipLora((columns, columns), {}), base=base)


def test_one_method_on_disjoint_masks_stays_what_it_is(make, make_unet):
    """LoHa of rank 2 would be LoRA of rank 4; DoRA does not even need the base."""
    kinds = {"loha": Hadamard, "dora": Dora}
    for method, kind in kinds.items():
        adapter = make(method)
        with torch.device("meta"):
            structure = Base.of(make_unet())
        merged = merge([Weighted(adapter)] * 2, Pick(("mid", "out1")), base=structure).adapter
        assert {type(update) for update in merged.updates.values()} == {kind}
        assert all(update is adapter.updates[module] for module, update in merged.updates.items())


def test_methods_that_meet_become_low_rank(make, make_unet):
    pair = [Weighted(make("loha")), Weighted(make("locon"))]
    merged = merge(pair, Sum()).adapter
    assert {type(update) for update in merged.updates.values()} == {LowRank}
    module = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"  # loha's alone
    assert merged.updates[module].rank == 4  # the product of two matrices of rank 2


def test_klora_chooses_among_methods(make, make_unet, output):
    adapters = [make("loha"), make("lokr")]
    merged = merge([Weighted(adapter) for adapter in adapters], KLora())
    unet = make_unet()
    for name, adapter in zip(WEIGHTS, adapters, strict=True):
        load_adapter(unet, adapter, name)
    set_strengths(unet, dict.fromkeys(WEIGHTS, 1.0))
    choose_adapter(unet, tuple(WEIGHTS), merged, 4, 10)
    chosen = merged.chosen(4, 10)
    assert set(chosen) == set(adapters[0].updates)
    expected = make_unet()
    with torch.no_grad():
        for module, index in chosen.items():
            change = adapters[index].updates[module].delta()
            expected.get_submodule(module).weight += change
    assert relative(output(unet), output(expected), output(make_unet())) < 1e-4


def test_half_precision_is_widened_before_it_is_multiplied(make):
    update = make("loha").updates["mid_block.resnets.0.conv1"]
    halves = {key: tensor.half() for key, tensor in update.tensors().items()}
    half = Hadamard.from_tensors(halves, update.scale, update.shape)
    widened = {key: tensor.float() for key, tensor in halves.items()}
    expected = Hadamard.from_tensors(widened, update.scale, update.shape).delta()
    assert torch.equal(in_float32(half).delta(), expected)
    assert not torch.equal(half.delta().float(), expected)
