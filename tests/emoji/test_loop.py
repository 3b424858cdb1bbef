import pytest
import torch
from torch import nn

from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.errors import UserError


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


def fit(folder, stop_at=None, steps=8, **config):
    net = model()
    config = LoopConfig(steps=steps, batch_size=5, learning_rate=0.05, warmup=2, **config)
    trainer = Trainer("toy", {"net": net}, config, folder)

    def loss(step, generator):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(5, 4, generator=generator)
        return (net(x) - x.sum(1, keepdim=True)).square().mean()

    trainer.run(loss)
    return trainer


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.5), (1, 1.0), (2, 1.0), (8, 1.0), (9, 0.5)], ids=str
)
def test_rate_warms_up_and_falls(step, rate):
    config = LoopConfig(steps=10, batch_size=1, learning_rate=1.0, warmup=2, decay=0.2)
    assert config.rate(step) == pytest.approx(rate)


def test_a_run_that_was_cut_off_ends_bit_identical(tmp_path):
    whole = fit(tmp_path / "whole", ema=0.9)
    with pytest.raises(KeyboardInterrupt):  # saves after every step: save_seconds is 0
        fit(tmp_path / "cut", stop_at=5, ema=0.9, save_seconds=0.0)
    resumed = fit(tmp_path / "cut", ema=0.9)
    assert resumed.step == whole.step == 8
    for key, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[key])
        assert torch.equal(whole.average[key], resumed.average[key])


def test_a_finished_run_is_only_read(tmp_path):
    first = fit(tmp_path)
    again = fit(tmp_path, stop_at=0)  # would raise if it trained one more step
    for key, value in first.parameters.items():
        assert torch.equal(value, again.parameters[key])


def test_export_puts_the_average_into_the_module(tmp_path):
    trainer = fit(tmp_path, ema=0.9)
    raw = {k: p.detach().clone() for k, p in trainer.parameters.items()}
    trainer.export()
    key = "net.0.weight"
    assert torch.equal(trainer.parameters[key], trainer.average[key])
    assert not torch.equal(trainer.parameters[key], raw[key])


def test_without_ema_the_average_is_the_weights(tmp_path):
    trainer = fit(tmp_path)
    for key, value in trainer.parameters.items():
        assert torch.allclose(trainer.average[key], value)


def test_nan_stops_the_run_and_names_the_state(tmp_path):
    net = model()
    trainer = Trainer("toy", {"net": net}, LoopConfig(2, 1, 0.1), tmp_path)
    with pytest.raises(UserError, match=r"not a number at step 0.*learning_rate"):
        trainer.run(lambda step, generator: net(torch.full((1, 4), float("nan"))).sum())
