import threading
import time

import pytest
import torch

from blockwise_lora.adapters import attached_names, read_adapter
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import train
from blockwise_lora.sweep.bank import Bank
from blockwise_lora.sweep.training import TrainHere, train_missing

MASKS = ("all", "out3", "mid", "in0")


@pytest.fixture
def trained(base, lesson, bank):
    """The masks that were trained, in the order in which they came in."""
    came = []
    failed = train_missing(
        base, lesson, MASKS, bank, at_once=3, on_trained=lambda e: came.append(e.mask)
    )
    assert not failed
    return came


def test_every_mask_is_trained_once_and_the_model_left_as_it_was(trained, base, lesson, bank):
    assert sorted(trained) == sorted(MASKS)
    assert attached_names(base.unet) == ()
    for mask in MASKS:
        assert bank.entry(base, lesson, mask).read().spec.blocks == mask


def test_adding_one_mask_trains_one_mask(trained, base, lesson, bank):
    came = []
    masks = [*MASKS, "out2"]
    train_missing(base, lesson, masks, bank, at_once=8, on_trained=lambda e: came.append(e.mask))
    assert came == ["out2"]


def test_a_mask_of_a_group_is_what_it_is_alone(trained, base, lesson, bank, tmp_path):
    spec = lesson.masked("out3")
    alone = train(base, lesson.images, spec, lesson.config, name="alone")
    TrainedAdapter(base, alone, lesson.config, lesson.words).write(tmp_path / "alone")
    one, other = read_adapter(tmp_path / "alone"), bank.entry(base, lesson, "out3").read()
    for name, tensor in one.state.items():
        assert torch.allclose(tensor, other.state[name], rtol=1e-3, atol=1e-5), name


def test_a_run_that_was_cut_off_keeps_what_was_trained(base, lesson, bank):
    def cut(entry):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_missing(base, lesson, MASKS, bank, at_once=1, on_trained=cut)
    assert sum(bank.entry(base, lesson, mask).trained for mask in MASKS) == 1


def test_what_another_process_trains_is_waited_for(base, tiny_base_folder, lesson, bank):
    """Two sweeps of the same masks at the same time: each mask is trained by one of them."""
    first, second = [], []
    started = threading.Event()
    its_base = load_base(tiny_base_folder)

    def slow(base_, lesson_, passes):
        started.set()
        time.sleep(0.5)
        yield from TrainHere()(base_, lesson_, passes)

    def other():
        started.wait()
        nobody = Bank(bank.folder)
        train_missing(
            its_base, lesson, ("mid", "out3"), nobody, at_once=2, on_trained=second.append
        )

    thread = threading.Thread(target=other)
    thread.start()
    train_missing(base, lesson, ("mid",), bank, at_once=2, trainer=slow, on_trained=first.append)
    thread.join()
    assert [e.mask for e in first] == ["mid"]
    assert [e.mask for e in second] == ["out3"]
