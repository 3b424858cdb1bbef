"""Passes on a real Ray with two workers; one is killed half way."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from kedro.config import OmegaConfigLoader

from blockwise_lora.diffusion.base import load_from_parameters
from blockwise_lora.errors import UserError
from blockwise_lora.pipelines.sweep.config import SweepConfig
from blockwise_lora.pipelines.sweep.setting import trainer_of
from blockwise_lora.settings import CONFIG_LOADER_ARGS
from blockwise_lora.sweep.bank import Bank, Lesson
from blockwise_lora.sweep.ray_config import RayConfig
from blockwise_lora.sweep.ray_trainer import TrainOnRay
from blockwise_lora.sweep.training import train_missing

MASKS = ("mid", "out3", "in0", "out2")
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Yields where the workers have their scratch folders."""
    os.environ |= {"RAY_worker_niceness": "0"}  # else other tests take all the time there is
    scratch = tmp_path_factory.mktemp("scratch")
    variables = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    yield scratch
    ray.shutdown()


@pytest.fixture
def group(tiny_base_folder) -> dict:
    return {"source": str(tiny_base_folder), "dtype": "float32"}


@pytest.fixture
def model(group):
    return load_from_parameters(group, "cpu")


def kill_one_half_way(scratch: Path, killed: list[int]) -> None:
    """Kill the first worker that has saved a state in the middle of its training."""
    ends = time.monotonic() + 120
    while not killed and time.monotonic() < ends:
        for state in scratch.glob("blockwise-lora-*/checkpoints/**/*.safetensors"):
            worker = int(state.relative_to(scratch).parts[0].split("-")[2])
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
            return
        time.sleep(0.005)


def test_a_lost_worker_costs_nothing_but_time(two_workers, group, model, lesson: Lesson, tmp_path):
    # Its first state is saved long before its last step.
    config = dataclasses.replace(lesson.config, steps=60, checkpoint_every=4)
    slow = dataclasses.replace(lesson, config=config)
    bank, alone = Bank(tmp_path / "bank"), Bank(tmp_path / "alone")
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_half_way, args=(two_workers, killed))
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


def test_a_users_mistake_is_told_in_its_own_words(two_workers, group, model, lesson, tmp_path):
    lost = TrainOnRay(RayConfig(), group | {"source": str(tmp_path / "nowhere")}, "cpu")
    with pytest.raises(UserError, match="nowhere") as told:
        train_missing(model, lesson, ("mid",), Bank(tmp_path), at_once=1, trainer=lost)
    assert not isinstance(told.value, ray.exceptions.RayError), "the user knows nothing of Ray"


def test_a_mask_that_fails_is_named_and_the_others_come_through(
    two_workers, group, model, lesson, tmp_path
):
    config = dataclasses.replace(lesson.config, learning_rate=1e30, steps=6)
    wild = dataclasses.replace(lesson, config=config)
    trainer = TrainOnRay(RayConfig(), group, "cpu")
    bank = Bank(tmp_path)
    (failed,) = train_missing(model, wild, ("mid",), bank, at_once=1, trainer=trainer)
    assert failed.name == "mid" and "learning_rate" in str(failed.error)
    assert not bank.entry(model, wild, "mid").trained
    assert not train_missing(model, lesson, ("mid",), bank, at_once=1, trainer=trainer)
    assert bank.entry(model, lesson, "mid").trained


def test_the_environment_ray_reaches_the_trainer():
    """`kedro run --env ray`: conf/ray laid over conf/base, down to who trains."""
    loader = OmegaConfigLoader(str(ROOT / "conf"), env="ray", **CONFIG_LOADER_ARGS)
    parameters = loader["parameters"]
    config = SweepConfig.of(parameters["sweep"])
    trainer = trainer_of(config, parameters)
    assert isinstance(trainer, TrainOnRay) and trainer.config == RayConfig()
    assert trainer.base_model["source"] == parameters["base_model"]["source"]
    assert config.study == "paper" and config.at_once == 4


def test_mistakes_in_the_configuration():
    with pytest.raises(ValueError, match="retries is not below 0"):
        RayConfig(num_gpus=-1, retries=-1)
