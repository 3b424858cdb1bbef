import logging

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from safetensors.torch import load_file

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks import MaskError
from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.pipelines.training import create_one_pass, create_pipeline
from blockwise_lora.pipelines.training.nodes import (
    loss_curve,
    train_adapter,
    train_in_one_pass,
)
from tiny_base import write_tiny_pictures

JUDGED = {"every": 1, "prompts": ["zkc square"], "sampling_steps": 1, "judge": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test touches the user's cache."""
    monkeypatch.setenv("BLOCKWISE_LORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def parameters(tiny_base_folder, judge_folders):
    lora, locon = {"method": "lora", "rank": 2}, {"method": "locon", "rank": 2}
    return {
        "character": {"pictures": "x", "trigger": "zkc", "class_word": "cat"},
        "style": {"pictures": "y", "trigger": "qwo", "class_word": "style"},
        "variant": "mixed",
        "variants": {
            "mixed": {
                "character": {**lora, "blocks": "in3-mid"},
                "style": {**locon, "blocks": "out3"},
            }
        },
        "training": {"steps": 2, "batch_size": 2},
        "base_model": {"source": str(tiny_base_folder), "dtype": "float32"},
        "evaluation": {"judges": {key: str(path) for key, path in judge_folders.items()}},
        "device": "cpu",
        "seed": 0,
    }


@pytest.fixture
def images(tmp_path):
    return read_imagefolder(write_tiny_pictures(tmp_path / "pictures", 3))


def filled(parameters, sets) -> DataCatalog:
    """A catalog with parameters, and the pictures of each concept."""
    catalog = DataCatalog()
    for name, value in parameters.items():
        catalog[f"params:{name}"] = value
    for name, pictures in sets.items():
        catalog[f"{name}.curated"] = pictures
    return catalog


def test_both_concepts_are_trained(parameters, images):
    catalog = filled(parameters, {"character": images, "style": images})
    outputs = SequentialRunner().run(create_pipeline(), catalog)
    adapter = outputs["style.adapter"].load()
    assert adapter.spec == AdapterSpec("out3", "locon", 2)
    assert adapter.words["trigger"] == "qwo" and adapter.words["variant"] == "mixed"
    assert all(name.startswith("up_blocks.3") for name in adapter.trained.attached.ranks)
    curve = outputs["character.loss"].load()
    assert list(curve.columns) == ["step", "loss", "loss_smoothed"] and len(curve) == 2


def test_in_one_pass_each_adapter_is_what_it_is_alone(parameters, images, tmp_path):
    parameters["training"] |= {"steps": 4}
    sets = {"character": images, "style": images}
    outputs = SequentialRunner().run(create_one_pass(), filled(parameters, sets))
    for name, pictures in sets.items():
        alone, curve = train_adapter(name, pictures, **parameters)
        together = outputs[f"{name}.adapter"].load()
        assert together.words == alone.words and together.configuration == alone.configuration
        for how, adapter in (("alone", alone), ("together", together)):
            adapter.write(tmp_path / how / name)
        one, other = (
            load_file(tmp_path / how / name / "pytorch_lora_weights.safetensors")
            for how in ("alone", "together")
        )
        assert one.keys() == other.keys()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
        assert outputs[f"{name}.loss"].load()["loss"].tolist() == pytest.approx(
            curve["loss"].tolist(), rel=1e-5
        )


def test_states_of_one_pass_stay_until_both_adapters_are_safe(parameters, images, cache):
    parameters["training"] |= {"steps": 3, "checkpoint_every": 1}
    character, _, style, _ = train_in_one_pass(images, images, **parameters)
    saved = sorted((cache / "checkpoints").iterdir())
    assert len(saved) == 2
    character.trained.forget()
    assert sorted((cache / "checkpoints").iterdir()) == saved
    style.trained.forget()
    assert not list((cache / "checkpoints").iterdir())


def test_each_concept_is_judged_by_its_own_pictures(parameters, images, tmp_path):
    parameters["training"] |= {"validation": JUDGED}
    others = read_imagefolder(write_tiny_pictures(tmp_path / "others", 8))
    together = train_in_one_pass(images, others, **parameters)
    scores = [curve["likeness"].tolist() for curve in together[1::2]]
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    for name, pictures, seen in zip(("character", "style"), (images, others), scores, strict=True):
        alone = train_adapter(name, pictures, **parameters)[1]
        assert seen == pytest.approx(alone["likeness"].tolist(), abs=1e-5)


def test_a_mistake_in_the_other_concept_costs_no_training(parameters, images, cache):
    parameters["style"]["blocks"] = "in3"  # exists, but has no attention for this method
    parameters["style"]["method"] = "lora"
    with pytest.raises(MaskError, match=r"style\.blocks: mask 'in3'"):
        train_adapter("character", images, **parameters)
    assert not cache.exists()


def test_the_log_says_what_is_left_out(parameters, images, caplog):
    with caplog.at_level(logging.INFO):
        train_adapter("character", images, **parameters)
    assert "character: lora on in3-mid" in caplog.text
    assert "1 of 25 blocks; not trained: BASE, IN01" in caplog.text
    assert "conv_in, time_embedding" in caplog.text
    assert "nothing to train in IN10, IN11 (no attention there)" in caplog.text


def test_text_encoder_and_trigger_are_trained_on_request(parameters, images, tmp_path):
    parameters["character"] |= {"blocks": "all+base", "trigger": "zkc"}
    plain, _ = train_adapter("character", images, **parameters)
    assert plain.config.trigger_embedding.initial == "cat" and plain.trained.word is None
    assert any(name.startswith("text_encoder.") for name in plain.trained.attached.ranks)
    parameters["training"]["trigger_embedding"] = {"train": True, "tokens": 2}
    adapter, _ = train_adapter("character", images, **parameters)
    adapter.write(tmp_path / "adapter")
    pipeline = StableDiffusionPipeline.from_pretrained(
        parameters["base_model"]["source"], safety_checker=None
    )
    pipeline.load_lora_weights(tmp_path / "adapter")
    pipeline.load_textual_inversion(str(tmp_path / "adapter"))
    theirs, _ = pipeline.encode_prompt(["zkc cat"], "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(theirs, adapter.base.encode_prompts(["zkc cat"]).tokens)


def test_latents_are_kept_for_the_next_run_and_states_are_not(parameters, images, cache):
    train_adapter("character", images, **parameters)
    assert len(list((cache / "latents").iterdir())) == 1
    assert len(list((cache / "texts").iterdir())) == 4  # three captions and the empty one
    assert not (cache / "checkpoints").exists() or not list((cache / "checkpoints").iterdir())


def test_looks_are_judged_and_kept_beside_the_adapter(parameters, images, tmp_path):
    parameters["training"]["validation"] = JUDGED | {"best_by": "score"}
    adapter, curve = train_adapter("character", images, **parameters)
    assert list(curve.columns)[3:] == ["likeness", "prompt_fit"]
    assert curve[["likeness", "prompt_fit"]].abs().max().max() <= 1 and not curve.isna().any().any()
    adapter.write(tmp_path / "adapter")
    looks = tmp_path / "adapter" / "looks"
    assert sorted(p.name for p in looks.iterdir()) == ["000001-00.png", "000002-00.png"]


def test_the_curve_is_empty_between_looks():
    curve = loss_curve((4.0, 2.0, 2.0), {2: {"held_out_loss": 1.5}})
    assert curve["held_out_loss"].dropna().tolist() == [1.5] and curve["held_out_loss"][1] == 1.5


def test_loss_curve():
    curve = loss_curve((4.0, 2.0, 2.0))
    assert curve.step.tolist() == [1, 2, 3] and curve.loss.tolist() == [4.0, 2.0, 2.0]
    # Weights 0.95^k: the second value is (0.95 * 4 + 2) / 1.95.
    assert curve.loss_smoothed.tolist()[:2] == pytest.approx([4.0, 5.8 / 1.95])
    assert isinstance(curve, pd.DataFrame)
