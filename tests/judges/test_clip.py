import json
import shutil

import numpy as np
import pytest

from blockwise_lora.judges.clip import load_clip
from blockwise_lora.judges.weights import JudgeError


def test_pictures_and_texts_share_one_space_of_unit_vectors(judge_folders, pictures):
    judge = load_clip(judge_folders["clip"])
    images, texts = judge.images(pictures), judge.texts(["cat face", "dog"])
    assert images.shape == (7, 16)
    assert texts.shape == (2, 16)
    for vectors in (images, texts):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_scale_is_the_trained_one(judge_folders):
    # A CLIP that was never trained has the start value 1 / 0.07; this one is in half precision.
    assert load_clip(judge_folders["clip"]).scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_the_batch_size_does_not_matter(judge_folders, pictures):
    one, many = (load_clip(judge_folders["clip"], batch_size=b) for b in (2, 64))
    assert np.allclose(one.images(pictures), many.images(pictures), atol=1e-5)
    texts = ["cat face, grinning", "dog", "a " * 100]
    assert np.allclose(one.texts(texts), many.texts(texts), atol=1e-5)


def test_texts_that_differ_are_told_apart(judge_folders):
    a, b, c = load_clip(judge_folders["clip"]).texts(["cat face", "dog", "cat face"])
    assert np.allclose(a, c, atol=1e-6)
    assert a @ b < 0.999


def test_loading_leaves_the_global_random_state_alone(judge_folders):
    import torch

    state = torch.random.get_rng_state()
    load_clip(judge_folders["clip"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_unknown_source_names_what_would_do():
    with pytest.raises(JudgeError, match=r"no CLIP judge at 'data/nowhere'.*ViT-L-14/openai"):
        load_clip("data/nowhere")


def test_the_public_judge_is_known_by_name_and_misses_only_its_weights(monkeypatch):
    # Without a network, all but the download happens: architecture and activation are resolved.
    import huggingface_hub

    asked = {}

    def offline(**wanted):
        asked.update(wanted)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(JudgeError, match=r"RN50/openai could not be had .*offline"):
        load_clip("RN50/openai")
    assert asked["filename"].endswith(".safetensors")


def broken(folder, tmp_path, change):
    copy = tmp_path / "clip"
    shutil.copytree(folder, copy)
    change(copy)
    with pytest.raises(JudgeError) as caught:
        load_clip(copy)
    return str(caught.value)


def test_truncated_weights_are_named(judge_folders, tmp_path):
    def cut(copy):
        path = copy / "open_clip_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])

    message = broken(judge_folders["clip"], tmp_path, cut)
    assert "open_clip_model.safetensors is not a whole safetensors file" in message


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_missing_file_is_named(judge_folders, tmp_path, name):
    assert name in broken(judge_folders["clip"], tmp_path, lambda copy: (copy / name).unlink())


def test_a_missing_tokenizer_is_an_error(judge_folders, tmp_path):
    def remove(copy):
        for path in copy.iterdir():
            if not path.name.startswith("open_clip"):
                path.unlink()

    assert "restore the tokenizer" in broken(judge_folders["clip"], tmp_path, remove)


def test_a_configuration_that_does_not_fit_the_weights_is_an_error(judge_folders, tmp_path):
    def wider(copy):
        path = copy / "open_clip_config.json"
        config = json.loads(path.read_text())
        config["model_cfg"]["embed_dim"] = 24
        path.write_text(json.dumps(config))

    message = broken(judge_folders["clip"], tmp_path, wider)
    assert "weights and configuration disagree" in message


def test_a_configuration_without_its_keys_is_an_error(judge_folders, tmp_path):
    def empty(copy):
        (copy / "open_clip_config.json").write_text("{}")

    assert "not an open_clip configuration" in broken(judge_folders["clip"], tmp_path, empty)
