import math
import re

import pytest
import torch
from torch import nn

from blockwise_lora.diffusion.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from blockwise_lora.diffusion.learner import Learner, TrainingError
from blockwise_lora.diffusion.optimizers import Group, OptimizerError

CONFIG = TrainingConfig(steps=10, learning_rate=1.0, schedule=ScheduleConfig(warmup_steps=4))


def learner_of(name, parameters, config=CONFIG):
    return Learner(name, [Group(tuple(parameters))], config)


def quadratic(learner):
    loss = sum((p**2).sum() for p in learner.parameters)
    loss.backward()
    learner.update(loss)


def test_updates_are_adamws():
    ours, reference = (nn.Parameter(torch.tensor([3.0, -4.0])) for _ in range(2))
    config = TrainingConfig(steps=5, learning_rate=0.1, schedule=ScheduleConfig("constant"))
    learner = learner_of("a", [ours], config)
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
    learner = learner_of("a", weights, CONFIG)
    for _ in range(4):
        quadratic(learner)
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    other = learner_of("b", [nn.Parameter(torch.zeros(2))], CONFIG)
    other.restore(4, state)
    for _ in range(6):
        quadratic(learner)
        quadratic(other)
    assert torch.equal(learner.parameters[0], other.parameters[0])
    assert learner.losses() == other.losses()


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(spoilt):
    learner = learner_of("style", [nn.Parameter(torch.ones(2))], CONFIG)
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
    learner = learner_of("style", [nn.Parameter(torch.ones(2))], config)
    for step in range(14):
        loss = (learner.parameters[0] ** 2).sum()
        loss.backward()
        learner.update(loss * torch.nan if step >= 4 else loss)
        assert learner.failure is None
        learner.check()
    assert isinstance(learner.failure, TrainingError)
    assert re.search(r"style: .*from step 4 of 40.*learning_rate \(now 1\)", str(learner.failure))


def test_groups_take_the_rate_times_their_factor():
    slow, fast = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    config = TrainingConfig(
        steps=1,
        learning_rate=0.1,
        schedule=ScheduleConfig("constant"),
        optimizer=OptimizerConfig(weight_decay=0.0),
    )
    quadratic(Learner("a", [Group((slow,)), Group((fast,), rate=4.0)], config))
    # Adam's first step is as long as its rate.
    assert (1 - slow.item(), 1 - fast.item()) == pytest.approx((0.1, 0.4), rel=1e-4)


def test_what_stays_as_it_starts_has_no_part_in_clipping():
    """Nor do its gradients pile up, or spoil a step."""
    ours, alone = (nn.Parameter(torch.tensor([3.0, -4.0])) for _ in range(2))
    still = nn.Parameter(torch.tensor([1e4, 1.0]))
    learner = Learner("a", [Group((still,), rate=0.0), Group((ours,))], CONFIG)
    other = learner_of("b", [alone])
    for step in range(3):
        loss, reference = (ours**2).sum(), (alone**2).sum()
        (loss + (still**2).sum() * (torch.inf if step == 1 else 1)).backward()
        reference.backward()
        learner.update(loss)
        other.update(reference)
        assert still.grad.tolist() == [0, 0]
    assert torch.equal(ours, alone) and learner.losses() == other.losses()
    assert still.tolist() == [1e4, 1.0]
    with pytest.raises(OptimizerError, match=r"style: `rates` is 0 for all"):
        Learner("style", [Group((still,), rate=0.0)], CONFIG)


def test_the_average_lags_behind_and_becomes_the_result():
    weight = nn.Parameter(torch.tensor([5.0]))
    config = TrainingConfig(
        steps=30,
        learning_rate=0.1,
        schedule=ScheduleConfig("constant"),
        optimizer=OptimizerConfig(ema=0.9),
    )
    learner, by_hand = learner_of("a", [weight], config), 5.0
    for step in range(30):
        quadratic(learner)
        memory = min(0.9, (1 + step) / (10 + step))
        by_hand = memory * by_hand + (1 - memory) * weight.item()
    last = weight.item()
    with learner.averaged():
        assert weight.item() == pytest.approx(by_hand, rel=1e-5) and by_hand > last
    assert weight.item() == last
    assert learner._average[0].grad_fn is None, "no graph that grows with every step"
    learner.finish()
    assert weight.item() == pytest.approx(by_hand, rel=1e-5)
