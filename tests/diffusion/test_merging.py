import pytest
import torch

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    attached_names,
    detach,
    load_adapter,
    read_adapter,
    save_adapter,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.merge import (
    BakedModel,
    Dare,
    KLora,
    MergedAdapter,
    MergeError,
    Pick,
    Stepwise,
    Sum,
    Svd,
    Ties,
    Weighted,
)
from blockwise_lora.adapters.parts import Parts
from blockwise_lora.blocks import MaskError
from blockwise_lora.diffusion.merging import (
    MergeConfig,
    at_strength,
    learned_rule,
    merge_adapters,
    merged_acting,
)
from blockwise_lora.diffusion.sampling import SamplingConfig, denoise, initial_noise
from blockwise_lora.diffusion.ziplora import ZipLoraConfig
from blockwise_lora.parameters import ParameterError, typed
from tiny_base import write_tiny_pictures

STRENGTHS = {"character": 0.7, "style": {"all": 0.0, "OUT11": 1.2}}
NAMES = ("character", "style")
CONFIG = SamplingConfig(steps=3, guidance_scale=1)


@pytest.fixture
def pair(base, tmp_path):
    """Two adapters, attached and weighted by their strengths."""
    weighted = []
    for seed, (name, blocks) in enumerate(zip(NAMES, ("OUT10-OUT11", "mid+out3"), strict=True)):
        spec = AdapterSpec(blocks, rank=2 + seed)
        attach(base.unet, spec, name, torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(10 + seed)
        with torch.no_grad():
            for parameter in trainable_parameters(base.unet, name):
                parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
        adapter = read_adapter(save_adapter(tmp_path / name, base.unet, name, spec=spec))
        weighted.append(at_strength(base, adapter, STRENGTHS[name]))
    return weighted


def latents(base, before_step=None):
    noise = torch.stack([initial_noise(1, (4, 8, 8))])
    text = base.encode_prompts(["a"])
    return denoise(base, noise, text, text, CONFIG, before_step)


def difference(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (MergeConfig("sum"), MergedAdapter),
        (MergeConfig("svd", rank=5), MergedAdapter),
        (MergeConfig("ties", density=1.0, rank=16), MergedAdapter),
        (MergeConfig("ties", density=1.0), BakedModel),
        (MergeConfig("klora"), Stepwise),
    ],
)
def test_merges_act_in_the_place_of_both_and_leave_no_trace(base, pair, config, kind):
    set_strengths(base.unet, {})
    off = latents(base)
    set_strengths(base.unet, STRENGTHS)
    both = latents(base)
    merged = merge_adapters(pair, config, base)
    assert isinstance(merged, kind)
    with merged_acting(base, merged, NAMES, STRENGTHS) as before_step:
        assert (before_step is None) == (kind is not Stepwise)
        found = latents(base, before_step)
    if config.rule in ("sum", "svd"):  # rank 5 holds both
        assert difference(found, both) < 1e-4
    else:
        assert difference(found, both) > 1e-3
        assert difference(found, off) > 1e-3
    assert torch.equal(latents(base), off)
    assert attached_names(base.unet) == NAMES
    set_strengths(base.unet, STRENGTHS)
    assert torch.equal(latents(base), both)


def test_ties_is_the_same_in_an_adapter_and_baked(base, pair):
    answers = []
    for rank in (32, None):  # no layer has more inputs or outputs that matter
        merged = merge_adapters(pair, MergeConfig("ties", density=0.6, rank=rank), base)
        with merged_acting(base, merged, NAMES, STRENGTHS):
            answers.append(latents(base))
    assert difference(*answers) < 1e-3


def test_klora_as_its_steps_say(base, pair):
    merged = merge_adapters(pair, MergeConfig("klora"), base)
    with merged_acting(base, merged, NAMES, STRENGTHS) as before_step:
        found = latents(base, before_step)

    def by_hand(step, steps):
        """One merged adapter a step, of what is chosen then."""
        for name in set(attached_names(base.unet)) - set(NAMES):
            detach(base.unet, name)
        chosen = merged.chosen(step, steps)
        kept = []
        for index, weighted in enumerate(pair):
            updates = {
                m: u for m, u in weighted.adapter.updates.items() if chosen.get(m, index) == index
            }
            homes = {m: weighted.adapter.sub_blocks[m] for m in updates}
            adapter = type(weighted.adapter)(updates, homes, None, {}, "")
            kept.append(type(weighted)(adapter, weighted.weight))
        load_adapter(base.unet, merge_adapters(kept, MergeConfig("sum"), base).adapter, "hand")
        set_strengths(base.unet, {"hand": 1.0})

    expected = latents(base, by_hand)
    assert difference(found, expected) < 1e-4


