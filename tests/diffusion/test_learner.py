import math
import re

import pytest
import torch
from torch import nn

from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.learner import Learner, TrainingError, learning_rate

CONFIG = TrainingConfig(steps=10, learning_rate=1.0, warmup_steps=4)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.2, 0.4, 0.6, 0.8, 1, 0.93301, 0.75, 0.5, 0.25, 0.06699]),
    ],
)
def test_schedules_by_hand(schedule, rates):
    config = TrainingConfig(steps=10, learning_rate=1.0, warmup_steps=4, schedule=schedule)
    assert [learning_rate(config, s) for s in range(10)] == pytest.approx(rates, abs=1e-5)


def quadratic(learner):
    loss = sum((p**2).sum() for p in learner.parameters)
    loss.backward()
    learner.update(loss)


def test_updates_are_adamws():
    ours, reference = (nn.Parameter(torch.tensor([3.0, -4.0])) for _ in range(2))
    config = TrainingConfig(steps=5, learning_rate=0.1, schedule="constant", max_grad_norm=1.0)
    learner = Learner("a", [ours], config)
    optimizer = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.01, fused=False)
    for _ in range(5):
        quadratic(learner)
        optimizer.zero_grad()
        (reference**2).sum().backward()
        reference.grad /= max(1.0, reference.grad.norm().item())
        optimizer.step()
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    assert learner.losses()[0] == 25.0


def test_a_restored_learner_goes_on_exactly():
    weights = [nn.Parameter(torch.tensor([3.0, -4.0]))]
    learner = Learner("a", weights, CONFIG)
    for _ in range(4):
        quadratic(learner)
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    other = Learner("b", [nn.Parameter(torch.zeros(2))], CONFIG)
    other.restore(4, state)
    for _ in range(6):
        quadratic(learner)
        quadratic(other)
    assert torch.equal(learner.parameters[0], other.parameters[0])
    assert learner.losses() == other.losses()


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(spoilt):
    learner = Learner("style", [nn.Parameter(torch.ones(2))], CONFIG)
    for step in range(5):
        if step == 3:
            before = {name: tensor.clone() for name, tensor in learner.state().items()}
        loss = (learner.parameters[0] ** 2).sum()
        loss.backward()
        if step == 3 and spoilt == "gradient":
            learner.parameters[0].grad[0] = torch.inf
        learner.update(loss * torch.nan if step == 3 and spoilt == "loss" else loss)
        if step == 3:
            after = learner.state()
            assert all(torch.equal(after[k], before[k]) for k in before if k != "losses")
    learner.check()
    assert learner.failure is None and learner.skipped() == 1
    assert [math.isnan(loss) for loss in learner.losses()] == [False, False, False, True, False]


def test_a_row_of_steps_that_are_not_finite_is_a_failure_with_its_step():
    config = TrainingConfig(steps=40, learning_rate=1.0)
    learner = Learner("style", [nn.Parameter(torch.ones(2))], config)
    for step in range(14):
        loss = (learner.parameters[0] ** 2).sum()
        loss.backward()
        learner.update(loss * torch.nan if step >= 4 else loss)
        assert learner.failure is None
        learner.check()
    assert isinstance(learner.failure, TrainingError)
    assert re.search(r"style: .*from step 4 of 40.*learning_rate \(now 1\)", str(learner.failure))
