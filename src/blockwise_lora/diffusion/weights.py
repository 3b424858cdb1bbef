"""Finding a base model's weight files, checking and hashing them, before anything is loaded.

Only safetensors are read. A pickle can run code when it is opened, so it is refused by name.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from blockwise_lora.errors import UserError

COMPONENTS = ("unet", "vae", "text_encoder")
"""The parts of a diffusers folder that hold weights; SDXL has `SECOND`, too."""

SECOND = "text_encoder_2"

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")
_HEADER_LIMIT = 100_000_000  # safetensors' own limit, bytes
_CHUNK = 1 << 22


class BaseModelError(UserError):
    """A base model that cannot be found, read or used."""


def check_safetensors(path: Path) -> None:
    """Check that a file is whole: its header names exactly the bytes that follow it.

    Raises:
        BaseModelError: the file is a pickle, truncated, or no safetensors file at all.
    """
    if path.suffix != ".safetensors":
        raise BaseModelError(
            f"{path}: only .safetensors files are read, since others can run code when opened. "
            f"Convert it, or get the model's safetensors version."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_LIMIT, max(size - 8, 0)):
            raise _broken(path, size)
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _broken(path, size) from None
    if size != 8 + length + max(ends, default=0):
        raise _broken(path, size)


def _broken(path: Path, size: int) -> BaseModelError:
    return BaseModelError(
        f"{path}: truncated or not a safetensors file ({size} bytes). Copy or download it again."
    )


def component_files(folder: Path) -> tuple[str | None, list[Path]]:
    """The weight files of each component of a diffusers folder, checked.

    Args:
        folder: holds model_index.json and a folder for each of `COMPONENTS`.

    Returns:
        The variant to ask diffusers for ("fp16" if the folder has no other files), and the files.

    Raises:
        BaseModelError: naming the missing or broken part.
    """
    variants, files = set(), []
    for name in (*COMPONENTS, *([SECOND] if (folder / SECOND).is_dir() else [])):
        part = folder / name
        if not (part / "config.json").is_file():
            raise BaseModelError(
                f"{folder}: not a Stable Diffusion model, {name}/config.json is missing. "
                f"base_model.source must be a folder in diffusers' format, a single .safetensors "
                f"file or a hub id."
            )
        found = sorted(part.glob("*.safetensors"))
        plain = [f for f in found if "." not in f.stem.replace("-of-", "")]
        if not found:
            raise BaseModelError(_no_weights(part))
        variants.add(None if plain else found[0].stem.split(".")[1].split("-")[0])
        files += plain or found
    if len(variants) > 1:
        raise BaseModelError(
            f"{folder}: some parts have plain weights and others only a variant "
            f"({', '.join(sorted(v for v in variants if v))}). Download the model again, whole."
        )
    for file in files:
        check_safetensors(file)
    return variants.pop(), files


def _no_weights(part: Path) -> str:
    pickles = [f.name for pattern in _PICKLES for f in part.glob(pattern)]
    if pickles:
        return (
            f"{part}: has only pickled weights ({pickles[0]}), which can run code when opened. Get "
            f"the safetensors version, or convert it on a machine where you trust the file: "
            f"pipeline.save_pretrained(folder, safe_serialization=True)."
        )
    return f"{part}: has no .safetensors weights. Download the model again, whole."


def fingerprint(files: Sequence[Path], configurations: Path | None = None) -> str:
    """sha256 over all that decides what a model answers.

    Args:
        files: the weights; their contents count, in the order given, whatever they are called.
        configurations: a diffusers folder whose schedule, structures and tokenizers count, too;
            None: those of a single file of Stable Diffusion 1.x, which are always the same.
    """
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(bytes.fromhex(_file_sha256(str(file), stat.st_size, stat.st_mtime_ns)))
    for file in _configuration_files(configurations) if configurations else ():
        # As text: Git may have given its lines other ends.
        text = file.read_text(encoding="utf-8")
        digest.update(f"\0{file.relative_to(configurations).as_posix()}\0{text}".encode())
    return digest.hexdigest()


def _configuration_files(folder: Path) -> list[Path]:
    """What is read of a diffusers folder beside the weights, always in the same order."""
    named = dict.fromkeys((*COMPONENTS, SECOND), ("config.json",))
    named["scheduler"] = ("scheduler_config.json",)
    named |= dict.fromkeys(("tokenizer", "tokenizer_2"), ("*.json", "*.txt"))
    return [f for part in named for name in named[part] for f in sorted((folder / part).glob(name))]


@lru_cache(maxsize=64)
def _file_sha256(path: str, size: int, changed: int) -> str:
    """Hash of one file; `size` and `changed` are there so that a changed file is read anew."""
    with Path(path).open("rb") as file:
        return hash_chunks(iter(lambda: file.read(_CHUNK), b""))


def hash_chunks(chunks: Iterable[bytes]) -> str:
    """sha256 of the chunks' concatenation, as a hexadecimal string."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def hub_snapshot(source: str) -> Path:
    """Fetch a model from the hub, without pickles and safety checker.

    Raises:
        BaseModelError: no such model, no access, or no network and not in the local cache.
    """
    folders = (*COMPONENTS, SECOND, "scheduler", "tokenizer", "tokenizer_2")
    endings = ("*.json", "*.txt", "*.model", "*.safetensors")
    wanted = ["model_index.json"] + [f"{f}/{e}" for f in folders for e in endings]
    unwanted = ["*.fp16.safetensors", "*.non_ema.safetensors", "*flax*", "*onnx*"]
    return _from_hub(source, f"base_model.source: {source!r}", wanted, unwanted)


def hub_configurations(source: str) -> Path:
    """Fetch the configurations of a model's denoiser and text encoders from the hub, no weights.

    Raises:
        BaseModelError: as `hub_snapshot`.
    """
    folders = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
    return _from_hub(source, repr(source), [f"{folder}/config.json" for folder in folders], [])


def _from_hub(source: str, who: str, wanted: list[str], unwanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"{who} is neither a folder or file here nor a model that the hub gave{offline}: "
            f"{first}. Check the spelling and the network (a gated model needs `hf auth login`), "
            f"or name a local folder or .safetensors file."
        ) from error
