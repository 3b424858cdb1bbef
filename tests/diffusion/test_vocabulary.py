"""A learned trigger: trained beside the adapter, and read by plain diffusers as it was trained."""

import dataclasses

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from blockwise_lora.adapters import AdapterError, AdapterSpec, read_adapter, set_strengths
from blockwise_lora.adapters.words import WORD_FILE, LearnedWord
from blockwise_lora.diffusion.attached import bare, load, unload
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.captions import CaptionError
from blockwise_lora.diffusion.config import (
    OptimizerConfig,
    PriorConfig,
    TrainingConfig,
    TriggerEmbeddingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.optimizers import OptimizerError
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import Job, train, train_many
from tiny_base import write_tiny_sdxl

LEARN = TriggerEmbeddingConfig(True, tokens=2, learning_rate=1e-2, initial="cat")
CONFIG = TrainingConfig(
    steps=3, batch_size=2, learning_rate=1e-2, trigger="zkc", trigger_embedding=LEARN
)
SPEC = AdapterSpec("mid+base", "lora", 2)


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture
def xl(xl_folder):
    return load_base(xl_folder)


def changed(config=CONFIG, **trigger):
    return dataclasses.replace(
        config, trigger_embedding=dataclasses.replace(config.trigger_embedding, **trigger)
    )


def rows(base, letters):
    table = base.text_encoder.get_input_embeddings().weight
    return torch.stack([table[base.tokenizer.convert_tokens_to_ids(x)] for x in letters])


def test_it_starts_from_its_initial_word_and_learns(base, images):
    tiny = train(base, images, SPEC, changed(learning_rate=1e-12), name="a").word
    unload(base, "a")
    # A letter a token: c, a, t</w>; two of them are taken.
    torch.testing.assert_close(tiny.vectors[0], rows(base, ["c", "a"]), rtol=0, atol=1e-7)
    word = train(base, images, SPEC, CONFIG, name="a").word
    assert (word.word, word.token) == ("zkc", "zkc")
    assert ((word.vectors[0] - tiny.vectors[0]).abs().amax(1) > 1e-3).all(), "each vector moved"


def test_prompts_with_the_trigger_change_and_no_others(base, images):
    prompts = ["zkc square", "square"]
    plain = base.encode_prompts(prompts).tokens
    weights = base.text_encoder.get_input_embeddings().weight.clone()
    size = len(base.tokenizer)
    train(base, images, AdapterSpec("mid", "lora", 2), CONFIG, name="a")
    learned = base.encode_prompts(prompts).tokens
    assert torch.equal(learned[1], plain[1]) and not torch.allclose(learned[0], plain[0])
    with bare(base):
        assert torch.equal(base.encode_prompts(prompts).tokens, plain)
    unload(base, "a")
    assert torch.equal(base.encode_prompts(prompts).tokens, plain)
    assert torch.equal(base.text_encoder.get_input_embeddings().weight, weights)
    assert len(base.tokenizer) == size and "forward" not in vars(
        base.text_encoder.get_input_embeddings()
    )


def test_a_word_that_is_known_keeps_its_meaning_for_others(base, images):
    """The tokenizer has "!" already; the trigger gets a token of its own beside it."""
    captions = [dataclasses.replace(p, caption=f"! {p.caption}") for p in images]
    excited = dataclasses.replace(images, pictures=tuple(captions))
    config = dataclasses.replace(CONFIG, trigger="!")
    plain = base.encode_prompts(["a ! b"]).tokens
    known = rows(base, ["!"]).clone()
    word = train(base, excited, AdapterSpec("mid", "lora", 2), config, name="a").word
    assert word.word == "!" and word.token.startswith("<")
    assert not torch.allclose(base.encode_prompts(["a ! b"]).tokens, plain)
    with bare(base):
        assert torch.equal(base.encode_prompts(["a ! b"]).tokens, plain)
    assert torch.equal(rows(base, ["!"]), known)


def test_several_trainings_have_meanings_of_their_own(base, images):
    """K of them in a pass, one without: as if each were trained alone."""
    configs = {
        "a": CONFIG,
        "b": changed(tokens=1, initial="dog"),
        "c": changed(train=False),
    }
    alone = {}
    for name, config in configs.items():
        alone[name] = train(base, images, SPEC, config, name=name)
        unload(base, name)
    jobs = [Job(name, images, SPEC, config) for name, config in configs.items()]
    for name, outcome in zip(configs, train_many(base, jobs), strict=True):
        assert outcome.losses == pytest.approx(alone[name].losses, rel=1e-4)
        if outcome.word:
            torch.testing.assert_close(
                outcome.word.vectors[0], alone[name].word.vectors[0], rtol=1e-3, atol=1e-5
            )
    assert outcome.word is None and alone["a"].word.vectors[0].shape == (2, 24)
    for name in configs:
        unload(base, name)


def finished(base, images, spec=SPEC, config=CONFIG):
    return TrainedAdapter(base, train(base, images, spec, config, name="a"), config, {})


def answer(unet, tokens, added=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((len(tokens), 4, 8, 8), generator=generator)
    with torch.no_grad():
        return unet(x, 500, encoder_hidden_states=tokens, added_cond_kwargs=added).sample


PROMPTS = ["a zkc square, zkc", "square"]


@pytest.mark.parametrize("method", ["lora", "locon"])
def test_diffusers_reads_it_bit_by_bit(base, images, tiny_base_folder, tmp_path, method):
    finished(base, images, AdapterSpec("all+base", method, 2)).write(tmp_path)
    ours = base.encode_prompts(PROMPTS).tokens
    wanted = answer(base.unet, ours)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path)
    pipeline.load_textual_inversion(str(tmp_path))
    theirs, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(theirs, ours)
    assert torch.equal(answer(pipeline.unet, theirs), wanted)
    with bare(base):
        assert not torch.allclose(answer(base.unet, base.encode_prompts(PROMPTS).tokens), wanted)


@pytest.mark.parametrize("eos", ["right", "2"])
def test_diffusers_reads_it_for_both_encoders_of_sdxl(xl, images, xl_folder, tmp_path, eos):
    """Also where the configuration's end token is wrong, as in SDXL's files."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    if eos == "2":
        for encoder in (xl.text_encoder_2, pipeline.text_encoder_2):
            getattr(encoder, "text_model", encoder).eos_token_id = 2
    finished(xl, images, AdapterSpec("all+base", "lora", 2)).write(tmp_path)
    text = xl.encode_prompts(PROMPTS)
    pipeline.load_lora_weights(tmp_path)
    vectors = load_file(tmp_path / WORD_FILE)
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        pipeline.load_textual_inversion(
            {"zkc": vectors[key]},
            text_encoder=getattr(pipeline, f"text_encoder{number}"),
            tokenizer=getattr(pipeline, f"tokenizer{number}"),
        )
    tokens, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    assert torch.equal(tokens, text.tokens) and torch.equal(pooled, text.pooled)
    ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
    answers = [
        answer(unet, text.tokens, {"text_embeds": text.pooled, "time_ids": ids})
        for unet in (xl.unet, pipeline.unet)
    ]
    assert torch.equal(*answers)


def test_it_comes_back_with_its_adapter(base, images, tmp_path):
    finished(base, images).write(tmp_path)
    wanted = base.encode_prompts(PROMPTS).tokens
    unload(base, "a")
    load(base, read_adapter(tmp_path), "again")
    assert torch.equal(base.encode_prompts(PROMPTS).tokens, wanted)
    set_strengths(base.parts, {"again": 1.0})
    unload(base, "again")
    read = read_adapter(tmp_path)
    wrong = dataclasses.replace(read, word=LearnedWord("zkc", "zkc", (torch.ones(1, 5),)))
    with pytest.raises(AdapterError, match="width"):
        load(base, wrong, "wrong")
    load(base, read, "wrong")  # the name is free: nothing stayed behind


def test_equal_runs_give_equal_files(base, images, tmp_path):
    for folder in ("first", "second"):
        finished(base, images).write(tmp_path / folder)
        unload(base, "a")
    for name in (WORD_FILE, "pytorch_lora_weights.safetensors"):
        first, second = ((tmp_path / f / name).read_bytes() for f in ("first", "second"))
        assert first == second, name


def test_two_words_act_together_unless_they_are_the_same(base):
    def word(text, value):
        return LearnedWord(text, text, (torch.full((1, 24), value),))

    for name, text in (("a", "zkc"), ("b", "qwo"), ("c", "zkc")):
        base.vocabulary.add(name, word(text, float(ord(name))))
    try:
        with base.vocabulary.only(["a", "b"]):
            ids = base.vocabulary.ids(["qwo zkc"]).ids[0]
            vectors = base.text_encoder.get_input_embeddings()(ids)[0, 1:3]
        assert vectors[:, 0].tolist() == [98.0, 97.0]
        with pytest.raises(AdapterError, match="a and c have learned the same word"):
            base.vocabulary.act(["a", "c"])
    finally:
        for name in "abc":
            base.vocabulary.remove(name)


def test_weight_decay_leads_back_to_the_initial_word(base, images):
    strong = OptimizerConfig(weight_decay=100.0)
    config = dataclasses.replace(changed(learning_rate=1e-2), steps=12, optimizer=strong)
    held = train(base, images, SPEC, config, name="a").word.vectors[0]
    unload(base, "a")
    loose = dataclasses.replace(config, optimizer=OptimizerConfig(weight_decay=0.0))
    free = train(base, images, SPEC, loose, name="a").word.vectors[0]
    start = rows(base, ["c", "a"])
    assert (held - start).norm() < 0.5 * (free - start).norm()


def test_looks_and_class_keeping_work_beside_it(base, images):
    looks = ValidationConfig(every=3, held_out=1, prompts=("zkc square",), sampling_steps=1)
    config = dataclasses.replace(CONFIG, validation=looks, prior=PriorConfig("distil"))
    outcome = train(base, images, AdapterSpec("mid", "lora", 2), config, name="a")
    assert len(outcome.looks) == 1 and outcome.skipped == 0


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (dataclasses.replace(CONFIG, trigger="qwo"), CaptionError, "no caption has the trigger"),
        (changed(initial=" "), AdapterError, r"trigger_embedding\.initial"),
        (
            dataclasses.replace(CONFIG, optimizer=OptimizerConfig("prodigy")),
            OptimizerError,
            "trigger_embedding",
        ),
    ],
)
def test_mistakes_are_told_and_leave_the_model_as_it_was(base, images, config, error, words):
    config = dataclasses.replace(config, learning_rate=1e-3)
    with pytest.raises(error, match=words):
        train(base, images, SPEC, config, name="a")
    assert "a" not in base.vocabulary and not hasattr(base.unet, "peft_config")


def test_it_needs_a_trigger():
    with pytest.raises(ValueError, match=r"trigger_embedding\.train needs trigger"):
        TrainingConfig(trigger_embedding=LEARN)
    with pytest.raises(ValueError, match="tokens is at least 1"):
        TriggerEmbeddingConfig(tokens=0)
