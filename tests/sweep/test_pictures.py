import dataclasses

import numpy as np
import pytest

from blockwise_lora.adapters import attached_names
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.sweep.bank import train_missing
from blockwise_lora.sweep.pictures import Brief, Studio, ablated_stack, trained_stack
from blockwise_lora.sweep.studies import CONCEPTS, Pair

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


def test_masks_and_ablations_change_the_picture_and_a_full_ablation_does_not(
    entries, base, tmp_path
):
    full = {concept: entries[concept]["all"] for concept in CONCEPTS}
    small = full | {"character": entries["character"]["mid"]}
    blocks = BlockMap.of(base.unet)
    with Studio(base, BRIEF, tmp_path / "pictures") as studio:
        whole = pixels(studio.samples(trained_stack(Pair("all", "all"), full)))
        nothing_off = pixels(studio.samples(ablated_stack(Pair("in0-out3", "all"), full, blocks)))
        masked = pixels(studio.samples(trained_stack(Pair("mid", "all"), small)))
        ablated = pixels(studio.samples(ablated_stack(Pair("mid", "all"), full, blocks)))
        plain = pixels(studio.base_samples())
    assert (whole == nothing_off).all()
    for other in (masked, ablated, plain):
        assert (whole != other).any()
    assert (masked != ablated).any()
    assert attached_names(base.unet) == ()


def test_nothing_is_sampled_twice(entries, base, tmp_path, monkeypatch):
    stack = trained_stack(Pair("all", "all"), {c: entries[c]["all"] for c in CONCEPTS})
    with Studio(base, BRIEF, tmp_path / "pictures") as studio:
        first = pixels(studio.samples(stack))
    for entry in stack.entries.values():  # whoever would sample again would have to read them
        (entry.folder / "pytorch_lora_weights.safetensors").unlink()
    with Studio(base, BRIEF, tmp_path / "pictures") as studio:
        assert (pixels(studio.samples(stack)) == first).all()
