import dataclasses

import numpy as np
import pytest
import torch

from blockwise_lora.adapters import AdapterError, AdapterSpec, attached_names, load_adapter
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion import sampling
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.combination import Strengths
from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.samples import sample_conditions
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.sweep.pictures import Brief, Stack, Studio, ablated_stack, trained_stack
from blockwise_lora.sweep.studies import CONCEPTS, Pair
from blockwise_lora.sweep.training import train_missing

BRIEF = Brief(
    ("{style}, {character}",),
    (0, 1),
    Concept("zkc", "cat"),
    Concept("qwo", "style"),
    SamplingConfig(steps=2, guidance_scale=1.0),
)


@pytest.fixture
def entries(base, lesson, bank):
    """Concept to the entries of its masks, trained."""
    found = {}
    for concept in CONCEPTS:
        mine = dataclasses.replace(lesson, concept=concept, words={"concept": concept})
        train_missing(base, mine, ("all", "mid"), bank, at_once=2)
        found[concept] = {mask: bank.entry(base, mine, mask) for mask in ("all", "mid")}
    return found


def pixels(samples) -> np.ndarray:
    return np.stack([np.asarray(p) for p in samples.pictures]).astype(int)


def side_by_side(base, stack: Stack, strengths: Strengths):
    """The same pictures from adapters that stay adapters."""
    for concept in CONCEPTS:
        load_adapter(base.unet, stack.entries[concept].read(), concept)
    return sample_conditions(
        base,
        BRIEF.templates,
        BRIEF.seeds,
        ("both",),
        character=BRIEF.character,
        style=BRIEF.style,
        config=BRIEF.sampling,
        strengths=strengths,
    )


@pytest.fixture
def full(entries):
    return {concept: entries[concept]["all"] for concept in CONCEPTS}


def cut(pair: Pair, full, base) -> Stack:
    return ablated_stack(
        pair, full, BlockMap.of(base.unet), dict.fromkeys(CONCEPTS, AdapterSpec(rank=2))
    )


def test_masks_and_ablations_change_the_picture_and_a_full_ablation_does_not(
    entries, full, base, tmp_path
):
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    whole = pixels(studio.samples(trained_stack(Pair("all", "all"), full)))
    nothing_off = pixels(studio.samples(cut(Pair("in0-out3", "all"), full, base)))
    small = full | {"character": entries["character"]["mid"]}
    masked = pixels(studio.samples(trained_stack(Pair("mid", "all"), small)))
    ablated = pixels(studio.samples(cut(Pair("mid", "all"), full, base)))
    plain = pixels(studio.base_samples())
    assert (whole == nothing_off).all()
    for other in (masked, ablated, plain):
        assert (whole != other).any()
    assert (masked != ablated).any()


def test_merged_pictures_are_those_of_the_adapters_side_by_side(full, base, tmp_path):
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    studio, off = Studio(base, BRIEF, tmp_path / "pictures"), {"all": 0.0, "mid": 1.0, "out3": 1.0}
    merged = pixels(studio.samples(cut(Pair("mid+out3", "all"), full, base)))
    assert attached_names(base.unet) == ()
    after = base.unet.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    stack = trained_stack(Pair("all", "all"), full)
    apart = pixels(side_by_side(base, stack, Strengths(character=off)))
    assert np.abs(merged - apart).max() <= 1


def test_a_lower_rank_of_the_full_adapter_is_its_nearest_change_of_that_rank(full, base):
    adapter = full["character"].read()
    reduced = cut(Pair("all+mid:1", "all"), full, base).adapter("character")
    assert reduced.updates.keys() == adapter.updates.keys()
    for name, update in adapter.updates.items():
        new = reduced.updates[name]
        if adapter.sub_blocks[name] not in BlockMap.of(base.unet).coarse["mid"]:
            assert torch.equal(new.down, update.down) and torch.equal(new.up, update.up)
            continue
        left = torch.linalg.svdvals(update.delta(None).flatten(1))
        error = torch.linalg.matrix_norm((update.delta(None) - new.delta(None)).flatten(1))
        assert new.rank == 1
        assert error.item() == pytest.approx(left[1:].norm().item(), rel=1e-3, abs=1e-7)


