"""What the U-Net learns to predict, and how much each noise level counts. Pure functions.

Notation of Ho et al. (2020): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, a_t the cumulative product
of the alphas, and snr_t = a_t / (1 - a_t).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def add_noise(latents: Tensor, noise: Tensor, a_t: Tensor) -> Tensor:
    """x_t from x_0 and eps.

    Args:
        latents: x_0, (n, c, h, w).
        noise: eps, of the same shape.
        a_t: (n,).
    """
    a_t = a_t.view(-1, 1, 1, 1)
    return a_t.sqrt() * latents + (1 - a_t).sqrt() * noise


def target(prediction_type: str, latents: Tensor, noise: Tensor, a_t: Tensor) -> Tensor:
    """What the U-Net should answer: eps, v = sqrt(a) eps - sqrt(1 - a) x_0, or x_0.

    v: Salimans and Ho, Progressive Distillation (2022), appendix D.

    Raises:
        ValueError: an unknown prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == "v_prediction":
        a_t = a_t.view(-1, 1, 1, 1)
        return a_t.sqrt() * noise - (1 - a_t).sqrt() * latents
    raise ValueError(f"prediction_type {prediction_type!r} is none of {PREDICTION_TYPES}")


def min_snr_weight(prediction_type: str, a_t: Tensor, gamma: float) -> Tensor:
    """Loss weights that stop easy, nearly noiseless steps from drowning the others.

    Hang et al., Efficient Diffusion Training via Min-SNR Weighting (2023): min(snr, gamma) on the
    error of x_0, so min(snr, gamma) / snr on that of eps and / (snr + 1) on that of v.

    Args:
        prediction_type: see `target`.
        a_t: (n,).
        gamma: the paper takes 5.

    Returns:
        Weights (n,).
    """
    snr = a_t / (1 - a_t)
    if prediction_type == "epsilon":
        # Where all is noise snr is 0: gamma / snr is infinite, and the weight 1.
        return torch.clamp(gamma / snr, max=1.0)
    clipped = torch.clamp(snr, max=gamma)
    return clipped / (snr + 1) if prediction_type == "v_prediction" else clipped


def offset_noise(noise: Tensor, shift: Tensor, strength: float) -> Tensor:
    """Add to each channel of each picture a common random shift.

    Without it a model hardly learns to change a picture's overall brightness.

    Args:
        noise: (n, c, h, w).
        shift: standard normal, (n, c).
        strength: 0.05 to 0.1 are usual.
    """
    return noise + strength * shift[:, :, None, None]


def pyramid_noise(noise: Tensor, discount: float, generator: torch.Generator) -> Tensor:
    """Add coarser and coarser noise, so that large shapes are disturbed, too.

    Whitaker, Multi-Resolution Noise for Diffusion Model Training (2023): layer i has half the
    resolution of the one before and `discount` times its strength; the sum is brought back to a
    mean square of 1, which the schedule counts on.

    Args:
        noise: the finest layer, (n, c, h, w).
        discount: in (0, 1).
        generator: on the CPU.
    """
    n, channels, *size = noise.shape
    total, strength, side = noise.clone(), 1.0, size
    while max(side) > 1:
        side, strength = [max(1, s // 2) for s in side], strength * discount
        layer = torch.randn(n, channels, *side, generator=generator)
        total += strength * F.interpolate(layer, size, mode="bilinear", align_corners=False)
    return total / total.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def loss_per_picture(
    prediction: Tensor,
    wanted: Tensor,
    mask: Tensor | None = None,
    huber_delta: float | None = None,
) -> Tensor:
    """Mean error of each picture in float32: (n,).

    Args:
        prediction: (n, c, h, w).
        wanted: of the same shape.
        mask: weights in [0, 1], (n, 1, h, w), by which the mean is weighted, so that a small
            subject counts as much as a large one; None: all alike.
        huber_delta: the pseudo-Huber loss 2 d (sqrt(e^2 + d^2) - d), which is the square of small
            errors and grows with the size of large ones; None: the squared error.
    """
    error = (prediction.float() - wanted.float()).square()
    if huber_delta is not None:
        error = 2 * huber_delta * ((error + huber_delta**2).sqrt() - huber_delta)
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    error = error.mean(dim=1, keepdim=True)
    return (error * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1e-6)
