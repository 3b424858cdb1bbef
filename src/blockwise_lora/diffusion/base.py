"""The base model: a Stable Diffusion U-Net with its VAE, text encoders, tokenizers and schedule.

Everything that differs between models (resolution, channels, scale of the latents, number of text
encoders, what the U-Net predicts) is read from the model itself, so the same code runs the embedded
model, SD 1.5 and SDXL.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from blockwise_lora.adapters.parts import Parts
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.loading import (
    check_pipeline,
    explained,
    find_device,
    load_folder,
    snapshot,
)
from blockwise_lora.diffusion.quiet import quiet_libraries
from blockwise_lora.diffusion.text import Prompts, Text, TokenIds
from blockwise_lora.diffusion.vocabulary import Vocabulary
from blockwise_lora.diffusion.weights import (
    check_safetensors,
    component_files,
    fingerprint,
)
from blockwise_lora.parameters import typed

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

log = logging.getLogger(__name__)

# Pixels in a batch for the VAE: 1 picture of 512 px, 64 of 64 px. It computes in float32, and more
# would take more memory than the steps before it.
_DECODED_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class BaseModelConfig:
    """The parameter group `base_model`."""

    source: str
    """A diffusers folder, a single .safetensors file, or a hub id such as owner/name."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of U-Net and text encoders; the VAE is always float32."""
    config: str | None = None
    """For a single file whose structure is not SD 1.x: a diffusers folder of the same structure."""


