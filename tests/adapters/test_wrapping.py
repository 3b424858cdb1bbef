import pytest
import torch
from torch import nn

from blockwise_lora.adapters import LowRank, Orthogonal
from blockwise_lora.adapters.layers import levels
from blockwise_lora.adapters.wrapping import alpha_of, read, unwrap, wrap


def low_rank(scale=0.5, rank=2):
    return LowRank(torch.randn(rank, 8), torch.randn(6, rank), scale)


@pytest.mark.parametrize(("alpha", "rank"), [(4, 8), (1, 3), (2.5, 7), (0.1, 3), (5, 49)])
def test_alpha_over_rank_is_the_scale_to_the_bit(alpha, rank):
    found = alpha_of(low_rank(alpha / rank, rank))
    assert found / rank == alpha / rank
    assert isinstance(found, int) == (alpha == int(alpha))


def test_peft_draws_no_values_of_its_own():
    layer, update, before = nn.Linear(8, 6), low_rank(), torch.get_rng_state()
    wrap(layer, "a", Orthogonal(torch.zeros(2, 6), (6, 8)))
    wrap(layer, "b", update)
    assert torch.equal(torch.get_rng_state(), before)


def test_kinds_share_a_level_or_wrap_each_other():
    layer = nn.Linear(8, 6)
    outer = wrap(layer, "one", low_rank())
    assert wrap(outer, "two", low_rank(2.0, 3)) is outer
    assert wrap(outer, "three", Orthogonal(torch.zeros(2, 6), (6, 8))) is outer
    inner = outer.base_layer
    assert inner.base_layer is layer
    assert wrap(outer, "four", Orthogonal(torch.zeros(4, 1), (6, 8))) is outer
    assert outer.base_layer is inner
    assert (read(outer, "two").scale, read(inner, "four").rank) == (2.0, 2)
    assert [unwrap(outer, name) for name in ("one", "two")] == [False, True]
    assert [unwrap(inner, name) for name in ("three", "four")] == [False, True]


@pytest.mark.parametrize("first", [LowRank, Orthogonal])
def test_convolutions_take_several_kinds_in_any_order(first):
    layer = nn.Conv2d(8, 6, 1)
    updates = {LowRank: LowRank.empty((6, 8, 1, 1), 2, 1.0)}
    updates[Orthogonal] = Orthogonal.empty((6, 8, 1, 1), 4)
    for i, update in enumerate(sorted(updates.values(), key=lambda u: type(u) is not first)):
        layer = wrap(layer, f"a{i}", update)
    assert len([*levels(layer)]) == 2


def test_values_are_copied_and_float32():
    update = LowRank(torch.randn(2, 8).half(), torch.randn(6, 2).half(), 1.0)
    found = read(wrap(nn.Linear(8, 6).bfloat16(), "a", update), "a")
    assert found.down.dtype == torch.float32
    assert torch.equal(found.down, update.down.float())
    with torch.no_grad():
        found.down.zero_()
    assert update.down.abs().sum() > 0
