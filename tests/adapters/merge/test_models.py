"""Merges judged by what a U-Net answers with them."""

import functools

import pytest
import torch

from blockwise_lora.adapters import (
    AdapterSpec,
    detach,
    load_adapter,
    read_adapter,
    save_adapter,
    set_strengths,
)
from blockwise_lora.adapters.merge import (
    Base,
    Dare,
    KLora,
    MagnitudePrune,
    MergedAdapter,
    MergeError,
    Pick,
    Stepwise,
    Sum,
    Svd,
    Ties,
    Weighted,
    choose_adapter,
    merge,
)
from blockwise_lora.blocks.mask import MaskError

SPECS = {
    "character": AdapterSpec("in0-out1", "locon", rank=3, alpha=2, conv_rank=2),
    "style": AdapterSpec("mid-out3", rank=4, alpha=6),
}
WEIGHTS = {"character": 0.8, "style": -0.6}


@pytest.fixture
def adapters(make_unet, trained, tmp_path):
    """Two adapters of different masks, ranks and methods, as files hold them."""
    made = {}
    for seed, (name, spec) in enumerate(SPECS.items()):
        unet = make_unet()
        trained(unet, spec, name, seed=seed)
        made[name] = read_adapter(save_adapter(tmp_path / name, unet, name, spec=spec))
    return made


@pytest.fixture
def weighted(adapters):
    return [Weighted(adapters[name], WEIGHTS[name]) for name in SPECS]


@pytest.fixture
def both(make_unet, adapters):
    """A U-Net with both adapters active at their weights."""
    unet = make_unet()
    for name, adapter in adapters.items():
        load_adapter(unet, adapter, name)
    set_strengths(unet, WEIGHTS)
    return unet


def relative(one, other, origin):
    return ((one - other).norm() / (other - origin).norm()).item()


def test_the_sum_is_both_at_once(make_unet, weighted, both, output):
    plain = make_unet()
    origin, expected = output(plain), output(both)
    merged = merge(weighted, Sum())
    assert merged.errors == {}
    load_adapter(plain, merged.adapter, "merged")
    assert relative(output(plain), expected, origin) < 1e-5
    baked = make_unet()
    merge(weighted, Sum(), base=Base.of(baked), bake=True).apply(baked)
    assert relative(output(baked), expected, origin) < 1e-5


def test_a_merge_can_be_merged(make_unet, weighted, both, output):
    """Three adapters in two steps; provenance names the first merge by its hash."""
    origin, expected = output(make_unet()), output(both)
    first = merge([weighted[0], Weighted(weighted[1].adapter, 0.5)], Sum()).adapter
    rest = Weighted(weighted[1].adapter, WEIGHTS["style"] - 0.5)
    second = merge([Weighted(first), rest], Sum()).adapter
    assert first.sha256 in second.metadata["blockwise_lora.merge"]
    unet = make_unet()
    load_adapter(unet, second, "merged")
    assert relative(output(unet), expected, origin) < 1e-5


def test_baking_leaves_other_adapters_alone(make_unet, adapters, output):
    """`fuse_lora` of one adapter silences another that is active in the same layers."""
    unet, expected = make_unet(), make_unet()
    for name, adapter in adapters.items():
        load_adapter(expected, adapter, name)
    set_strengths(expected, {"character": 1.0, "style": 1.0})
    load_adapter(unet, adapters["style"], "style")
    merge([Weighted(adapters["character"])], Sum(), base=Base.of(unet), bake=True).apply(unet)
    assert relative(output(unet), output(expected), output(make_unet())) < 1e-5


def test_baking_refuses_half_precision(make_unet, weighted):
    unet = make_unet().to(torch.bfloat16)
    baked = merge(weighted, Sum(), base=Base.of(unet), bake=True)
    assert {weight.dtype for weight in baked.weights.values()} == {torch.float32}
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with pytest.raises(MergeError, match=r"is bfloat16.*load the model in float32"):
        baked.apply(unet)
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_baking_refuses_another_model(make_unet, weighted):
    baked = merge(weighted, Sum(), base=Base.of(make_unet()), bake=True)
    with pytest.raises(MergeError, match="of another size"):
        baked.apply(make_unet(block_out_channels=(16, 32, 64, 64)))
    with pytest.raises(MergeError, match="has no layer"):
        baked.apply(make_unet(layers_per_block=1))


@pytest.mark.parametrize("rule", [MagnitudePrune(0.5), Ties(0.5), Dare(0.5)])
def test_rules_of_full_size_bake_unless_a_rank_is_given(make_unet, weighted, output, rule):
    unet = make_unet()
    baked = merge(weighted, rule, base=Base.of(unet))
    baked.apply(unet)
    largest = max(max(update.shape[0] for update in w.adapter.updates.values()) for w in weighted)
    fitted = merge(weighted, type(rule)(0.5, rank=largest))
    assert isinstance(fitted, MergedAdapter)
    assert fitted.errors == {}  # no layer here has more outputs than that
    other = make_unet()
    load_adapter(other, fitted.adapter, "merged")
    assert relative(output(other), output(unet), output(make_unet())) < 1e-5