@dataclass(frozen=True)
class BaseModel:
    """A loaded model. Its weights are frozen; adapters are attached to its `parts`.

    Attributes:
        name: for people, e.g. the folder's name or the hub id.
        sha256: of the weights, whatever they are called and wherever they lie, and of the
            configurations of schedule, U-Net, VAE, text encoders and tokenizers: with another
            prediction type or fewer text layers it is another model.
        dtype: of U-Net and text encoders.
        text_encoder_2: SDXL's second text encoder, which also gives the pooled vector.
        tokenizer_2: its tokenizer.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    name: str
    sha256: str
    device: torch.device
    dtype: torch.dtype
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: CLIPTokenizer | None = None

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """One, or SDXL's two."""
        return tuple(m for m in (self.text_encoder, self.text_encoder_2) if m is not None)

    @property
    def tokenizers(self) -> tuple[CLIPTokenizer, ...]:
        """One for each text encoder."""
        return tuple(t for t in (self.tokenizer, self.tokenizer_2) if t is not None)

    @property
    def parts(self) -> Parts:
        """What adapters can be attached to: U-Net and text encoders."""
        return Parts(self.unet, self.text_encoders)

    @property
    def blocks(self) -> BlockMap:
        """The blocks of U-Net and text encoders."""
        return self.parts.blocks

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizers' words, and those that adapters brought."""
        return Vocabulary(self.tokenizers, self.text_encoders)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that the model was made for."""
        return self.unet.config.sample_size * self.vae_factor

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this, or the U-Net's halves do not meet."""
        return self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> str:
        """What the U-Net predicts: "epsilon", "v_prediction" or "sample"."""
        return self.scheduler.config.prediction_type

    @property
    def arithmetic(self) -> str:
        """What rounds: part of the names of what is cached. "" on the CPU, whose are older."""
        if self.device.type == "cpu":
            return ""
        backends = torch.backends.cudnn, torch.backends.cuda.matmul
        tf32 = self.device.type == "cuda" and any(backend.allow_tf32 for backend in backends)
        return f" {self.device.type}{' tf32' * tf32}"

    def autocast(self) -> torch.autocast:
        """Mixed precision for a half-precision model with float32 adapters; off for float32."""
        half = self.dtype != torch.float32
        dtype = self.dtype if half else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=half)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        """Prompts as the U-Net takes them, on the model's device.

        A prompt longer than the text encoder can read is cut off, as everywhere with CLIP.
        """
        return self.encode_ids(self.vocabulary.ids(prompts).ids)

    def encode_ids(self, ids: Sequence[Tensor]) -> Text:
        """Text of token ids, one tensor for each text encoder, with gradients where weights have.

        SDXL takes the last hidden layer but one of both encoders side by side, and the second
        one's projected end token as the pooled vector (Podell et al., SDXL, 2023, section 2.1).
        """
        if self.text_encoder_2 is None:
            return Text(self.text_encoder(ids[0])[0])
        answers = [
            encoder(some, output_hidden_states=True)
            for encoder, some in zip(self.text_encoders, ids, strict=True)
        ]
        tokens = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        return Text(tokens, answers[1].text_embeds)

    def answer(self, noisy: Tensor, timesteps: Tensor, text: Prompts, frames: Tensor) -> Tensor:
        """What the U-Net, with the adapters as they are set, answers.

        Args:
            noisy: x_t, (n, channels, height, width).
            timesteps: (n,), or one for all.
            text: n prompts; those that are not encoded yet are so in here, with gradients.
            frames: height and width of the original, top and left of the crop, height and width
                of the picture in pixels, (n, 6); models without size conditioning ignore them.

        Returns:
            Of x_t's shape, in the model's precision.
        """
        with self.autocast():
            if isinstance(text, TokenIds):
                text = self.encode_ids(text.ids)
            added = None
            if self.unet.config.addition_embed_type == "text_time":
                added = {"text_embeds": text.pooled, "time_ids": frames}
            return self.unet(
                noisy.to(self.dtype),
                timesteps,
                encoder_hidden_states=text.tokens,
                added_cond_kwargs=added,
            ).sample

    @torch.no_grad()
    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the pictures' latents, in the U-Net's scale.

        Args:
            pixels: (n, 3, height, width) in [-1, 1].

        Returns:
            Two float32 tensors (n, channels, height / factor, width / factor).
        """
        config = self.vae.config
        latents = self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        shift = getattr(config, "shift_factor", None) or 0.0
        scale = config.scaling_factor
        return (latents.mean - shift) * scale, latents.std * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents in the U-Net's scale to pictures (n, 3, height, width) in [0, 1], float32."""
        config = self.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        latents = latents.float() / config.scaling_factor + shift
        at_once = max(1, _DECODED_AT_ONCE // (self.vae_factor**2 * latents[0, 0].numel()))
        pixels = torch.cat([self.vae.decode(some).sample for some in latents.split(at_once)])
        return (pixels / 2 + 0.5).clamp(0, 1)


def load_base(
    source: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    config: str | Path | None = None,
) -> BaseModel:
    """Load a Stable Diffusion model, frozen and in evaluation mode.

    Args:
        source: a diffusers folder, a single .safetensors file, or a hub id.
        device: where to put it.
        dtype: precision of U-Net and text encoder, e.g. "bfloat16".
        config: for a single file, a diffusers folder with the structure's configuration;
            Stable Diffusion 1.x needs none.

    Raises:
        BaseModelError: not found, not safetensors, truncated, not Stable Diffusion, or no device.
    """
    device = find_device(device)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    path = Path(source)
    if path.is_file():
        from blockwise_lora.diffusion.single_file import load_single_file

        check_safetensors(path)
        structure = Path(config) if config else None
        with explained(path), quiet_libraries():
            parts = load_single_file(path, dtype, structure)
        name, sha256 = path.stem, fingerprint([path], structure)
    else:
        folder = path if path.is_dir() else snapshot(str(source))
        check_pipeline(folder)
        variant, files = component_files(folder)
        with explained(folder), quiet_libraries():
            parts = load_folder(folder, dtype, variant)
        name = path.name if path.is_dir() else str(source)
        sha256 = fingerprint(files, folder)
    parts["vae"] = parts["vae"].float()
    for module in parts.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval().to(device)
    log.info("Base model %s (%s), %s on %s", name, sha256[:12], str(dtype)[6:], device)
    return BaseModel(**parts, name=name, sha256=sha256, device=device, dtype=dtype)


def load_from_parameters(group: Mapping[str, Any], device: str) -> BaseModel:
    """Load the model that the parameter group `base_model` names.

    Raises:
        ParameterError: the group does not fit.
        BaseModelError: as `load_base`.
    """
    config = typed(BaseModelConfig, group, "base_model")
    return load_base(config.source, device, config.dtype, config.config)
