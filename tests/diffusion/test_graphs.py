"""CUDA graphs without a card: a replay computes anew from what the capture has kept.

On a card `benchmarks/card.py` compares the bits.
"""

import dataclasses
import gc

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from blockwise_lora.adapters import AdapterSpec, trainable_parameters
from blockwise_lora.diffusion import graphs, loop
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.config import (
    EfficiencyConfig,
    LossConfig,
    OptimizerConfig,
    PriorConfig,
    TrainingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.graphs import GraphError
from blockwise_lora.diffusion.trainer import Job, TrainingError, train, train_many
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures, write_tiny_sdxl

PLAIN = TrainingConfig(steps=4, batch_size=2, learning_rate=1e-2)
SPECS = (AdapterSpec("all", "locon", 2), AdapterSpec("out3", "lora", 2), AdapterSpec("mid"))
LOOKS = ValidationConfig(every=2, prompts=("a",), sampling_steps=1, guidance_scale=1.0)


class Card:
    """Captures like one: inputs and results have their places, whatever is passed later."""

    def __init__(self):
        self.captured = self.replayed = 0

    def capture(self, compute, device, pool):
        self.captured += 1
        results = [loss.clone() for loss in compute()]

        def replay():
            self.replayed += 1
            for place, loss in zip(results, compute(), strict=True):
                place.copy_(loss)

        return results, replay


@pytest.fixture
def card(monkeypatch):
    stand_in = Card()
    monkeypatch.setattr(graphs, "warm_up", lambda compute, device: compute())
    monkeypatch.setattr(graphs, "capture", stand_in.capture)
    monkeypatch.setattr(graphs, "pool", lambda: None)
    monkeypatch.setattr(loop, "has_graphs", lambda device: True)
    return stand_in


def captured(config):
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
        dataclasses.replace(PLAIN, validation=LOOKS),
    ],
    ids=["plain", "accumulation", "ema", "huber", "looks"],
)
def test_what_is_captured_learns_the_same(base, images, card, config):
    plain = outcome(base, images, [config] * 3)
    assert card.captured == 0
    assert_equal(plain, outcome(base, images, [captured(config)] * 3))
    assert plain[0][0][0] != plain[0][0][-1]
    assert card.captured == 1 and card.replayed == 4 * config.accumulation - 1


def test_masked_pictures_are_captured_with_their_masks(base, tmp_path, card):
    folder = write_tiny_pictures(tmp_path / "set", count=3)
    rows = []
    for i in range(3):
        mask = Image.new("L", (16, 16))
        mask.paste(255, (0, 0, 8, 4 * (i + 1)))
        mask.save(folder / f"mask{i}.png")
        row = f'{{"file_name": "{i}.png", "text": "a", "mask_file_name": "mask{i}.png"}}'
        rows.append(row)
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    images = read_imagefolder(folder)
    config = dataclasses.replace(PLAIN, loss=LossConfig(masked=True))
    plain = outcome(base, images, [config], SPECS[:1])
    assert_equal(plain, outcome(base, images, [captured(config)], SPECS[:1]))
    assert plain[0] != outcome(base, images, [PLAIN], SPECS[:1])[0]
    assert card.captured == 1


def test_each_line_up_and_each_shape_is_captured_once(base, tmp_path, card, monkeypatch):
    """Two sizes of pictures; the second adapter ends early."""
    folder = write_tiny_pictures(tmp_path / "set")
    for i in (1, 3):
        Image.new("RGB", (32, 16), (9, 200, 40 * i)).save(folder / f"{i}.png")
    images = read_imagefolder(folder)
    long = dataclasses.replace(PLAIN, steps=14)
    short = dataclasses.replace(long, steps=7)
    plain = outcome(base, images, [long, short], SPECS[:2])
    assert_equal(plain, outcome(base, images, [captured(long), captured(short)], SPECS[:2]))
    kinds = card.captured
    assert 1 < kinds < card.replayed
    assert_equal(plain, outcome(base, images, [captured(long), captured(short)], SPECS[:2]))
    assert card.captured == 2 * kinds, "the memory of a training must go with it"
    monkeypatch.setattr(graphs, "_MOST", 1)
    assert_equal(plain, outcome(base, images, [captured(long), captured(short)], SPECS[:2]))
    assert card.captured == 2 * kinds + 1


def test_a_batch_that_grows_is_captured_anew(base, images, card):
    """The base model's own answers join the batch from half way on."""
    taught = dataclasses.replace(PLAIN, trigger="zkc", prior=PriorConfig(kind="distil", start=0.5))
    plain = outcome(base, images, [taught], SPECS[:1])
    assert_equal(plain, outcome(base, images, [captured(taught)], SPECS[:1]))
    assert (card.captured, card.replayed) == (2, 2)


class KilledError(Exception):
    """Stands for a kill between two steps."""


