import math

import pytest
import torch

from blockwise_lora.diffusion.objective import (
    add_noise,
    loss_per_picture,
    min_snr_weight,
    offset_noise,
    pyramid_noise,
    target,
)

# a = 0.64: sqrt(a) = 0.8, sqrt(1 - a) = 0.6, snr = 16/9.
A = torch.tensor([0.64])
X = torch.full((1, 1, 1, 1), 2.0)
EPS = torch.full((1, 1, 1, 1), -1.0)


def test_noisy_latents_by_hand():
    assert add_noise(X, EPS, A).item() == pytest.approx(0.8 * 2 - 0.6)


@pytest.mark.parametrize(
    ("kind", "value"), [("epsilon", -1.0), ("sample", 2.0), ("v_prediction", -0.8 - 0.6 * 2)]
)
def test_targets_by_hand(kind, value):
    assert target(kind, X, EPS, A).item() == pytest.approx(value)


def test_v_gives_back_the_latents():
    """x_0 = sqrt(a) x_t - sqrt(1 - a) v, the identity that v was made for."""
    v = target("v_prediction", X, EPS, A)
    assert (0.8 * add_noise(X, EPS, A) - 0.6 * v).item() == pytest.approx(2.0)


def test_unknown_prediction_type():
    with pytest.raises(ValueError, match="flow"):
        target("flow", X, EPS, A)


@pytest.mark.parametrize(
    ("kind", "a", "weight"),
    [
        ("epsilon", 0.64, 1.0),  # snr 16/9 below gamma
        ("epsilon", 10 / 11, 0.5),  # snr 10: 5 / 10
        ("epsilon", 0.0, 1.0),  # pure noise, no division by zero
        ("v_prediction", 0.64, (16 / 9) / (25 / 9)),
        ("v_prediction", 10 / 11, 5 / 11),
        ("v_prediction", 0.0, 0.0),
        ("sample", 10 / 11, 5.0),
    ],
)
def test_min_snr_weights_by_hand(kind, a, weight):
    got = min_snr_weight(kind, torch.tensor([a], dtype=torch.float64), 5.0).item()
    assert got == pytest.approx(weight)


def test_offset_is_shared_by_a_channel():
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(6.0).view(2, 3)
    moved = offset_noise(noise, shift, 0.1) - noise
    torch.testing.assert_close(moved, 0.1 * shift[:, :, None, None].expand(2, 3, 4, 4))


def test_pyramid_noise_has_large_shapes_and_the_same_strength():
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(64, 2, 16, 16, generator=generator)
    coarse = pyramid_noise(fine, 0.8, generator)
    assert coarse.square().mean().item() == pytest.approx(1.0, abs=1e-3)
    # The mean over a picture of white noise has deviation 1/16.
    assert fine.mean(dim=(2, 3)).std() < 0.08
    assert coarse.mean(dim=(2, 3)).std() > 0.2


def test_loss_is_the_mean_of_each_picture_in_float32():
    prediction = torch.zeros(2, 1, 2, 2)
    wanted = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert loss_per_picture(prediction, wanted).tolist() == [1.0, 4.0]
    half = loss_per_picture(prediction.bfloat16(), wanted.bfloat16())
    assert half.dtype == torch.float32 and half.tolist() == [1.0, 4.0]


def test_a_masked_loss_is_the_mean_over_what_the_mask_shows():
    wanted = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2).repeat(1, 2, 1, 1)
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert loss_per_picture(torch.zeros_like(wanted), wanted, mask).item() == 1.0
    mask = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)
    assert loss_per_picture(torch.zeros_like(wanted), wanted, mask).item() == pytest.approx(
        (1 + 0.5 * 9) / 1.5
    )
    assert loss_per_picture(torch.zeros_like(wanted), wanted, 0 * mask).item() == 0.0


def test_pseudo_huber_is_a_square_below_and_a_line_above():
    def loss(error):
        zeros = torch.zeros(1, 1, 1, 1)
        return loss_per_picture(zeros, zeros + error, None, 0.1).item()

    assert loss(0.001) == pytest.approx(1e-6, rel=1e-2)
    assert loss(20.0) - loss(10.0) == pytest.approx(2 * 0.1 * 10, rel=1e-3)
    assert loss(0.1) == pytest.approx(0.2 * (math.sqrt(0.02) - 0.1), rel=1e-4)
