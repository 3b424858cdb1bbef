import dataclasses

import pytest
import torch
from PIL import Image

from blockwise_lora.adapters import AdapterSpec, attached_names, detach, trainable_parameters
from blockwise_lora.blocks import MaskError
from blockwise_lora.diffusion import loop
from blockwise_lora.diffusion.batches import Batch
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import EfficiencyConfig, NoiseConfig, TrainingConfig
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.trainer import Job, train, train_many
from blockwise_lora.imagesets import ImageSet, read_imagefolder
from blockwise_lora.parameters import typed
from tiny_base import write_tiny_pictures

SPEC = AdapterSpec(blocks="out2-out3", method="locon", rank=2)
CONFIG = TrainingConfig(steps=6, batch_size=2, learning_rate=1e-3, checkpoint_every=2)


class KilledError(Exception):
    """Stands for a kill: raised between two steps."""


def weights(base, images, spec=SPEC, config=CONFIG, **options):
    """Train, and return the adapter's weights and losses; the U-Net is as before."""
    trained = train(base, images, spec, config, **options)
    name = trained.attached.name
    result = [p.detach().clone() for p in trainable_parameters(base.unet, name)]
    detach(base.unet, name)
    return result, trained


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_training_lowers_the_loss(base, images):
    config = dataclasses.replace(CONFIG, steps=30, batch_size=4, learning_rate=2e-2)
    _, trained = weights(base, images, AdapterSpec(method="locon", rank=4), config)
    losses = torch.tensor(trained.losses)
    assert len(losses) == 30
    assert losses[-8:].mean() < 0.8 * losses[:8].mean()


def test_the_base_and_the_blocks_left_out_stay_as_they_are(base, images):
    before = {k: v.clone() for k, v in base.unet.state_dict().items()}
    trained = train(base, images, SPEC, CONFIG)
    assert all(name.startswith(("up_blocks.2", "up_blocks.3")) for name in trained.attached.ranks)
    assert any(p.abs().sum() > 0 for p in trainable_parameters(base.unet, "adapter")[1::2]), "B"
    detach(base.unet, "adapter")
    after = base.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_one_seed_one_adapter_whatever_ran_before(base, images):
    first, one = weights(base, images)
    torch.manual_seed(99)
    torch.randn(7)
    second, two = weights(base, images)
    assert same(first, second) and one.losses == two.losses
    other, _ = weights(base, images, config=dataclasses.replace(CONFIG, seed=1))
    assert not same(first, other)


def test_what_is_encoded_and_what_is_read_from_the_cache_give_the_same_bits(base, images, tmp_path):
    fresh, one = weights(base, images, cache_dir=tmp_path)
    read, two = weights(base, images, cache_dir=tmp_path)
    assert same(fresh, read) and one.losses == two.losses
    texts = sorted((tmp_path / "texts").iterdir())
    for file in texts[::2]:  # as if another data set had left the other captions there
        file.unlink()
    partly, three = weights(base, images, cache_dir=tmp_path)
    assert same(fresh, partly) and one.losses == three.losses
    assert sorted((tmp_path / "texts").iterdir()) == texts


def test_a_killed_run_goes_on_to_the_same_bits(base, images, tmp_path):
    whole, uninterrupted = weights(base, images)

    def kill(step):
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(base, images, SPEC, CONFIG, checkpoint_dir=tmp_path, on_step=kill)
    assert attached_names(base.unet) == ()
    assert len(list(tmp_path.iterdir())) == 1, "older states are pruned"
    steps = []
    resumed, trained = weights(base, images, checkpoint_dir=tmp_path, on_step=steps.append)
    assert trained.resumed_from == 4 and steps == [5, 6]
    assert same(whole, resumed)
    assert trained.losses == uninterrupted.losses
    assert list(tmp_path.iterdir()) == [], "removed on success"


