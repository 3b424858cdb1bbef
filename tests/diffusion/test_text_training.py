"""Adapters of the text encoders (the block BASE), trained through the one training loop."""

import dataclasses

import pytest
import torch

from blockwise_lora.adapters import (
    AdapterSpec,
    detach,
    load_adapter,
    read_adapter,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.batched import BatchedAdapters
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import (
    CaptionConfig,
    EfficiencyConfig,
    PriorConfig,
    TrainingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import Job, train, train_many
from tiny_base import write_tiny_sdxl

CONFIG = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-2, trigger="zkc")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return load_base(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "sdxl"))


def values(base, name):
    return [p.detach().clone() for p in trainable_parameters(base.parts, name)]


def trained(base, images, spec, config=CONFIG, **options):
    """The weights and the outcome of one training; the model is as before."""
    outcome = train(base, images, spec, config, name="a", **options)
    weights = values(base, "a")
    detach(base.parts, "a")
    return weights, outcome


@pytest.mark.parametrize("blocks", ["base", "all+base"])
def test_the_text_encoder_learns(base, images, blocks):
    plain = base.encode_prompts(["zkc square"]).tokens
    train(base, images, AdapterSpec(blocks, "lora", 2), CONFIG, name="a")
    layers = dict(adapted_layers(base.parts, "a"))
    text = [layer for key, layer in layers.items() if key.startswith("text_encoder.")]
    assert len(text) == 2 * 6 and (len(layers) > 12) == (blocks == "all+base")
    assert all(layer.lora_B["a"].weight.abs().max() > 0 for layer in text), "each has a gradient"
    assert not torch.allclose(base.encode_prompts(["zkc square"]).tokens, plain)
    set_strengths(base.parts, {})
    assert torch.equal(base.encode_prompts(["zkc square"]).tokens, plain)


@pytest.mark.parametrize("method", ["locon", "rslora", "dora", "loha", "lokr", "oft", "full"])
def test_every_method_reaches_the_text_encoder(base, images, method, tmp_path):
    """Trains, saves, and loads back with the same prompt, bit for bit."""
    spec = AdapterSpec("out3+base" if method != "oft" else "base", method, 4)
    plain = base.encode_prompts(["zkc square"]).tokens
    outcome = train(base, images, spec, CONFIG, name="a")
    learned = base.encode_prompts(["zkc square"]).tokens
    TrainedAdapter(base, outcome, CONFIG, {}).write(tmp_path)
    detach(base.parts, "a")
    assert torch.equal(base.encode_prompts(["zkc square"]).tokens, plain)
    load_adapter(base.parts, read_adapter(tmp_path), "a")
    assert not torch.allclose(learned, plain)
    assert torch.equal(base.encode_prompts(["zkc square"]).tokens, learned)


def test_both_text_encoders_of_sdxl_learn(xl, images):
    outcome = train(xl, images, AdapterSpec("base", "lora", 2), CONFIG, name="a")
    still = [
        key for key, layer in adapted_layers(xl.parts, "a") if not layer.lora_B["a"].weight.any()
    ]
    detach(xl.parts, "a")
    assert len(outcome.attached.ranks) == 2 * 2 * 6
    # The U-Net is told the last hidden layer but one of the first encoder.
    assert still and all(key.startswith("text_encoder.encoder.layers.1.") for key in still)


SPECS = {
    "lora": AdapterSpec("all+base", "lora", 2),
    "dora": AdapterSpec("mid+base", "dora", 2),
    "again": AdapterSpec("base:3+out1", "locon", 2),
    "other": AdapterSpec("out1", "lora", 2),
}


@pytest.mark.parametrize("model", ["base", "xl"])
def test_many_in_a_pass_are_those_trained_alone(request, images, model):
    """K of them with the text encoder and one without, whose text stays cached."""
    model = request.getfixturevalue(model)
    config = dataclasses.replace(CONFIG, captions=CaptionConfig(dropout=0.3))
    alone = {name: trained(model, images, spec, config) for name, spec in SPECS.items()}
    outcomes = train_many(model, [Job(n, images, spec, config) for n, spec in SPECS.items()])
    together = {name: values(model, name) for name in SPECS}
    for name in SPECS:
        detach(model.parts, name)
    for (name, (weights, single)), outcome in zip(alone.items(), outcomes, strict=True):
        assert outcome.losses == pytest.approx(single.losses, rel=1e-5)
        # Adam makes whole steps of gradients that are hardly more than rounding; gradients: below.
        largest = max(b.norm() for b in weights)
        for a, b in zip(together[name], weights, strict=True):
            assert (a - b).norm() <= 1e-2 * b.norm() + 1e-4 * largest, name


@pytest.mark.parametrize("model", ["base", "xl"])
def test_gradients_are_those_of_separate_runs(request, images, model):
    model = request.getfixturevalue(model)
    names = ["lora", "again"]
    jobs = [Job(name, images, SPECS[name], CONFIG) for name in names]
    train_many(model, jobs)  # so that no factor is zero
    cached = CachedSet.of(model, images, CONFIG, encoded=False)
    batch = Batch.of(model, cached, CONFIG, 7)
    separate = {}
    for name in names:
        set_strengths(model.parts, {name: 1.0})
        for parameter in trainable_parameters(model.parts, name):
            parameter.requires_grad_(True)
        batch.loss(predict(model, [batch])).backward()
        separate[name] = [p.grad for p in trainable_parameters(model.parts, name)]
    adapters = BatchedAdapters(model.parts, names)
    with adapters.installed(), adapters.acting(names, [0, 1], CONFIG.batch_size):
        answers = predict(model, [batch, batch]).split(CONFIG.batch_size)
        sum(batch.loss(answer) for answer in answers).backward()
    for name in names:
        for parameter in adapters.parameters(name):
            parameter.data.copy_(parameter.grad)
    adapters.write_back()
    for name in names:
        for a, b in zip(values(model, name), separate[name], strict=True):
            b = torch.zeros_like(a) if b is None else b
            assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7, name
        detach(model.parts, name)


