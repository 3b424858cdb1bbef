"""What ends a training: it is told with its remedy, and the last good state stays."""

import dataclasses
import re

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, attached_names, detach, trainable_parameters
from blockwise_lora.atomic import WriteError
from blockwise_lora.diffusion import loop
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.trainer import train

SPEC = AdapterSpec(blocks="out2-out3", method="locon", rank=2)
CONFIG = TrainingConfig(steps=6, batch_size=2, learning_rate=1e-3, checkpoint_every=2)


class KilledError(Exception):
    """Stands for a kill: raised between two steps."""


def weights(base, images, config=CONFIG, **options):
    """Train, and return the adapter's weights and the outcome; the U-Net is as before."""
    trained = train(base, images, SPEC, config, **options)
    result = [p.detach().clone() for p in trainable_parameters(base.unet, "adapter")]
    detach(base.unet, "adapter")
    return result, trained


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_loss_that_is_not_finite_ends_the_run(base, images, tmp_path):
    """Another rate is another training, which begins anew and is not touched by what was left."""
    config = dataclasses.replace(CONFIG, learning_rate=1e30, log_every=1, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step [12] of 6.*learning_rate"):
        train(base, images, SPEC, config, checkpoint_dir=tmp_path)
    assert attached_names(base.unet) == ()
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}-1\.safetensors", left.name), "the last finite loss"
    steps = []
    lower, trained = weights(base, images, checkpoint_dir=tmp_path, on_step=steps.append)
    assert trained.resumed_from == 0 and steps == [1, 2, 3, 4, 5, 6]
    assert same(lower, weights(base, images)[0])
    assert list(tmp_path.iterdir()) == [left]
    with pytest.raises(TrainingError, match=r"step [12] of 6.*learning_rate"):
        train(base, images, SPEC, config, checkpoint_dir=tmp_path)


def spoilt(monkeypatch, name, step):
    """From a step on the losses of one adapter are no number, as after a fault of the device."""
    update = loop.Learner.update

    def spoiling(self, loss):
        late = self.name == name and self.step + 1 >= step
        update(self, loss * torch.nan if late else loss)

    monkeypatch.setattr(loop.Learner, "update", spoiling)


def test_the_last_good_state_outlives_a_loss_that_is_not_finite(
    base, images, tmp_path, monkeypatch
):
    config = dataclasses.replace(CONFIG, steps=12, log_every=1)
    expected, _ = weights(base, images, config=config)
    with monkeypatch.context() as patch:
        spoilt(patch, "adapter", step=6)
        with pytest.raises(TrainingError, match="from step 5 of 12 on"):
            train(base, images, SPEC, config, checkpoint_dir=tmp_path)
    assert [path.name[64:] for path in tmp_path.iterdir()] == ["-4.safetensors"]
    again, trained = weights(base, images, config=config, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 4 and same(again, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_saved_late_where_one_step_came_to_nothing(base, images, tmp_path, monkeypatch):
    def kill(step):
        if step == 6:
            raise KilledError

    config = dataclasses.replace(CONFIG, steps=12, checkpoint_every=4, log_every=1)
    update = loop.Learner.update
    once = {4: torch.nan}
    monkeypatch.setattr(
        loop.Learner, "update", lambda self, x: update(self, x * once.get(self.step + 1, 1))
    )
    whole, _ = weights(base, images, config=config)
    with pytest.raises(KilledError):
        train(base, images, SPEC, config, checkpoint_dir=tmp_path, on_step=kill)
    resumed, trained = weights(base, images, config=config, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 5 and trained.skipped == 1 and same(resumed, whole)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, "batch_size, or set"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), TrainingError, "batch size 2"),
        (WriteError("states: the disk is full"), WriteError, "disk is full"),
    ],
)
def test_what_ends_a_training_leaves_the_last_state(
    base, images, tmp_path, monkeypatch, error, kind, message
):
    step, save = loop.Loop.step, loop.Checkpoints.save

    def short(self, active):
        if active[0].learner.step == 3 and kind is TrainingError:
            raise error
        step(self, active)

    def full(self, states):
        if kind is WriteError and next(iter(states.values())).step == 4:
            raise error
        save(self, states)

    expected, _ = weights(base, images)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "step", short)
        patch.setattr(loop.Checkpoints, "save", full)
        with pytest.raises(kind, match=message):
            train(base, images, SPEC, CONFIG, checkpoint_dir=tmp_path)
    assert attached_names(base.unet) == ()
    resumed, trained = weights(base, images, checkpoint_dir=tmp_path)
    assert trained.resumed_from == 2 and same(resumed, expected)
