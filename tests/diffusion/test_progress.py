import re

import pytest

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.progress import progress
from blockwise_lora.diffusion.trainer import Job, train_many


def test_the_bar_of_a_training_has_loss_speed_and_time_left(base, images, capsys):
    config = TrainingConfig(steps=4, batch_size=2, log_every=1)
    names = ["one", "two", "three", "four"]
    jobs = [Job(name, images, AdapterSpec("out3", rank=2), config) for name in names]
    outcomes = train_many(base, jobs)
    said = capsys.readouterr().err.split("\r")
    last = said[-1].strip()
    assert last.startswith("training one, two, three and 1 more: 100%")
    found = re.search(r"4/4 \[\d\d:\d\d<00:00, .*(step/s|s/step), loss=(\d\.\d{4})\]", last)
    mean = sum(outcome.losses[-1] for outcome in outcomes) / 4
    assert found and float(found[2]) == pytest.approx(mean, abs=6e-5)


def test_a_bar_goes_on_where_an_earlier_process_stopped(capsys):
    with progress(["a"], total=10, done=4) as bar:
        bar.update()
    assert "training a:  50%" in capsys.readouterr().err
