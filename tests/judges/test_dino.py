import json
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from blockwise_lora.judges.dino import load_dino
from blockwise_lora.judges.weights import JudgeError


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(judge_folders, pictures):
    few, many = (load_dino(judge_folders["dino"], batch_size=b) for b in (3, 64))
    vectors = few.images(pictures)
    assert vectors.shape == (7, 48)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors, many.images(pictures), atol=1e-5)


def test_tokens_are_the_patches_of_each_block(judge_folders, pictures):
    judge = load_dino(judge_folders["dino"], batch_size=4)
    layers = list(judge.tokens(pictures, (0, 2)))
    assert [[tuple(t.shape) for t in batch] for batch in layers] == [
        [(4, 64, 48)] * 2,
        [(3, 64, 48)] * 2,
    ]


def test_patches_stand_in_their_places(judge_folders, tmp_path, pictures):
    folder = shutil.copytree(judge_folders["dino"], tmp_path / "dino")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vector": "patches"}))
    judge = load_dino(folder)
    vectors = judge.images(pictures)
    assert vectors.shape == (7, 64 * 48)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    last = np.concatenate([judge.model.norm(t[0]).flatten(1).numpy(force=True)
                           for t in judge.tokens(pictures, (2,))])  # fmt: skip
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    assert np.allclose(vectors, last, atol=1e-5)


def test_an_unknown_vector_is_refused(judge_folders, tmp_path):
    folder = shutil.copytree(judge_folders["dino"], tmp_path / "dino")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vector": "mean"}))
    with pytest.raises(JudgeError, match="vector is one of"):
        load_dino(folder)


@pytest.mark.parametrize("blocks", [(), (3,), (-1,)])
def test_a_block_that_is_not_there_is_an_error(judge_folders, pictures, blocks):
    with pytest.raises(JudgeError, match="blocks 0 to 2"):
        list(load_dino(judge_folders["dino"]).tokens(pictures, blocks))


def test_an_unknown_source_names_what_would_do():
    with pytest.raises(JudgeError, match=r"no DINO judge at 'nowhere'.*vit_small_patch16_224"):
        load_dino("nowhere")


def test_a_public_model_is_loaded_without_its_classifier(monkeypatch, tmp_path, pictures):
    import huggingface_hub
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    whole = timm.create_model(name, pretrained=False)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda **wanted: tmp_path / wanted["filename"]
    )
    judge = load_dino(name)
    assert judge.images(pictures[:2]).shape == (2, 192)
    assert (judge.preprocess.size, judge.preprocess.crop) == (224, 0.9)


def test_a_public_model_of_another_kind_is_refused():
    with pytest.raises(JudgeError, match="no vision transformer"):
        load_dino("resnet18.a1_in1k")


def test_an_unknown_device_is_an_error(judge_folders):
    with pytest.raises(JudgeError, match="device 'cuda:99' cannot be used"):
        load_dino(judge_folders["dino"], device="cuda:99")


@pytest.mark.parametrize(
    "change", [{"architecture": "resnet"}, {"kwargs": {"depth": 6}}, {"mean": None}]
)
def test_a_configuration_that_is_none_is_an_error(judge_folders, tmp_path, change):
    folder = tmp_path / "dino"
    shutil.copytree(judge_folders["dino"], folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(JudgeError, match=r"config.json does not describe a vision transformer"):
        load_dino(folder)


def test_pickled_weights_under_the_name_of_safetensors_are_refused(judge_folders, tmp_path):
    import torch

    folder = tmp_path / "dino"
    shutil.copytree(judge_folders["dino"], folder)
    torch.save({"weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(JudgeError, match="not a whole safetensors file"):
        load_dino(folder)