def test_ziplora_from_folders(base, pair, tmp_path):
    folders = [write_tiny_pictures(tmp_path / name, 2) for name in "ab"]
    config = {"rule": "ziplora", "steps": 1, "batch_size": 1}
    config |= {"pictures": {"style": str(folders[1]), "character": str(folders[0])}}
    made = typed(MergeConfig, config, "merge")
    assert made.pictures == tuple(folders)
    merged = merge_adapters(pair, made, base)
    assert isinstance(merged, MergedAdapter)
    assert '"rule": "ziplora"' in merged.adapter.metadata["blockwise_lora.merge"]
    with pytest.raises(MergeError, match="learns on the base model"):
        learned_rule(made, pair, None)


def test_rules_by_name():
    assert MergeConfig().make() is None
    assert MergeConfig("sum").make() == Sum()
    assert MergeConfig("svd", rank=3).make() == Svd(3)
    assert MergeConfig("ties", density=0.3, election="frequency").make() == Ties(0.3, "frequency")
    assert MergeConfig("dare", seed=4).make() == Dare(seed=4)
    assert MergeConfig("klora", beta=1.275, wrap=True).make() == KLora(beta=1.275, wrap=True)
    assert MergeConfig("pick", blocks=("mid", "out3")).make() == Pick(("mid", "out3"))
    blocks = {"style": "out3", "character": "mid"}
    assert MergeConfig("pick", blocks=blocks).make() == Pick(("mid", "out3"))
    assert MergeConfig("ziplora", pictures=("a", "b")).make() == ZipLoraConfig()
    assert MergeConfig("sum", blocks={"character": None, "style": None}).make() == Sum()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "svd"}, r"combination\.merge: svd\.rank: missing"),
        ({"rule": "svd", "rank": 4, "density": 0.5}, r"svd\.density: unknown parameter"),
        ({"rank": 4}, r"active\.rank: unknown parameter; known: none"),
        ({"rule": "ties", "density": 2.0}, "share of values"),
        ({"rule": "pick"}, r"pick\.blocks: missing"),
        ({"rule": "pick", "blocks": ["oot1", "mid"]}, "did you mean 'out1'"),
        ({"rule": "pick", "blocks": {"charater": "mid"}}, "for character and style"),
        ({"rule": "ziplora"}, "needs `pictures`"),
        ({"rule": "svdd", "rank": 4}, "did you mean 'svd'"),
    ],
)
def test_mistakes_are_told_by_name(given, message):
    with pytest.raises(ParameterError, match=message):
        typed(MergeConfig, given, "combination.merge")


def test_strengths_by_block_become_weights(base, pair):
    weights = pair[1].weight
    assert weights == {name: 1.2 if name == "OUT11" else 0.0 for name in weights}
    with pytest.raises(MaskError, match="no block in7"):
        at_strength(base, pair[0].adapter, {"in7": 1.0})
    with pytest.raises(MergeError, match="active merges nothing"):
        merge_adapters(pair, MergeConfig(), base)


@pytest.mark.parametrize("config", [MergeConfig("sum"), MergeConfig("ties", density=1.0)])
def test_text_encoders_are_merged_too(base, pair, tmp_path, config):
    """What an adapter adds to the block BASE acts on the prompts; afterwards it is gone."""
    parts, prompts = Parts(base.unet, base.text_encoders), ["ab", "c"]
    plain = base.encode_prompts(prompts).tokens
    spec = AdapterSpec("mid+base", rank=2)
    attach(parts, spec, "both", torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in trainable_parameters(parts, "both"):
            parameter += 0.2
    alone = base.encode_prompts(prompts).tokens.detach()
    adapter = read_adapter(save_adapter(tmp_path / "base", parts, "both", spec=spec))
    detach(parts, "both")
    merged = merge_adapters([Weighted(adapter), pair[0]], config, base)
    with merged_acting(base, merged, NAMES, STRENGTHS):
        found = base.encode_prompts(prompts).tokens
    assert difference(alone, plain) > 1e-2
    assert difference(found, alone) < 1e-5
    assert torch.equal(base.encode_prompts(prompts).tokens, plain)