def test_another_configuration_does_not_take_the_saved_state(base, images, tmp_path):
    def kill(step):
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(base, images, SPEC, CONFIG, checkpoint_dir=tmp_path, on_step=kill)
    other = dataclasses.replace(CONFIG, learning_rate=2e-3)
    _, trained = weights(base, images, config=other, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 0
    _, trained = weights(base, images, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 2


def test_a_damaged_state_is_not_used(base, images, tmp_path, caplog):
    def kill(step):
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(base, images, SPEC, CONFIG, checkpoint_dir=tmp_path, on_step=kill)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    _, trained = weights(base, images, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 0
    assert str(file) in caplog.text


@pytest.fixture(scope="module")
def plain_weights(loaded_tiny_base, images):
    """What four steps without any switch come to."""
    return weights(loaded_tiny_base, images, config=dataclasses.replace(CONFIG, steps=4))[0]


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"min_snr_gamma": 0.1}},
        {"noise": {"offset": 0.1}},
        {"captions": {"dropout": 0.5}},
        {"noise": {"timesteps": "uniform"}},
        {"schedule": {"decay": "constant"}},
        {"schedule": {"decay": "linear"}},
        {"schedule": {"warmup_steps": 3}},
        {"schedule": {"cycles": 2}},
        {"optimizer": {"weight_decay": 0.5}},
        {"optimizer": {"betas": [0.5, 0.9]}},
        {"optimizer": {"max_grad_norm": 1e-4}},
        {"optimizer": {"ema": 0.9}},
        {"optimizer": {"name": "adafactor"}},
        {"optimizer": {"name": "prodigy"}},
        {"batch_size": 3},
        {"accumulation": 2},
        {"noise": {"pyramid": 0.4}},
        {"noise": {"timesteps": "logit_normal"}},
        {"noise": {"timesteps": "cubic"}},
        {"noise": {"lowest": 0.5}},
        {"noise": {"highest": 0.5}},
        {"loss": {"kind": "huber"}},
        {"augment": {"flip": True, "variants": 1, "crop": 0.5}},
        {"augment": {"variants": 1, "colour": 0.5}},
        {"captions": {"shuffle": True, "keep": 0}},
        {"captions": {"tag_dropout": 0.9}},
    ],
    ids=str,
)
def test_every_switch_does_something(base, images, plain_weights, change):
    common = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3}
    changed, _ = weights(base, images, config=typed(TrainingConfig, common | change))
    assert not same(plain_weights, changed)


def test_accumulated_batches_are_one_step(base, images):
    config = TrainingConfig(steps=2, batch_size=2, accumulation=3)
    trained = train(base, images, SPEC, config)
    detach(base.unet, "adapter")
    cached = CachedSet.of(base, images)
    batches = [Batch.of(base, cached, config, turn) for turn in range(3)]
    losses = [batch.loss(loop.predict(base, [batch])).item() for batch in batches]
    assert trained.losses[0] == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_accumulated_gradients_are_averaged(base, images, monkeypatch):
    """Adam itself would not notice a sum in the place of the mean; clipping and decay do."""
    seen, update = {}, loop.Learner.update

    def watched(self, loss):
        seen[self.config.accumulation] = torch.cat([p.grad.flatten() for p in self.parameters])
        update(self, loss)

    monkeypatch.setattr(loop.Learner, "update", watched)
    uniform = NoiseConfig("uniform", lowest=0.5, highest=0.501)  # one noise level for all
    config = TrainingConfig(steps=1, batch_size=4, noise=uniform)
    weights(base, images, config=config)
    weights(base, images, config=dataclasses.replace(config, accumulation=8))
    assert 0.2 < seen[8].norm() / seen[1].norm() < 1.5


def test_pictures_of_several_shapes_train_in_buckets(base, tmp_path):
    folder = write_tiny_pictures(tmp_path / "set", 4)
    for i in (1, 2):
        Image.new("RGB", (32, 16), "red").save(folder / f"{i}.png")
    images = read_imagefolder(folder)
    jobs = [Job(name, images, SPEC, CONFIG) for name in "ab"]
    one, other = train_many(base, jobs)
    assert len(one.losses) == 6 and one.losses == pytest.approx(other.losses, rel=1e-4)
    alone = train(base, images, SPEC, CONFIG, name="alone")
    assert alone.losses == pytest.approx(one.losses, rel=1e-3)


def test_gradient_checkpointing_changes_memory_only(base, images, monkeypatch):
    seen = []
    predict = loop.predict

    def watched(model, *arguments):
        seen.append(model.unet.is_gradient_checkpointing)
        return predict(model, *arguments)

    monkeypatch.setattr(loop, "predict", watched)
    plain, _ = weights(base, images)
    config = dataclasses.replace(CONFIG, efficiency=EfficiencyConfig(gradient_checkpointing=True))
    saved, _ = weights(base, images, config=config)
    assert seen == [False] * 6 + [True] * 6
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not base.unet.is_gradient_checkpointing


def test_mistakes_cost_no_training(base, images, tmp_path):
    with pytest.raises(MaskError):
        train(base, images, AdapterSpec(blocks="out9"), CONFIG)
    with pytest.raises(TrainingError, match="no pictures"):
        train(base, ImageSet(tmp_path, ()), SPEC, CONFIG)
    assert attached_names(base.unet) == ()


def test_bfloat16_trains_float32_adapters(tiny_base_folder, images):
    from blockwise_lora.diffusion.base import load_base

    half = load_base(tiny_base_folder, dtype="bfloat16")
    trained = train(half, images, SPEC, CONFIG)
    assert half.unet.conv_in.weight.dtype == torch.bfloat16
    adapter = trainable_parameters(half.unet, "adapter")
    assert {p.dtype for p in adapter} == {torch.float32}
    assert any(p.abs().sum() > 0 for p in adapter[1::2])
    assert all(torch.isfinite(torch.tensor(trained.losses)))
