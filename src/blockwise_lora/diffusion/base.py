"""The base model: a Stable Diffusion U-Net with its VAE, text encoders, tokenizers and schedule.

Everything that differs between models (resolution, channels, scale of the latents, number of text
encoders, what the U-Net predicts) is read from the model itself, so the same code runs the embedded
model, SD 1.5 and SDXL.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from blockwise_lora.diffusion.quiet import quiet_libraries
from blockwise_lora.diffusion.text import Text
from blockwise_lora.diffusion.weights import (
    BaseModelError,
    check_safetensors,
    component_files,
    fingerprint,
    hub_snapshot,
)
from blockwise_lora.parameters import typed

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

log = logging.getLogger(__name__)


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
    """A loaded model. Its weights are frozen; adapters are attached to `unet`.

    Attributes:
        name: for people, e.g. the folder's name or the hub id.
        sha256: of the weights, whatever they are called and wherever they lie.
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
        return self.encode_ids([self.tokenize(prompts, t) for t in self.tokenizers])

    def tokenize(self, prompts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
        """Token ids, (n, tokens) int64, on the model's device."""
        return tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)

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

    def answer(self, noisy: Tensor, timesteps: Tensor, text: Text, frames: Tensor) -> Tensor:
        """What the U-Net, with the adapters as they are set, answers.

        Args:
            noisy: x_t, (n, channels, height, width).
            timesteps: (n,), or one for all.
            text: n prompts.
            frames: height and width of the original, top and left of the crop, height and width
                of the picture in pixels, (n, 6); models without size conditioning ignore them.

        Returns:
            Of x_t's shape, in the model's precision.
        """
        added = None
        if self.unet.config.addition_embed_type == "text_time":
            added = {"text_embeds": text.pooled, "time_ids": frames}
        with self.autocast():
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
        pixels = self.vae.decode(latents.float() / config.scaling_factor + shift).sample
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
    device = _device(device)
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    path = Path(source)
    if path.is_file():
        from blockwise_lora.diffusion.single_file import load_single_file

        check_safetensors(path)
        with _explained(path), quiet_libraries():
            parts = load_single_file(path, dtype, Path(config) if config else None)
        name, sha256 = path.stem, fingerprint([path])
    else:
        folder = path if path.is_dir() else _snapshot(str(source))
        _check_pipeline(folder)
        variant, files = component_files(folder)
        with _explained(folder), quiet_libraries():
            parts = _load_folder(folder, dtype, variant)
        name, sha256 = (path.name if path.is_dir() else str(source)), fingerprint(files)
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


def _device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(
            f"device: {str(device)!r} cannot be used here ({str(error).splitlines()[0]}). Use "
            f"`--params device=cpu`, or install the PyTorch build for your card."
        ) from error
    return device


def _snapshot(source: str) -> Path:
    # A hub id is owner/name; anything else was meant as a path.
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or source.endswith("/"):
        raise BaseModelError(
            f"base_model.source: no folder or file {source}. Name a diffusers folder, a single "
            f".safetensors file or a hub id. (The embedded model comes with the repository; "
            f"`kedro run --pipelines pretraining` makes it anew.)"
        )
    return hub_snapshot(source)


def _check_pipeline(folder: Path) -> None:
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseModelError(
            f"{folder}: has no model_index.json, so it is not a model in diffusers' format. "
            f"base_model.source must be such a folder, a single .safetensors file or a hub id."
        ) from None
    except (ValueError, OSError) as error:
        raise BaseModelError(f"{index}: cannot be read ({error}). Download it again.") from error
    if "unet" not in parts or "text_encoder" not in parts:
        raise BaseModelError(
            f"{folder}: is a {parts.get('_class_name')}, not a base model of Stable Diffusion 1.x "
            f"or XL (U-Net with one or two text encoders), which is what can be trained."
        )


def _load_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> dict[str, Any]:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def part(cls: Any, name: str, **precision: torch.dtype) -> Any:
        model, report = cls.from_pretrained(
            folder,
            subfolder=name,
            use_safetensors=True,
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
            **precision,
        )
        # The libraries would fill what is missing with random values, and only warn.
        if report["missing_keys"]:
            raise BaseModelError(
                f"{folder / name}: the weights lack {sorted(report['missing_keys'])[0]}, which "
                f"config.json speaks of. Download the model again, whole."
            )
        return model

    parts = {
        "unet": part(UNet2DConditionModel, "unet", torch_dtype=dtype),
        "vae": part(AutoencoderKL, "vae"),
        "text_encoder": part(CLIPTextModel, "text_encoder", dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        "scheduler": DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
    }
    if (folder / "text_encoder_2").is_dir():
        second = part(CLIPTextModelWithProjection, "text_encoder_2", dtype=dtype)
        parts["text_encoder_2"] = second
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer_2")
    return parts


@contextmanager
def _explained(source: Path):
    """Turn what the libraries raise over a wrong model into an error about `source`."""
    try:
        yield
    except (BaseModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # they raise whatever they stumble over
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"{source}: cannot be loaded as a Stable Diffusion model ({first}). Check that it is "
            f"one and that it is whole."
        ) from error
