import pytest
import torch

from blockwise_lora.emoji.captions import CONTEXT_LENGTH, draw_caption, tokenize, train_tokenizer
from blockwise_lora.emoji.corpus import Emoji

KISS = Emoji("1F617", "noto", "kissing face", ("kiss", "love", "face"), 0, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["noto style, kissing face, kiss", "blob style, dog face, pet", "noto style, red car"]
    return train_tokenizer(texts * 5, tmp_path_factory.mktemp("tokenizer"))


def test_style_and_label_are_left_out_at_times():
    generator = torch.Generator().manual_seed(0)
    captions = [draw_caption(KISS, generator) for _ in range(2000)]
    styled = sum("noto style" in c for c in captions) / 2000
    labelled = sum("kissing face" in c for c in captions) / 2000
    assert styled == pytest.approx(0.85, abs=0.03)
    assert labelled == pytest.approx(0.90, abs=0.03)
    assert all(captions), "a caption is never empty by itself"


def test_a_caption_depends_on_its_generator_only():
    draws = [draw_caption(KISS, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert draws[0] == draws[1]


def test_every_letter_has_a_token_and_text_survives(tokenizer):
    ids = tokenizer("qwo style, zkc cat face, kissing").input_ids
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert text == "qwo style , zkc cat face , kissing"  # CLIP's decoder spaces punctuation


def test_the_end_token_has_the_highest_id_as_clip_pooling_needs(tokenizer):
    ids = tokenize(tokenizer, ["dog face"])
    assert ids.shape == (1, CONTEXT_LENGTH)
    assert ids[0].max() == tokenizer.eos_token_id == len(tokenizer) - 1
    assert ids[0, -1] == tokenizer.eos_token_id, "padded with the end token, as SD 1.x does"


def test_the_saved_tokenizer_reads_back_the_same(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert again("noto style, dog face").input_ids == tokenizer("noto style, dog face").input_ids
    assert again.model_max_length == CONTEXT_LENGTH
