import pytest
import torch
from safetensors.torch import load_file, save_file

from blockwise_lora.adapters import AdapterError
from blockwise_lora.adapters.words import WORD_FILE, LearnedWord, free_token


def vectors(*shapes):
    return tuple(torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)


def test_one_encoder_has_one_tensor_under_the_tokens_name(tmp_path):
    word = LearnedWord("cat", "<cat>", vectors((2, 4)))
    word.write(tmp_path, {"base": "x"})
    assert list(load_file(tmp_path / WORD_FILE)) == ["<cat>"]
    read = LearnedWord.read(tmp_path)
    assert (read.word, read.token) == ("cat", "<cat>")
    assert torch.equal(read.vectors[0], word.vectors[0])


def test_sdxl_has_the_names_of_its_encoders(tmp_path):
    word = LearnedWord("zkc", "zkc", vectors((1, 4), (1, 6)))
    word.write(tmp_path)
    assert set(load_file(tmp_path / WORD_FILE)) == {"clip_l", "clip_g"}
    read = LearnedWord.read(tmp_path)
    assert read.token == "zkc"
    assert all(torch.equal(a, b) for a, b in zip(read.vectors, word.vectors, strict=True))


def test_a_file_of_another_tool_is_read(tmp_path):
    save_file({"zkc": torch.ones(4, dtype=torch.float16)}, tmp_path / WORD_FILE)
    read = LearnedWord.read(tmp_path)
    assert (read.word, read.token) == ("zkc", "zkc")
    assert read.vectors[0].shape == (1, 4) and read.vectors[0].dtype == torch.float32


def test_no_file_no_word(tmp_path):
    assert LearnedWord.read(tmp_path) is None


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.ones(1, 4), "b": torch.ones(1, 4)},
        {"a": torch.full((1, 4), torch.nan)},
        {"a": torch.ones(1, 2, 4)},
        {"clip_l": torch.ones(1, 4), "clip_g": torch.ones(1, 4)},  # of no word
        {"a": torch.ones(1, 4).to(torch.float8_e4m3fn)},
    ],
)
def test_what_is_no_word_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / WORD_FILE)
    with pytest.raises(AdapterError, match=WORD_FILE):
        LearnedWord.read(tmp_path)


def test_vectors_that_are_not_finite_are_not_written(tmp_path):
    word = LearnedWord("zkc", "zkc", (torch.full((1, 4), torch.inf),))
    with pytest.raises(AdapterError, match=r"trigger_embedding\.learning_rate"):
        word.write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "known", "token"),
    [
        ("zkc", {"cat": 1}, "zkc"),
        ("cat", {"cat": 1}, "<cat>"),
        ("Cat", {"cat": 1}, "<Cat>"),
        ("cat", {"cat": 1, "<cat>": 2}, "<cat-2>"),
        ("my cat", {}, "<my-cat>"),
    ],
)
def test_a_token_that_is_known_keeps_its_meaning(word, known, token):
    assert free_token(word, [{}, known]) == token