def test_weights_too_coarse_for_a_merge_are_left_alone(full, tiny_base_folder, tmp_path):
    base = load_base(tiny_base_folder, dtype=torch.bfloat16)
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    whole = pixels(studio.samples(trained_stack(Pair("all", "all"), full)))
    assert (whole != pixels(studio.base_samples())).any()
    assert attached_names(base.unet) == ()


def test_pictures_of_another_precision_are_others(base, tiny_base_folder, tmp_path):
    coarse, folder = load_base(tiny_base_folder, dtype=torch.bfloat16), tmp_path / "pictures"
    precise = Studio(base, BRIEF, folder).base_samples()
    assert coarse.sha256 == base.sha256
    assert (pixels(Studio(coarse, BRIEF, folder).base_samples()) != pixels(precise)).any()
    assert len(list(folder.iterdir())) == 2


def test_nothing_is_sampled_twice(full, base, tmp_path):
    stack = trained_stack(Pair("all", "all"), full)
    first = pixels(Studio(base, BRIEF, tmp_path / "pictures").samples(stack))
    for entry in stack.entries.values():  # whoever would sample again would have to read them
        (entry.folder / "pytorch_lora_weights.safetensors").unlink()
    assert (pixels(Studio(base, BRIEF, tmp_path / "pictures").samples(stack)) == first).all()


def test_pictures_are_remembered_for_what_is_asked_and_no_more(full, base, tmp_path):
    stack = trained_stack(Pair("all", "all"), full)
    first = Studio(base, BRIEF, tmp_path / "pictures").samples(stack)
    for change in (
        {"seeds": (0, 2)},
        {"templates": ("{character}",)},
        {"character": Concept("zkc", "dog")},
        {"sampling": SamplingConfig(steps=3, guidance_scale=1.0)},
    ):
        asked = dataclasses.replace(BRIEF, **change)
        samples = Studio(base, asked, tmp_path / "pictures").samples(stack)
        assert samples.rows != first.rows or (pixels(samples) != pixels(first)).any()
    assert len(list((tmp_path / "pictures").iterdir())) == 5


def test_two_ways_to_one_name_are_two_sets_of_pictures(full, base, tmp_path):
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    stack = trained_stack(Pair("all", "all"), full)
    cut_short = dataclasses.replace(cut(Pair("mid", "all"), full, base), name=stack.name)
    assert (pixels(studio.samples(stack)) != pixels(studio.samples(cut_short))).any()


def test_base_pictures_are_those_of_the_plain_model_without_trigger_words(base, tmp_path):
    samples = Studio(base, BRIEF, tmp_path / "pictures").base_samples()
    assert [row.prompt for row in samples.rows] == ["cat", "cat"]
    assert [row.seed for row in samples.rows] == [0, 1]
    assert (pixels(samples)[0] != pixels(samples)[1]).any()
    plain = sample_conditions(
        base,
        BRIEF.templates,
        BRIEF.seeds,
        ("base",),
        character=BRIEF.character,
        style=BRIEF.style,
        config=BRIEF.sampling,
    )
    assert (pixels(samples) == pixels(plain)).all()


def test_a_missing_adapter_is_told_and_leaves_model_and_folder_as_they_were(full, base, tmp_path):
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    (full["style"].folder / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(AdapterError):
        studio.samples(trained_stack(Pair("all", "all"), full))
    assert all(torch.equal(tensor, base.unet.state_dict()[n]) for n, tensor in before.items())
    assert not [path for path in (tmp_path / "pictures").glob("*") if path.is_dir()]


def test_a_stop_while_sampling_leaves_no_half_set(full, base, tmp_path, monkeypatch):
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    stack = trained_stack(Pair("all", "all"), full)

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sampling, "_to_pictures", stopped)
        with pytest.raises(KeyboardInterrupt):
            studio.samples(stack)
    assert all(torch.equal(tensor, base.unet.state_dict()[n]) for n, tensor in before.items())
    assert len(studio.samples(stack)) == 2


def test_the_full_adapter_is_read_once_for_all_that_it_is_cut_down_to(full, base, tmp_path):
    studio = Studio(base, BRIEF, tmp_path / "pictures")
    studio.samples(cut(Pair("mid", "all"), full, base))
    for entry in full.values():
        (entry.folder / "pytorch_lora_weights.safetensors").unlink()
    assert len(studio.samples(cut(Pair("out3", "mid"), full, base))) == 2
