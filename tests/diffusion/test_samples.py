import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    Schedule,
    attach,
    trainable_parameters,
)
from blockwise_lora.diffusion.combination import CombinationConfig, Schedules, Strengths
from blockwise_lora.diffusion.prompts import Concept, PromptError
from blockwise_lora.diffusion.samples import (
    SampleRow,
    SampleSet,
    SampleSetError,
    contact_sheet,
    sample_conditions,
)
from blockwise_lora.diffusion.sampling import SamplingConfig, sample
from blockwise_lora.parameters import ParameterError, typed

CONFIG = SamplingConfig(steps=2, guidance_scale=2.0, batch_size=4)
CAT, STYLE = Concept("zkc", "cat"), Concept("qwo", "style")


def with_adapters(base):
    """The base with two adapters that change every picture."""
    for seed, name in enumerate(("character", "style")):
        attach(base.unet, AdapterSpec(), name, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for parameter in trainable_parameters(base.unet, name)[1::2]:
                parameter.fill_(0.05)
    return base


def take(base, conditions=("base", "character", "style", "both"), **options):
    templates = ["{style}, {character}, up", "{character}"]
    return sample_conditions(
        base, templates, (3, 4), conditions, character=CAT, style=STYLE, config=CONFIG, **options
    )


def pixels(samples, **wanted):
    (picture,) = [p for row, p in samples if all(getattr(row, k) == v for k, v in wanted.items())]
    return np.asarray(picture).astype(int)


def test_every_prompt_and_seed_under_every_condition(base):
    samples = take(with_adapters(base), variant="lora")
    assert len(samples) == 4 * 2 * 2
    assert samples.rows[0] == SampleRow("base", 0, "cat, up", 3, "lora")
    assert samples.rows[-1] == SampleRow("both", 1, "zkc cat", 4, "lora")
    assert len({row.file_name for row in samples.rows}) == len(samples)
    plain = [pixels(samples, condition=c, prompt_index=1, seed=3) for c in ("base", "character")]
    assert np.abs(plain[0] - plain[1]).max() > 5


def test_prompts_may_have_seeds_of_their_own(base):
    shared = take(base, ["base"])
    templates = ["{style}, {character}, up", "{character}"]

    def sampled(seeds):
        words = {"character": CAT, "style": STYLE}
        return sample_conditions(base, templates, seeds, ["base"], **words, config=CONFIG)

    own = sampled(((3,), (0, 4)))
    assert [(row.prompt_index, row.seed) for row in own.rows] == [(0, 3), (1, 0), (1, 4)]
    for place in ({"prompt_index": 0, "seed": 3}, {"prompt_index": 1, "seed": 4}):
        assert np.abs(pixels(own, **place) - pixels(shared, **place)).max() <= 1
    with pytest.raises(ValueError, match="seeds for 3 prompts, but there are 2"):
        sampled(((1,), (2,), (3,)))


def test_conditions_switch_adapters_and_words(base):
    """Each condition equals sampling by hand with these adapters alone."""
    with_adapters(base)
    samples = take(base, ("style", "both", "base", "character"))
    from blockwise_lora.adapters import set_strengths

    for condition, active, prompt in [
        ("base", {}, "cat, up"),
        ("character", {"character": 1.0}, "zkc cat, up"),
        ("style", {"style": 1.0}, "qwo style, cat, up"),
        ("both", {"character": 1.0, "style": 1.0}, "qwo style, zkc cat, up"),
    ]:
        set_strengths(base.unet, active)
        (wanted,) = sample(base, [prompt], [4], CONFIG)
        got = pixels(samples, condition=condition, prompt_index=0, seed=4)
        assert np.abs(got - np.asarray(wanted).astype(int)).max() <= 1, condition


def test_strengths(base):
    with_adapters(base)
    full = take(base, ("style",))
    off = take(base, ("style",), strengths=Strengths(style=0.0))
    by_block = take(base, ("style",), strengths=Strengths(style={"all": 0.0}))
    place = {"prompt_index": 0, "seed": 3}
    assert np.abs(pixels(full, **place) - pixels(off, **place)).max() > 5
    assert np.array_equal(pixels(by_block, **place), pixels(off, **place))


def test_the_base_alone_needs_no_adapters(base):
    assert len(take(base, ("base",))) == 4
    with pytest.raises(AdapterError, match="character"):
        take(base, ("character",))


def test_a_prompt_that_cannot_be_filled_in_costs_no_sampling(base):
    with pytest.raises(PromptError):
        sample_conditions(
            base, ["{stile}"], (0,), ("base",), character=CAT, style=STYLE, config=CONFIG
        )


@pytest.fixture
def small():
    rows = [SampleRow(c, 0, "a prompt, ünïcode", 7, "lora") for c in ("character", "both")]
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    return SampleSet(tuple(rows), tuple(pictures))


def test_a_set_comes_back_from_disk(small, tmp_path):
    small.write(tmp_path)
    again = SampleSet.read(tmp_path)
    assert again.rows == small.rows
    assert [p.tobytes() for p in again.pictures] == [p.tobytes() for p in small.pictures]
    first = json.loads((tmp_path / "metadata.jsonl").read_text().splitlines()[0])
    names = ["file_name", "condition", "prompt_index", "prompt", "seed", "variant"]
    assert list(first) == names and first["file_name"] == "character-000-7.png"


def test_damage_is_explained(small, tmp_path):
    def damaged(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        small.write(folder)
        change(folder)
        with pytest.raises(SampleSetError, match="kedro run --pipelines combination"):
            SampleSet.read(folder)

    damaged(lambda f: (f / "metadata.jsonl").unlink())
    damaged(lambda f: (f / "both-000-7.png").unlink())
    damaged(lambda f: (f / "both-000-7.png").write_bytes(b"no picture"))
    damaged(lambda f: (f / "metadata.jsonl").write_text("{}\n"))
    damaged(lambda f: (f / "metadata.jsonl").write_text("[1]\n"))
    for key, value in {"condition": "neither", "seed": "x"}.items():
        row = {"file_name": "both-000-7.png", "condition": "both", "prompt_index": 0}
        row |= {"prompt": "p", "seed": 7, "variant": "lora", key: value}
        damaged(lambda f, row=row: (f / "metadata.jsonl").write_text(json.dumps(row)))


def test_no_name_leads_out_of_the_folder(small, tmp_path):
    inside = tmp_path / "set"
    inside.mkdir()
    small.write(inside)
    os.rename(inside / "both-000-7.png", tmp_path / "both-000-7.png")
    text = (inside / "metadata.jsonl").read_text()
    (inside / "metadata.jsonl").write_text(text.replace("both-000-7", "../both-000-7"))
    with pytest.raises(SampleSetError, match="file_name"):
        SampleSet.read(inside)


def test_contact_sheet(small):
    sheet = contact_sheet(small, side=8)
    assert sheet.size == (16, 8)
    assert sheet.getpixel((2, 2)) == (255, 0, 0) and sheet.getpixel((10, 2)) == (0, 0, 255)


def test_parameters():
    given = {"pictures_per_prompt": 2, "strengths": {"style": {"out2-out3": 0.5}}}
    config = typed(CombinationConfig, given | {"sampling": {"steps": 3}}, "combination")
    assert config.strengths == Strengths(1.0, {"out2-out3": 0.5})
    assert config.sampling.steps == 3
    with pytest.raises(ValueError, match="pictures_per_prompt"):
        CombinationConfig(pictures_per_prompt=0)
    with pytest.raises(ValueError, match="2 rows but 0 pictures"):
        SampleSet((SampleRow("base", 0, "", 0, ""),) * 2, ())


def test_schedules_act_over_the_steps(base):
    """A style that never sets in within the two steps is none; one that stops is less than all."""
    with_adapters(base)

    def both(schedule):
        samples = take(base, ["both"], schedules=Schedules(style=schedule))
        return pixels(samples, prompt_index=1, seed=3)

    strengths = Strengths(style=0.0)
    off = pixels(take(base, ["both"], strengths=strengths), prompt_index=1, seed=3)
    assert np.array_equal(both(Schedule(start=0.9)), off)
    whole, half = both(Schedule()), both(Schedule(stop=0.5))
    assert not np.array_equal(whole, half)
    assert not np.array_equal(half, off)
    assert np.array_equal(both(Schedule()), whole)


def test_schedules_that_could_not_act_are_refused():
    merge = {"rule": "sum"}
    with pytest.raises(ParameterError, match="schedules are for adapters that act side by side"):
        typed(CombinationConfig, {"merge": merge, "schedules": {"style": {"start": 0.2}}})
    with pytest.raises(ParameterError, match=r"schedules\.style has 3 factors for 2 steps"):
        values = {"schedules": {"style": {"factors": [1, 2, 3]}}, "sampling": {"steps": 2}}
        typed(CombinationConfig, values)
    assert typed(CombinationConfig, {"merge": merge}).schedules == Schedules()
