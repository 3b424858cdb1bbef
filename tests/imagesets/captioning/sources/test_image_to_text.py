from dataclasses import replace

import pytest
import torch

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.captioning.sources.image_to_text import (
    ImageToText,
    ImageToTextConfig,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "photo", "of", "dog", "red"]
WORDS += ["blue", "sits", "on", "mat", ".", "grins"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BLIP with random weights that writes different things about different pictures."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        logging,
    )

    logging.set_verbosity_error()
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16, "initializer_range": 1.0}
    text = small | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 2}
    text |= {"sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 32}
    vision = small | {"image_size": 32, "patch_size": 16}
    folder = tmp_path_factory.mktemp("blip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(
            BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
        )
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    looks = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(looks, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def subjects(subject):
    return [subject(c, c) for c in ("red", "blue", "white", "black", "green")]


def test_the_same_text_as_the_model_writes_by_itself(folder, subjects):
    from transformers import BlipForConditionalGeneration, BlipProcessor

    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    plain = []
    for subject in subjects:
        inputs = processor(images=subject.open(), return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=7, num_beams=2, do_sample=False)
        plain.append(processor.decode(ids[0], skip_special_tokens=True).strip(" ."))
    assert len(set(plain)) > 1
    config = ImageToTextConfig(str(folder), max_new_tokens=7, beams=2, batch_size=2)
    assert ImageToText.load(config).captions(subjects) == [text or None for text in plain]


def test_the_prompt_is_not_repeated(folder, subjects):
    config = ImageToTextConfig(str(folder), prompt="A photo of", max_new_tokens=12, beams=1)
    source = ImageToText.load(config)
    texts = source.captions(subjects)
    assert not any((text or "").startswith("a photo of") for text in texts)
    bare = replace(source, config=replace(config, prompt=""))
    assert texts != bare.captions(subjects)
    assert source._tidied("A  photo OF a cat.") == "a cat"


def test_two_runs_agree_and_leave_the_global_generator_alone(folder, subjects):
    config = ImageToTextConfig(str(folder), max_new_tokens=7)
    before = torch.get_rng_state()
    first = ImageToText.load(config).captions(subjects)
    assert first == ImageToText.load(config).captions(subjects)
    assert torch.equal(torch.get_rng_state(), before)


SIGNS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *WORDS[5:], "what", "does", "image", "?"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16, "initializer_range": 1.0}


def tokenizer_of_signs(**special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SIGNS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **special)


def blip2():
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
    )

    opt = {"model_type": "opt", "vocab_size": len(SIGNS), "hidden_size": 16, "ffn_dim": 16}
    opt |= {"num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    opt |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "init_std": 1.0}
    config = Blip2Config(
        vision_config=SMALL | {"image_size": 32, "patch_size": 16},
        qformer_config=SMALL | {"vocab_size": 9, "encoder_hidden_size": 16},
        text_config=opt | {"max_position_embeddings": 64},
        num_query_tokens=2,
        image_token_index=4,
    )
    looks = BlipImageProcessor(size={"height": 32, "width": 32})
    processor = Blip2Processor(looks, tokenizer_of_signs(), num_query_tokens=2)
    return Blip2ForConditionalGeneration(config), processor, "a photo of"


def florence2():
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    bart = {"model_type": "bart", "vocab_size": len(SIGNS), "d_model": 16, "init_std": 1.0}
    bart |= {f"{part}_layers": 1 for part in ("encoder", "decoder")}
    bart |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    bart |= {f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")}
    bart |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    vision = {"embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2]}
    vision |= {"depths": [1, 1, 1, 1], "projection_dim": 16, "window_size": 2}
    config = Florence2Config(
        text_config=bart | {"max_position_embeddings": 64},
        vision_config=vision | {"max_temporal_embeddings": 4, "max_position_embeddings": 10},
        image_token_id=4,
    )
    square = {"height": 64, "width": 64}
    # 64 pixels leave 2x2 places after the encoder, and one token stands for all of them.
    looks = CLIPImageProcessor(size=square, crop_size=square, image_seq_length=5)
    words = tokenizer_of_signs(extra_special_tokens={"image_token": "<image>"})
    return Florence2ForConditionalGeneration(config), Florence2Processor(looks, words), "<CAPTION>"


@pytest.mark.parametrize("make", [blip2, florence2])
def test_other_models_write_what_they_write_by_themselves(make, tmp_path, subjects):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor, prompt = make()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = ImageToTextConfig(str(tmp_path), prompt=prompt, max_new_tokens=6, beams=1)
    source = ImageToText.load(config)
    processor, plain = source.processor, []
    for subject in subjects:
        inputs = processor(images=subject.open(), text=prompt, return_tensors="pt")
        ids = model.eval().generate(**inputs, max_new_tokens=6, num_beams=1, do_sample=False)
        plain.append(source._tidied(processor.decode(ids[0], skip_special_tokens=True)) or None)
    assert any(plain)
    assert source.captions(subjects) == plain


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix == ".json" or file.name == "vocab.txt":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04never read")
    with pytest.raises(ImageSetError, match="with safetensors weights"):
        ImageToText.load(ImageToTextConfig(str(tmp_path)))


def test_no_model(tmp_path):
    with pytest.raises(ImageSetError, match=r"image_to_text\.model is empty"):
        ImageToText.load(ImageToTextConfig())
    with pytest.raises(ImageSetError, match="cannot be loaded"):
        ImageToText.load(ImageToTextConfig(str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ImageSetError, match="cannot be loaded"):
        ImageToText.load(ImageToTextConfig(str(tmp_path)))


def test_mistakes_are_refused_together():
    with pytest.raises(ValueError, match=r"max_new_tokens.*\nbeams.*\nbatch_size"):
        ImageToTextConfig(max_new_tokens=0, beams=0, batch_size=0)
