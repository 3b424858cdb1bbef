import sys

import pytest
import torch
from torch import nn

from blockwise_lora.diffusion.config import OptimizerConfig
from blockwise_lora.diffusion.optimizers import (
    Group,
    OptimizerError,
    make_optimizer,
    restore,
    state_of,
    step_where,
)

NAMES = ("adamw", "adamw8bit", "prodigy", "adafactor")
YES, NO = torch.tensor(True), torch.tensor(False)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(n, 80, generator=generator)) for n in (64, 3)]


def take_steps(optimizer, parameters, count, finite=YES):
    for group in optimizer.param_groups:
        group["lr"] = 1.0 if "d0" in group else 0.01  # prodigy finds the rate itself
    for _ in range(count):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        step_where(optimizer, finite)


def made(name, parameters, **values):
    return make_optimizer([Group(tuple(parameters))], OptimizerConfig(name, **values))


@pytest.mark.parametrize("name", NAMES)
def test_weights_shrink_towards_the_minimum(name):
    parameters = weights()
    before = sum(p.norm() for p in parameters)
    take_steps(made(name, parameters), parameters, 20)
    assert sum(p.norm() for p in parameters) < before


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_shall_not_be_changes_nothing(name):
    parameters = weights()
    optimizer = made(name, parameters)
    take_steps(optimizer, parameters, 2)
    before = [p.detach().clone() for p in parameters]
    state = {key: tensor.clone() for key, tensor in state_of(optimizer).items()}
    take_steps(optimizer, parameters, 1, NO)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    after = state_of(optimizer)
    assert all(torch.equal(state[key], after[key]) for key in state)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_optimiser_goes_on_to_the_same_bits(name):
    parameters = weights()
    optimizer = made(name, parameters)
    take_steps(optimizer, parameters, 3)
    state = {key: tensor.clone() for key, tensor in state_of(optimizer).items()}
    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    other = made(name, others)
    restore(other, state)
    take_steps(optimizer, parameters, 3)
    take_steps(other, others, 3)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_adamws_state_does_not_depend_on_how_the_weights_are_cut():
    whole, cut = weights()[:1], [nn.Parameter(p) for p in weights()[0].detach().split(16)]
    first, second = made("adamw", whole), made("adamw", cut)
    take_steps(first, whole, 2)
    take_steps(second, cut, 2)
    ours, theirs = state_of(first), state_of(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_adamw_decides_on_the_device():
    """Fused: one kernel for all weights, and no wait for the host to leave a step out."""
    assert made("adamw", weights()).defaults["fused"] is True


def test_eight_bits_are_a_quarter_of_the_memory():
    sizes = {}
    for name in ("adamw", "adamw8bit"):
        parameters = [nn.Parameter(torch.ones(256, 256))]
        optimizer = made(name, parameters)
        take_steps(optimizer, parameters, 1)
        slots = optimizer.state[parameters[0]].values()
        sizes[name] = sum(t.nbytes for t in slots if isinstance(t, torch.Tensor))
    assert sizes["adamw8bit"] < 0.3 * sizes["adamw"]


def test_adafactor_keeps_rows_and_columns_only():
    parameters = [nn.Parameter(torch.ones(64, 80))]
    optimizer = made("adafactor", parameters)
    take_steps(optimizer, parameters, 1)
    slots = optimizer.state[parameters[0]].values()
    assert sum(t.numel() for t in slots if isinstance(t, torch.Tensor)) <= 64 + 80 + 1


def test_prodigy_cannot_give_blocks_rates_of_their_own():
    first, second = weights()
    groups = [Group((first,)), Group((second,), rate=0.5)]
    with pytest.raises(OptimizerError, match="one rate for all"):
        make_optimizer(groups, OptimizerConfig("prodigy"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(OptimizerError, match=r"prodigyopt.*blockwise-lora\[optimizers\]"):
        made("prodigy", weights())