def test_captions_are_encoded_in_each_step_and_it_is_said(base, images, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train(base, images, SPECS["again"], CONFIG, name="a", cache_dir=tmp_path)
    assert "a: what captions mean is learned, so each step encodes them anew." in caplog.text
    assert (tmp_path / "latents").is_dir() and not (tmp_path / "texts").exists()


def test_what_is_cached_is_the_base_models_own_text(base, images, tmp_path):
    """An adapter that is left in the text encoder must not end up in everyone's cache."""
    clean = CachedSet.of(base, images).text.tokens
    train(base, images, SPECS["again"], CONFIG, name="a")
    assert not torch.equal(base.encode_prompts([""]).tokens, clean[-1:]), "it acts"
    assert torch.equal(CachedSet.of(base, images, folder=tmp_path).text.tokens, clean)


def test_rates_by_block_hold_for_the_text_encoder(base, images):
    whole, _ = trained(base, images, AdapterSpec("mid+base", "lora", 2))
    still, _ = trained(base, images, AdapterSpec("mid+base", "lora", 2, rates={"base": 0.0}))
    mid, _ = trained(base, images, AdapterSpec("mid", "lora", 2))
    ups = list(still[len(mid) :][1::2])
    assert ups and not any(p.any() for p in ups), "B stays zero"
    assert torch.equal(still[1], mid[1]) and not torch.equal(whole[1], mid[1])


@pytest.mark.parametrize("model", ["base", "xl"])
def test_checkpointing_changes_nothing(request, images, model):
    model = request.getfixturevalue(model)
    config = dataclasses.replace(CONFIG, efficiency=EfficiencyConfig(gradient_checkpointing=True))
    calls, layer = [], model.text_encoder.encoder.layers[0]
    inner = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    try:
        plain, _ = trained(model, images, SPECS["again"])
        once = sum(calls)
        saving, _ = trained(model, images, SPECS["again"], config)
    finally:
        inner.remove()
    assert all(torch.equal(a, b) for a, b in zip(plain, saving, strict=True))
    assert sum(calls) - once == 2 * once, "each layer ran a second time on the way back"
    assert not any(m.training for m in model.text_encoder.modules())


def test_the_class_is_kept_as_the_plain_text_encoder_has_it(base, images):
    """`distil`: the teacher is the base model, text encoder included."""
    config = dataclasses.replace(CONFIG, prior=PriorConfig("distil"))
    train(base, images, SPECS["again"], CONFIG, name="a")
    cached = CachedSet.of(base, images, config, encoded=False)
    encoded = CachedSet.of(base, images, config)
    batch, plain = (Batch.of(base, c, config, 3) for c in (cached, encoded))
    from blockwise_lora.diffusion.attached import bare

    with bare(base):
        assert torch.equal(batch.taught_by(base).wanted, plain.taught_by(base).wanted)
    assert not torch.equal(batch.taught_by(base).wanted, plain.taught_by(base).wanted)


def test_looks_see_the_adapters_own_text(base, images):
    looks = ValidationConfig(every=2, held_out=1, prompts=("zkc square",), sampling_steps=2)
    config = dataclasses.replace(CONFIG, validation=looks, learning_rate=1.0)
    _, moved = trained(base, images, AdapterSpec("base", "lora", 2), config)
    still = dataclasses.replace(config, learning_rate=1e-9)
    _, same = trained(base, images, AdapterSpec("base", "lora", 2), still)
    first, second = moved.looks[-1], same.looks[-1]
    assert first.values != second.values
    assert first.pictures[0].tobytes() != second.pictures[0].tobytes()


def test_a_text_encoder_that_learns_is_not_offloaded(base, images, monkeypatch):
    moved = []
    for part in ("text_encoder", "vae"):
        monkeypatch.setattr(getattr(base, part), "to", lambda place, p=part: moved.append(p))
    config = dataclasses.replace(CONFIG, efficiency=EfficiencyConfig(offload=True))
    trained(base, images, SPECS["again"], config)
    assert set(moved) == {"vae"}
    trained(base, images, SPECS["other"], config)
    assert set(moved) == {"vae", "text_encoder"}


def test_bfloat16(base, images, tiny_base_folder):
    half = load_base(tiny_base_folder, dtype="bfloat16")
    weights, outcome = trained(half, images, AdapterSpec("mid+base", "lora", 2))
    full, _ = trained(base, images, AdapterSpec("mid+base", "lora", 2))
    assert all(torch.isfinite(torch.tensor(outcome.losses))) and outcome.skipped == 0
    assert all(w.dtype == torch.float32 for w in weights)
    assert any(w.any() for w in weights[len(weights) // 2 :][1::2]), "BASE learned"
    assert len(full) == len(weights)
