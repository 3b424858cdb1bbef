"""Passes on a real Ray with two workers; one is killed half way."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch

from blockwise_lora.diffusion.base import load_from_parameters
from blockwise_lora.sweep.bank import Bank, Lesson, train_missing
from blockwise_lora.sweep.ray_config import RayConfig
from blockwise_lora.sweep.ray_trainer import TrainOnRay, pack, unpack

MASKS = ("mid", "out3", "in0", "out2")
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def two_workers():
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def group(tiny_base_folder) -> dict:
    return {"source": str(tiny_base_folder), "dtype": "float32"}


@pytest.fixture
def model(group):
    return load_from_parameters(group, "cpu")


def workers() -> list[psutil.Process]:
    """Ray's processes that are at work on a pass."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if "ray::train_pass" in " ".join(_words(p))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill_the_first(killed: list[int]) -> None:
    for _ in range(2400):
        if found := workers():
            os.kill(found[0].pid, signal.SIGKILL)
            killed.append(found[0].pid)
            return
        time.sleep(0.05)


def test_a_lost_worker_costs_nothing_but_time(two_workers, group, model, lesson: Lesson, tmp_path):
    slow = dataclasses.replace(lesson, config=dataclasses.replace(lesson.config, steps=150))
    bank, alone = Bank(tmp_path / "bank"), Bank(tmp_path / "alone")
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_first, args=(killed,))
    killer.start()
    came = []
    failed = train_missing(
        model,
        slow,
        MASKS,
        bank,
        at_once=2,
        trainer=TrainOnRay(RayConfig(), group, "cpu"),
        on_trained=lambda entry: came.append(entry.mask),
    )
    killer.join()
    assert killed, "no worker was killed, so nothing was shown"
    assert not failed and sorted(came) == sorted(MASKS)
    train_missing(model, slow, MASKS, alone, at_once=2)
    for mask in MASKS:
        here, there = (b.entry(model, slow, mask).read() for b in (alone, bank))
        assert here.metadata["blockwise_lora.data_sha256"] == slow.images.sha256
        for name, tensor in here.state.items():
            assert torch.allclose(tensor, there.state[name], rtol=1e-4, atol=1e-6), name


def test_folders_travel_and_stay_in_their_place(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x.bin").write_bytes(b"\x00\x01")
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "x.bin").read_bytes() == b"\x00\x01"
    with pytest.raises(ValueError, match="leads out"):
        unpack({"../evil": b""}, tmp_path / "c")


def test_mistakes_in_the_configuration():
    with pytest.raises(ValueError, match="retries is not below 0"):
        RayConfig(num_gpus=-1, retries=-1)
