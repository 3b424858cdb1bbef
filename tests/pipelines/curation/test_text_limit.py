import pytest
from transformers import CLIPTokenizer

from blockwise_lora.pipelines.curation.nodes import text_limit


@pytest.mark.parametrize("text", ["", "zkc cat, 3", "don't  stop\n now", "Ünïcode 😀 " * 20])
def test_tokens_are_counted_as_the_text_encoder_reads_them(tiny_base_folder, text):
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base_folder / "tokenizer")
    limit = text_limit(str(tiny_base_folder))
    assert limit.count(text) == len(tokenizer(text, verbose=False).input_ids)
    assert limit.most == tokenizer.model_max_length
