from dataclasses import replace

import numpy as np
import pytest
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    detach,
    read_adapter,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.adapters.words import LearnedWord
from blockwise_lora.parameters import ParameterError
from blockwise_lora.pipelines.combination import create_pipeline
from blockwise_lora.pipelines.combination.nodes import sample_combinations, sample_prompts


@pytest.fixture
def adapters(loaded_tiny_base, tmp_path):
    """Two adapters, as the training saves them."""
    made, unet = {}, loaded_tiny_base.unet
    for seed, name in enumerate(("character", "style")):
        spec = AdapterSpec(blocks="mid", rank=1)
        attach(unet, spec, name, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for parameter in trainable_parameters(unet, name)[1::2]:
                parameter.fill_(0.1)
        save_adapter(tmp_path / name, unet, name, spec=spec)
        detach(unet, name)
        made[name] = read_adapter(tmp_path / name)
    return made


@pytest.fixture
def parameters(tiny_base_folder):
    return {
        "character": {"pictures": "x", "trigger": "zkc", "class_word": "cat"},
        "style": {"pictures": "y", "trigger": "qwo", "class_word": "style", "blocks": "out3"},
        "prompts": [{"text": "{style}, {character}, up", "truth": None}],
        "combination": {"pictures_per_prompt": 2, "sampling": {"steps": 1}},
        "variant": "lora",
        "base_model": {"source": str(tiny_base_folder)},
        "device": "cpu",
        "seed": 10,
    }


def test_three_conditions_from_two_adapters(adapters, parameters):
    catalog = DataCatalog()
    for name, value in parameters.items():
        catalog[f"params:{name}"] = value
    for name, adapter in adapters.items():
        catalog[f"{name}.adapter"] = MemoryDataset(adapter, copy_mode="assign")
    catalog["samples"] = MemoryDataset(copy_mode="assign")
    pipeline = create_pipeline().to_outputs("samples")
    samples = SequentialRunner().run(pipeline, catalog)["samples"].load()
    told = [(row.condition, row.prompt, row.seed, row.variant) for row in samples.rows]
    assert told == [
        (condition, prompt, seed, "lora")
        for condition, prompt in [
            ("character", "zkc cat, up"),
            ("style", "qwo style, cat, up"),
            ("both", "qwo style, zkc cat, up"),
        ]
        for seed in (10, 11)
    ]
    assert samples.origin.adapters == {name: a.sha256 for name, a in adapters.items()}
    assert samples.origin.combination.sampling.steps == 1
    first = {row.condition: p.tobytes() for row, p in samples if row.seed == 10}
    assert len(set(first.values())) == 3


def test_the_base_is_sampled_by_the_same_code(parameters):
    settings = {k: v for k, v in parameters.items() if k != "variant"}
    samples = sample_prompts(("base",), {}, "base", **settings)
    assert [row.prompt for row in samples.rows] == ["cat, up"] * 2


def test_mistakes_are_told_before_anything_is_loaded(adapters, parameters):
    settings = {k: v for k, v in parameters.items() if k != "variant"}
    settings["base_model"] = {"source": "does-not-matter"}
    wrong = {"combination": {"sampling": {"step": 3}}}
    with pytest.raises(ParameterError, match=r"combination\.sampling\.step.*did you mean 'steps'"):
        sample_prompts(("both",), adapters, "lora", **(settings | wrong))
    with pytest.raises(ParameterError, match="at least one prompt"):
        sample_prompts(("both",), adapters, "lora", **(settings | {"prompts": []}))


def test_the_two_are_merged_for_the_pictures_of_both(adapters, parameters):
    settings = {k: v for k, v in parameters.items() if k != "variant"}

    def run(**merge):
        combination = parameters["combination"] | {"merge": merge}
        combination["strengths"] = {"character": 20.0, "style": {"mid": 15.0}}
        samples = sample_combinations(
            *adapters.values(), "lora", **(settings | {"combination": combination})
        )
        found = {"character": [], "style": [], "both": []}
        for row, picture in samples:
            found[row.condition].append(np.asarray(picture).astype(int))
        return {condition: np.stack(pictures) for condition, pictures in found.items()}

    active, svd = run(), run(rule="svd", rank=2)
    stepwise, baked = run(rule="klora"), run(rule="magnitude_prune", density=0.3)
    for merged in (svd, stepwise, baked):
        assert all((merged[name] == active[name]).all() for name in ("character", "style"))
    assert np.abs(svd["both"] - active["both"]).max() <= 1  # rank 2 holds both
    assert np.abs(stepwise["both"] - active["both"]).max() > 1
    assert np.abs(baked["both"] - active["both"]).max() > 1


def test_a_rule_is_checked_before_anything_is_loaded(adapters, parameters):
    settings = {k: v for k, v in parameters.items() if k != "variant"}
    settings["base_model"] = {"source": "does-not-matter"}
    settings["combination"] = {"merge": {"rule": "svd"}}
    with pytest.raises(ParameterError, match=r"combination\.merge: svd\.rank: missing"):
        sample_prompts(("both",), adapters, "lora", **settings)


def test_text_encoder_and_word_take_part(loaded_tiny_base, parameters, tmp_path, caplog):
    """Adapters of the text encoder alone: all that they do, they do through the prompt."""
    base, made = loaded_tiny_base, {}
    for name, trigger in (("character", "zkc"), ("style", "qwo")):
        spec = AdapterSpec(blocks="base", rank=1)
        attach(base.parts, spec, name, torch.Generator().manual_seed(len(name)))
        with torch.no_grad():
            for parameter in trainable_parameters(base.parts, name)[1::2]:
                parameter.fill_(0.3)
        save_adapter(tmp_path / name, base.parts, name, spec=spec)
        detach(base.parts, name)
        LearnedWord(trigger, trigger, (torch.full((1, 24), 0.5),)).write(tmp_path / name)
        made[name] = read_adapter(tmp_path / name)
    settings = {k: v for k, v in parameters.items() if k != "variant"}

    def run(adapters, **combination):
        combination = parameters["combination"] | combination
        samples = sample_combinations(
            *adapters.values(), "lora", **(settings | {"combination": combination})
        )
        return [picture.tobytes() for row, picture in samples if row.seed == 10]

    wordless = {name: replace(adapter, word=None) for name, adapter in made.items()}
    whole, plain = run(made), run(wordless)
    assert all(a != b for a, b in zip(whole, plain, strict=True)), "the words act in each condition"
    off = {"strengths": {"character": {"base": 0.0}, "style": {"base": 0.0}}}
    assert all(a != b for a, b in zip(run(wordless, **off), plain, strict=True))
    zero = {"strengths": {"character": 0.0, "style": 0.0}}
    assert run(made, **zero) == run(wordless, **zero), "what is off brings no word either"
    assert run(made, merge={"rule": "sum"})[:2] == whole[:2]
    assert "schedules" not in caplog.text
    run(made, schedules={"style": {"start": 0.5}})
    assert "combination.schedules.style holds for the U-Net" in caplog.text