def test_a_training_goes_on_with_graphs_or_without(base, images, card, tmp_path):
    def kill(step):
        if step == 3:
            raise KilledError

    config = dataclasses.replace(PLAIN, steps=6, checkpoint_every=1)
    whole = train(base, images, SPECS[0], config, name="whole").losses
    with pytest.raises(KilledError):
        train(base, images, SPECS[0], captured(config), checkpoint_dir=tmp_path, on_step=kill)
    resumed = train(base, images, SPECS[0], config, name="resumed", checkpoint_dir=tmp_path)
    assert resumed.resumed_from == 3 and resumed.losses == whole
    assert card.captured == 1


def test_trainings_that_change_the_text_run_as_they_are(base, images, card):
    spec = AdapterSpec("all+base", rank=2)
    plain = train(base, images, spec, PLAIN, name="plain").losses
    assert train(base, images, spec, captured(PLAIN), name="fast").losses == plain
    assert card.captured == 0


def with_history():
    """Ids of all tensors that autograd could go back from."""
    # By type: isinstance would ask what a weak proxy stands for, which may be gone.
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    return {id(x) for x in tensors if x.grad_fn is not None}


def test_no_history_of_another_pass_is_there_at_a_capture(base, images, card, monkeypatch):
    """It would be of another stream: PyTorch forbids it, or captures what is not wanted."""
    alive = []

    def capture(compute, device, pool):
        alive.append(with_history() - before)
        return card.capture(compute, device, pool)

    monkeypatch.setattr(graphs, "capture", capture)
    specs = (AdapterSpec("all+base", rank=2), AdapterSpec("all", rank=2))
    plain = outcome(base, images, [PLAIN] * 2, specs)
    before = with_history()  # what other tests have left
    assert_equal(plain, outcome(base, images, [captured(PLAIN)] * 2, specs))
    assert alive == [set()]


def test_a_device_without_graphs_runs_as_it_is(base, images, monkeypatch):
    monkeypatch.setattr(graphs, "capture", None)
    assert len(train(base, images, SPECS[0], captured(PLAIN)).losses) == 4


class Impossible(TorchDispatchMode):
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
def watched(card, monkeypatch):
    """What was seen in each capture."""
    found = []

    def capture(compute, device, pool):
        with Impossible() as watch:
            compute()
        found.append(watch.seen)
        return card.capture(compute, device, pool)

    monkeypatch.setattr(graphs, "capture", capture)
    return found


def test_a_pass_of_several_can_be_captured(base, images, watched):
    """Places and strengths of the slices are on the device by then."""
    outcome(base, images, [captured(PLAIN)] * 3)
    assert watched == [set()]


@pytest.mark.parametrize("method", ["lora", "locon", "dora", "loha", "lokr", "full"])
def test_every_method_can_be_captured(base, images, watched, method):
    train(base, images, AdapterSpec("mid+out3", method, 4), captured(PLAIN))
    assert watched == [set()]


def test_a_pass_of_sdxl_can_be_captured(images, watched, tmp_path):
    """With the pooled text and the sizes that it is told, and with checkpointing, as conf/sdxl."""
    xl = load_base(write_tiny_sdxl(tmp_path / "sdxl"))
    efficiency = EfficiencyConfig(cuda_graphs=True, gradient_checkpointing=True)
    config = dataclasses.replace(PLAIN, efficiency=efficiency)
    specs = (AdapterSpec("all", "locon", 2), AdapterSpec("out0", "lora", 2), AdapterSpec("mid"))
    plain = outcome(xl, images, [PLAIN] * 3, specs)
    assert_equal(plain, outcome(xl, images, [config] * 3, specs))
    assert watched == [set()]


def test_oft_cannot_be_captured_and_is_not(base, images, watched):
    spec = AdapterSpec("mid", "oft", 4)
    train(base, images, spec, captured(PLAIN), name="a")
    assert watched == []
    with Impossible() as watch:
        train(base, images, spec, dataclasses.replace(PLAIN, steps=1), name="b")
    assert "_linalg_check_errors" in watch.seen


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        ("not permitted when stream is capturing", GraphError, "not permitted .*Set it to false"),
        ("not enough memory: you tried to allocate", TrainingError, "gradient_checkpointing"),
    ],
)
def test_what_cannot_be_captured_is_told(base, images, card, monkeypatch, message, error, told):
    def capture(compute, device, pool):
        try:
            raise RuntimeError(message)
        finally:  # as the end of a capture that went wrong does
            raise RuntimeError("capture is invalid")

    monkeypatch.setattr(graphs, "capture", capture)
    with pytest.raises(error, match=told):
        train(base, images, SPECS[0], captured(PLAIN))


def test_what_fails_before_a_capture_is_told_as_it_is(base, images, card, monkeypatch):
    def warm_up(compute, device):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(graphs, "warm_up", warm_up)
    with pytest.raises(RuntimeError, match="no compiler"):
        train(base, images, SPECS[0], captured(PLAIN))
