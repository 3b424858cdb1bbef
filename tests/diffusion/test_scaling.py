import pytest
import torch
from torch import nn

from blockwise_lora.adapters import AdapterSpec, detach, trainable_parameters
from blockwise_lora.diffusion import learner as learner_module
from blockwise_lora.diffusion import scaling, trainer
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from blockwise_lora.diffusion.learner import Learner, TrainingError
from blockwise_lora.diffusion.optimizers import Group
from blockwise_lora.diffusion.scaling import LossScale
from blockwise_lora.diffusion.trainer import train

SPEC = AdapterSpec("out2-out3", "locon", 2)
CONFIG = TrainingConfig(steps=6, batch_size=2, learning_rate=1e-3, checkpoint_every=2)


@pytest.fixture(scope="module")
def half(tiny_base_folder):
    return load_base(tiny_base_folder, dtype="float16")


def one_weight(half=True):
    config = TrainingConfig(
        steps=8,
        learning_rate=0.1,
        schedule=ScheduleConfig("constant"),
        optimizer=OptimizerConfig(max_grad_norm=None),
    )
    return Learner("a", [Group((nn.Parameter(torch.tensor([1.0])),))], config, half)


def step(learner, slope):
    """One step along a gradient of `slope`, computed in float16."""
    (weight,) = learner.parameters
    root = torch.tensor(4 * slope).sqrt().half()
    loss = (weight.half() * root * root).float().sum() / 4
    learner.scaled(loss).backward()
    learner.update(loss)
    return weight.item()


def test_the_scale_is_that_of_torchs_scaler(monkeypatch):
    monkeypatch.setattr(scaling, "_GROW_EVERY", 3)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**scaling.HALVINGS, growth_interval=3)
    ours, weight = LossScale(torch.device("cpu")), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for gradient in (1, torch.inf, 1, 1, 1, torch.nan, torch.inf, 1, 1, 1, 1):
        theirs.scale(weight.sum())  # it wants to be asked once
        weight.grad = torch.tensor([float(gradient)])
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(float(gradient)).isfinite())
        assert ours.value.item() == theirs.get_scale()


def test_a_gradient_that_float16_cannot_hold_is_learned_from():
    assert step(one_weight(half=False), 1e-8) == pytest.approx(1, abs=2e-3), "decay alone"
    # Adam's epsilon is as large as this gradient: half of the rate, 0.1.
    assert step(one_weight(), 1e-8) == pytest.approx(0.95, abs=2e-3)


def test_an_overflow_costs_a_step_and_half_of_the_scale():
    learner = one_weight()
    assert step(learner, 8.0) == 1.0, "8 times 65536 is beyond float16"
    assert learner.state()["scale/value"] == 2.0**15 and learner.skipped() == 1
    for _ in range(7):
        last = step(learner, 8.0)
    assert last < 0.8 and 1 < learner.skipped() < 8
    assert learner.state()["scale/value"] * 8 < torch.finfo(torch.float16).max


def test_a_scale_has_time_to_come_down():
    config = TrainingConfig(steps=80)
    for scaled, fails_after in ((False, 10), (True, 26)):
        learner = Learner("a", [Group((nn.Parameter(torch.ones(1)),))], config, scaled)
        for number in range(fails_after):
            learner.check()
            assert learner.failure is None, number
            step(learner, torch.nan)
        learner.check()
        assert isinstance(learner.failure, TrainingError)


def test_float16_trains_float32_adapters(half, base, images):
    trained = train(half, images, SPEC, CONFIG)
    adapter = trainable_parameters(half.unet, "adapter")
    assert half.unet.conv_in.weight.dtype == torch.float16
    assert {p.dtype for p in adapter} == {torch.float32}
    assert any(p.abs().sum() > 0 for p in adapter[1::2])
    detach(half.unet, "adapter")
    whole = train(base, images, SPEC, CONFIG)
    assert trained.losses == pytest.approx(whole.losses, rel=5e-3)


def test_a_killed_training_goes_on_with_its_scale(half, images, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def kill(step):
        if step == 5:
            raise KilledError

    def weights(**options):
        trained = train(half, images, SPEC, CONFIG, **options)
        values = [p.detach().clone() for p in trainable_parameters(half.unet, "adapter")]
        detach(half.unet, "adapter")
        return trained, values

    for module in (scaling, learner_module):
        monkeypatch.setattr(module, "HALVINGS", 22)
    whole, expected = weights()
    assert 0 < whole.skipped < 5
    with pytest.raises(KilledError):
        train(half, images, SPEC, CONFIG, checkpoint_dir=tmp_path, on_step=kill)
    resumed, values = weights(checkpoint_dir=tmp_path)
    assert resumed.resumed_from == 4 and resumed.skipped == whole.skipped
    assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


def test_a_device_without_float16_is_told_with_the_remedy(half, images, monkeypatch):
    def lacking(*args):
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")

    monkeypatch.setattr(trainer, "members_of", lacking)
    with pytest.raises(TrainingError, match=r"base_model\.dtype.*slow_conv2d.*Take bfloat16"):
        train(half, images, SPEC, CONFIG)
