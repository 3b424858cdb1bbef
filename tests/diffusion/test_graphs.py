"""CUDA graphs without a card: a recording is played by computing anew from what it has kept.

On a card `benchmarks/card.py` compares the bits.
"""

import dataclasses

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from blockwise_lora.adapters import AdapterSpec, trainable_parameters
from blockwise_lora.diffusion import graphs, loop
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.config import (
    EfficiencyConfig,
    LossConfig,
    OptimizerConfig,
    PriorConfig,
    TrainingConfig,
)
from blockwise_lora.diffusion.graphs import RecordingError
from blockwise_lora.diffusion.trainer import Job, TrainingError, train, train_many
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures

PLAIN = TrainingConfig(steps=4, batch_size=2, learning_rate=1e-2)
SPECS = (AdapterSpec("all", "locon", 2), AdapterSpec("out3", "lora", 2), AdapterSpec("mid"))


class Recorder:
    """Records like a card: inputs and results have their places, whatever is passed later."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, compute, pool):
        compute()  # warms up
        self.recorded += 1
        results = [loss.detach().clone() for loss in compute()]

        def replay():
            self.replayed += 1
            for place, loss in zip(results, compute(), strict=True):
                place.copy_(loss.detach())

        return results, replay


@pytest.fixture
def recorder(monkeypatch):
    stand_in = Recorder()
    monkeypatch.setattr(graphs, "record", stand_in)
    monkeypatch.setattr(graphs, "pool", lambda: None)
    monkeypatch.setattr(loop, "recordable", lambda device: True)
    return stand_in


def recorded(config):
    return dataclasses.replace(config, efficiency=EfficiencyConfig(cuda_graphs=True))


def outcome(base, images, configs, specs=SPECS):
    """Losses and weights of a pass; the model is as before."""
    jobs = [Job(f"a{i}", images, *pair) for i, pair in enumerate(zip(specs, configs, strict=True))]
    losses = [trained.losses for trained in train_many(base, jobs)]
    weights = [
        [p.detach().clone() for p in trainable_parameters(base.unet, job.name)] for job in jobs
    ]
    for job in jobs:
        unload(base, job.name)
    return losses, weights


def assert_equal(first, second):
    assert first[0] == second[0]
    for ours, theirs in zip(first[1], second[1], strict=True):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        dataclasses.replace(PLAIN, accumulation=2),
        dataclasses.replace(PLAIN, optimizer=OptimizerConfig(ema=0.9, max_grad_norm=0.01)),
        dataclasses.replace(PLAIN, loss=LossConfig(kind="huber", min_snr_gamma=5.0)),
    ],
    ids=["plain", "accumulation", "ema", "huber"],
)
def test_what_is_recorded_learns_the_same(base, images, recorder, config):
    plain = outcome(base, images, [config] * 3)
    assert recorder.recorded == 0
    fast = outcome(base, images, [recorded(config)] * 3)
    assert_equal(plain, fast)
    assert plain[0][0][0] != plain[0][0][-1]
    assert recorder.recorded == 1 and recorder.replayed == 4 * config.accumulation


def test_each_line_up_and_each_shape_is_recorded_once(base, tmp_path, recorder):
    """Two sizes of pictures; the second adapter ends early."""
    folder = write_tiny_pictures(tmp_path / "set")
    for i in (1, 3):
        Image.new("RGB", (32, 16), (9, 200, 40 * i)).save(folder / f"{i}.png")
    images = read_imagefolder(folder)
    long = dataclasses.replace(PLAIN, steps=12)
    short = dataclasses.replace(long, steps=6)
    plain = outcome(base, images, [long, short], SPECS[:2])
    assert_equal(plain, outcome(base, images, [recorded(long), recorded(short)], SPECS[:2]))
    assert recorder.recorded < recorder.replayed
    kinds = recorder.recorded
    assert_equal(plain, outcome(base, images, [recorded(long), recorded(short)], SPECS[:2]))
    assert recorder.recorded == 2 * kinds, "the memory of a training must go with it"


def test_a_batch_that_grows_is_recorded_anew(base, images, recorder):
    """The base model's own answers join the batch from half way on."""
    taught = dataclasses.replace(PLAIN, trigger="zkc", prior=PriorConfig(kind="distil", start=0.5))
    plain = outcome(base, images, [taught], SPECS[:1])
    assert_equal(plain, outcome(base, images, [recorded(taught)], SPECS[:1]))
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_trainings_that_change_the_text_run_as_they_are(base, images, recorder):
    spec = AdapterSpec("all+base", rank=2)
    plain = train(base, images, spec, PLAIN, name="plain").losses
    assert train(base, images, spec, recorded(PLAIN), name="fast").losses == plain
    assert recorder.recorded == 0


def test_a_device_without_graphs_runs_as_it_is(base, images, monkeypatch):
    monkeypatch.setattr(graphs, "record", None)
    assert len(train(base, images, SPECS[0], recorded(PLAIN)).losses) == 4


class Unrecordable(TorchDispatchMode):
    """Notes what a card would have to be sent, or that the host would wait for."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        # A single number stays with the host, which knows it already.
        if (name == "lift_fresh" and args[0].dim()) or name in {
            "_local_scalar_dense",
            "_linalg_check_errors",
            "nonzero",
            "rand",
        }:
            self.seen.add(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def watched(recorder, monkeypatch):
    """What was seen in each pass that was recorded."""
    found = []

    def record(compute, pool):
        compute()
        with Unrecordable() as watch:
            compute()
        found.append(watch.seen)
        return recorder(compute, pool)

    monkeypatch.setattr(graphs, "record", record)
    return found


def test_a_pass_of_several_can_be_recorded(base, images, watched):
    """Places and strengths of the slices are on the device by then."""
    outcome(base, images, [recorded(PLAIN)] * 3)
    assert watched == [set()]


@pytest.mark.parametrize("method", ["lora", "locon", "dora", "loha", "lokr", "full"])
def test_every_method_can_be_recorded(base, images, watched, method):
    train(base, images, AdapterSpec("mid+out3", method, 4), recorded(PLAIN))
    assert watched == [set()]


def test_oft_cannot_be_recorded_and_is_not(base, images, watched, monkeypatch):
    spec = AdapterSpec("mid", "oft", 4)
    train(base, images, spec, recorded(PLAIN), name="a")
    assert watched == []
    with Unrecordable() as watch:
        train(base, images, spec, dataclasses.replace(PLAIN, steps=1), name="b")
    assert "_linalg_check_errors" in watch.seen


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        ("operation not permitted when stream is capturing", RecordingError, "cuda_graphs.*false"),
        ("not enough memory: you tried to allocate", TrainingError, "gradient_checkpointing"),
    ],
)
def test_what_cannot_be_recorded_is_told(base, images, recorder, monkeypatch, message, error, told):
    def record(compute, pool):
        try:
            raise RuntimeError(message)
        finally:  # as the end of a recording that went wrong does
            raise RuntimeError("capture is invalid") from None

    monkeypatch.setattr(graphs, "record", record)
    with pytest.raises(error, match=told):
        train(base, images, SPECS[0], recorded(PLAIN))