def test_pick_takes_each_block_from_one_adapter(make_unet, adapters, output):
    expected = make_unet()
    for name, adapter in adapters.items():
        load_adapter(expected, adapter, name)
    strengths = {"all": 0.0, "in0-mid": 1.0}, {"all": 0.0, "out1-out2": 0.5}
    set_strengths(expected, dict(zip(SPECS, strengths, strict=True)))
    unet = make_unet()
    pair = [Weighted(adapters["character"]), Weighted(adapters["style"], 0.5)]
    merged = merge(pair, Pick(("in0-mid", "OUT1-out2")), base=Base.of(unet))
    assert merged.errors == {}
    assert set(merged.adapter.sub_blocks.values()) == {
        *(f"IN{i:02d}" for i in range(1, 12)),
        "MID",
        *(f"OUT{i:02d}" for i in range(3, 9)),
    }
    load_adapter(unet, merged.adapter, "merged")
    assert relative(output(unet), output(expected), output(make_unet())) < 1e-5


def test_pick_needs_no_weights_but_clear_masks(make_unet, weighted):
    with torch.device("meta"):
        blocks = Base.of(make_unet())
    assert merge(weighted, Pick(("in0-mid", "out1")), base=blocks).errors == {}
    with pytest.raises(MergeError, match="mask mid-out1 names MID again"):
        merge(weighted, Pick(("in0-mid", "mid-out1")), base=blocks)
    with pytest.raises(MergeError, match="2 adapters, 1 masks"):
        merge(weighted, Pick(("in0-mid",)), base=blocks)
    with pytest.raises(MergeError, match="nothing is left"):
        merge(weighted, Pick(("out3", "in0")), base=blocks)
    with pytest.raises(MaskError, match="did you mean 'out1'"):
        Pick(("oot1", "mid"))


def test_klora_switches_layers_from_step_to_step(make_unet, adapters, both, output):
    """Each answer is that of the adapters set by hand as the choice says."""
    merged = merge([Weighted(adapter) for adapter in adapters.values()], KLora())
    assert isinstance(merged, Stepwise)
    shared = set(adapters["character"].updates) & set(adapters["style"].updates)
    assert set(merged.advantages) == shared
    hook = functools.partial(choose_adapter, both, tuple(SPECS), merged)
    answers = []
    for step in (0, 5, 9, 5):
        hook(step, 10)
        answers.append(output(both))
        chosen = merged.chosen(step, 10)
        losers = [{m for m in shared if chosen[m] != i} for i in range(2)]
        parts = []
        for (name, adapter), lost in zip(adapters.items(), losers, strict=True):
            kept = {m: u for m, u in adapter.updates.items() if m not in lost}
            parts.append(Weighted(_with(adapter, kept), WEIGHTS[name]))
        expected = make_unet()
        load_adapter(expected, merge(parts, Sum()).adapter, "merged")
        assert relative(answers[-1], output(expected), output(make_unet())) < 1e-5
    assert torch.equal(answers[1], answers[3])  # no counter
    assert not torch.equal(answers[0], answers[2])
    set_strengths(both, {"character": 1.0})  # as usual again
    alone = make_unet()
    load_adapter(alone, adapters["character"], "character")
    assert relative(output(both), output(alone), output(make_unet())) < 1e-6
    detach(both, "style")


def _with(adapter, updates):
    homes = {module: adapter.sub_blocks[module] for module in updates}
    return type(adapter)(updates, homes, adapter.spec, adapter.metadata, adapter.sha256)


def test_svd_of_a_real_pair(make_unet, weighted, both, output):
    """At the sum of the ranks it is exact, below it is nearer the more rank it has."""
    origin, expected = output(make_unet()), output(both)
    distances = {}
    for rank in (1, 4, 7):
        merged = merge(weighted, Svd(rank))
        unet = make_unet()
        load_adapter(unet, merged.adapter, "merged")
        distances[rank] = relative(output(unet), expected, origin)
    assert distances[1] > distances[4] > distances[7]
    assert distances[7] < 1e-5
    assert merged.errors == {}


def test_baking_one_adapter_leaves_another_at_work(make_unet, adapters, output):
    """The trap: diffusers' fuse_lora of one drops the other in the layers that they share."""
    unet, expected = make_unet(), make_unet()
    load_adapter(unet, adapters["style"], "style")
    alone = [Weighted(adapters["character"])]
    merge(alone, Sum(), base=Base.of(unet), bake=True).apply(unet)
    for name, adapter in adapters.items():
        load_adapter(expected, adapter, name)
    set_strengths(expected, dict.fromkeys(adapters, 1.0))
    assert relative(output(unet), output(expected), output(make_unet())) < 1e-5
