import dataclasses

import pytest
import torch
from transformers import CLIPTokenizer

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.text import Text
from blockwise_lora.diffusion.texts import TextTable


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that the text encoder is given."""
    prompts = []
    encode = BaseModel.encode_ids

    def counting(self, ids):
        prompts.extend(self.tokenizer.decode(row, skip_special_tokens=True) for row in ids[0])
        return encode(self, ids)

    monkeypatch.setattr(BaseModel, "encode_ids", counting)
    return prompts


def test_each_prompt_is_encoded_once_and_found_again(base, tmp_path, encoded):
    first = TextTable.of(base, ["b", "a", "b"], tmp_path)
    assert encoded == ["a", "b"] and len(first.text) == 2
    second = TextTable.of(base, ["c", "b"], tmp_path)
    assert encoded == ["a", "b", "c"]
    assert torch.equal(second.text[[second.row["b"]]].tokens, first.text[[first.row["b"]]].tokens)
    assert second.rows([["b", "c"], ["c", "c"]]).tolist() == [[0, 1], [1, 1]]


def test_what_is_cached_already_changes_no_bit_of_the_others(base, tmp_path, monkeypatch):
    """With a text encoder whose rounding differs by the batch, as on other machines than this."""
    encode = BaseModel.encode_ids

    def rounding(self, ids):
        text = encode(self, ids)
        company = torch.arange(len(text)).view(-1, 1, 1) + len(text)
        return Text(text.tokens * (1 + company * 2**-20), text.pooled)

    monkeypatch.setattr(BaseModel, "encode_ids", rounding)
    prompts = [f"zkc cat, {i}" for i in range(5)]
    cold = TextTable.of(base, prompts, tmp_path / "cold")
    TextTable.of(base, prompts[2:4], tmp_path / "warm")
    warm = TextTable.of(base, prompts, tmp_path / "warm")
    assert torch.equal(cold.text.tokens, warm.text.tokens)
    assert torch.equal(cold.text.tokens, TextTable.of(base, prompts).text.tokens)


def test_another_model_or_precision_finds_nothing(base, tmp_path, encoded):
    TextTable.of(base, ["a"], tmp_path)
    TextTable.of(dataclasses.replace(base, sha256="another"), ["a"], tmp_path)
    TextTable.of(dataclasses.replace(base, dtype=torch.bfloat16), ["a"], tmp_path)
    assert encoded == ["a"] * 3


def test_another_device_or_rounding_finds_nothing(base, tmp_path, encoded, monkeypatch):
    for arithmetic in ("", " cuda", " cuda tf32", ""):
        monkeypatch.setattr(BaseModel, "arithmetic", arithmetic)
        TextTable.of(base, ["a"], tmp_path)
    assert encoded == ["a"] * 3


def test_another_tokenizer_finds_nothing(base, tmp_path, encoded):
    """Its ids mean other words to the same weights."""
    words = base.tokenizer.get_vocab()
    words["a"], words["c"] = words["c"], words["a"]
    tokenizer = CLIPTokenizer(vocab=words, merges=[], model_max_length=32)
    for model in (base, dataclasses.replace(base, tokenizer=tokenizer)):
        TextTable.of(model, ["ab"], tmp_path)
    assert len(encoded) == 2
    TextTable.of(base, [" ab "], tmp_path)
    assert len(encoded) == 2, "the same ids as without the blanks"


def test_a_damaged_file_is_replaced(base, tmp_path, encoded):
    whole = TextTable.of(base, ["a"], tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"nonsense")
    assert torch.equal(TextTable.of(base, ["a"], tmp_path).text.tokens, whole.text.tokens)
    TextTable.of(base, ["a"], tmp_path)
    assert encoded == ["a", "a"]


def test_a_folder_that_cannot_be_written_costs_a_warning(base, tmp_path, caplog):
    (tmp_path / "file").touch()
    TextTable.of(base, ["a"], tmp_path / "file" / "texts")
    assert "not kept for the next run" in caplog.text


def test_text_keeps_tokens_and_pooled_together():
    text = Text(torch.arange(6.0).view(3, 2, 1), torch.arange(3.0).view(3, 1))
    some = text[torch.tensor([2, 0])]
    assert some.tokens[0, 0].item() == 4.0 and some.pooled[0].item() == 2.0
    both = Text.cat([some, text[[1]].expand(2)])
    assert both.pooled.flatten().tolist() == [2.0, 0.0, 1.0, 1.0] and len(both) == 4
