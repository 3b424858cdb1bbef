"""Small matrices worked out by hand; random ones against the full matrices."""

import math

import pytest
import torch

from blockwise_lora.adapters.merge.lowrank import concatenate, distance, factorise, truncate
from blockwise_lora.adapters.updates import LowRank

SHAPES = [(7,), (30,), (5, 3, 3), (40, 1, 1)]


def random_update(inputs, rank=4, scale=0.5, out=12, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    ones = [1] * (len(inputs) - 1)
    down = torch.randn(rank, *inputs, generator=generator).to(dtype)
    up = torch.randn(out, rank, *ones, generator=generator).to(dtype)
    return LowRank(down, up, scale)


def delta64(update):
    product = update.up.double().flatten(1) @ update.down.double().flatten(1)
    return update.scale * product.reshape(update.up.shape[0], *update.down.shape[1:])


def relative(one, other):
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)).item()


def diagonal(*values):
    return LowRank(torch.diag(torch.tensor(values)), torch.eye(len(values)), 1.0)


def test_two_changes_worked_out_by_hand():
    one = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]]), 0.5)
    two = LowRank(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [3.0]]), 2.0)
    total = concatenate([one, two], [2.0, -1.0])  # [[1, 2], [0, 0]] - [[0, 2], [0, 6]]
    assert total.rank == 2
    assert torch.equal(total.delta(), torch.tensor([[1.0, 0.0], [0.0, -6.0]]))


@pytest.mark.parametrize("inputs", SHAPES)
def test_concatenated_factors_are_the_sum(inputs):
    updates = [random_update(inputs, 4, 0.5, seed=1), random_update(inputs, 2, 1.5, seed=2)]
    total = concatenate(updates, [0.7, -1.2])
    assert total.rank == 6
    expected = 0.7 * delta64(updates[0]) - 1.2 * delta64(updates[1])
    assert relative(delta64(total), expected) < 1e-6


def test_factors_stay_to_the_bit_where_the_scale_can_hold_the_weights():
    updates = [random_update((7,), 4, 0.5, dtype=torch.float16), random_update((7,), 2, 1.0)]
    updates[1] = LowRank(updates[1].down.half(), updates[1].up.half(), 1.0)
    total = concatenate(updates, [1.0, 0.5])
    assert (total.scale, total.down.dtype) == (0.5, torch.float16)
    assert torch.equal(total.down, torch.cat([u.down for u in updates]))
    assert torch.equal(total.up, torch.cat([u.up for u in updates], dim=1))


def test_half_precision_that_must_be_rescaled_is_written_in_float32():
    updates = [random_update((7,), dtype=torch.float16, seed=s) for s in (1, 2)]
    total = concatenate(updates, [0.7, 0.3])
    assert total.down.dtype == total.up.dtype == torch.float32
    expected = 0.7 * delta64(updates[0]) + 0.3 * delta64(updates[1])
    assert relative(delta64(total), expected) < 1e-6  # float16 would give 5e-4


def test_a_diagonal_cut_to_rank_one_by_hand():
    fitted = truncate(diagonal(2.0, 3.0, 1.0), 1)
    assert torch.allclose(fitted.update.delta(), torch.diag(torch.tensor([0.0, 3.0, 0.0])))
    assert fitted.error == pytest.approx(math.sqrt(5 / 14))
    assert torch.linalg.vector_norm(fitted.update.up) == pytest.approx(math.sqrt(3))  # evenly
    assert torch.linalg.vector_norm(fitted.update.down) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("inputs", SHAPES)
@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_cutting_through_the_factors_is_the_svd_of_the_matrix(inputs, scale):
    update = random_update(inputs, 6, scale)
    whole = delta64(update)
    u, s, vh = torch.linalg.svd(whole.flatten(1), full_matrices=False)
    best = ((u[:, :3] * s[:3]) @ vh[:3]).reshape(whole.shape)
    for fitted in (truncate(update, 3), factorise(whole, 3)):
        assert (fitted.update.rank, fitted.update.scale) == (3, 1.0)
        assert fitted.update.delta().shape == whole.shape
        assert relative(fitted.update.delta(), best) < 1e-6
        assert fitted.error == pytest.approx((s[3:].norm() / s.norm()).item(), rel=1e-6)


def test_what_fits_the_rank_is_left_alone():
    update = random_update((7,), 4, dtype=torch.bfloat16)
    fitted = truncate(update, 4)
    assert fitted.update is update
    assert fitted.error == 0


@pytest.mark.parametrize("inputs", SHAPES)
def test_the_smallest_rank_that_is_exact_is_found(inputs):
    update = random_update(inputs, 3)
    fitted = factorise(update.delta())
    assert fitted.update.rank == 3
    assert fitted.error < 1e-6
    assert relative(fitted.update.delta(), delta64(update)) < 1e-6


def test_a_change_of_full_rank_stays_whole():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    fitted = factorise(matrix)
    assert fitted.update.rank == 6
    assert relative(fitted.update.delta(), matrix) < 1e-6


def test_no_change_is_no_problem():
    nothing = LowRank(torch.randn(4, 7), torch.zeros(5, 4), 1.0)
    for fitted in (truncate(nothing, 2), factorise(nothing.delta(), 2), factorise(nothing.delta())):
        assert fitted.error == 0
        assert torch.equal(fitted.update.delta(), torch.zeros(5, 7))


def test_distance_by_hand():
    assert distance(diagonal(3.0, 4.0), diagonal(3.0, 3.0)) == pytest.approx(1 / math.sqrt(18))
    assert distance(diagonal(1.0, 0.0), diagonal(0.0, 0.0)) == 0  # relative to nothing
