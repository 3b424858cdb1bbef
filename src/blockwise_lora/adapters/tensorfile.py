"""Reading and writing safetensors files, with the same bytes for the same content.

The library writes the metadata in an order that changes from run to run, and with it the hash
by which adapters are told apart; the format is simple enough to be written here: the length of
the header as 8 bytes, little-endian; the header as JSON; the tensors' bytes.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from blockwise_lora.adapters.errors import AdapterError

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class TensorFile:
    """A file's content: tensors by name, metadata, and the SHA-256 of its bytes."""

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    sha256: str


def encode(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file; they depend on the arguments' content alone."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks, end = [], 0
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        chunks.append(flat.view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(chunks[-1])
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    return struct.pack("<Q", len(text)) + text + b"".join(chunks)


def read(path: Path, admit: Callable[[Sequence[str]], object] | None = None) -> TensorFile:
    """Read a safetensors file into memory.

    Args:
        path: of the file.
        admit: is given the tensors' names before any tensor is read, and raises what it likes if
            they are not wanted: the file may be a whole model, and larger than the memory.

    Raises:
        AdapterError: the file is missing, unreadable, of another kind (a pickle, a web page),
            or cut short; never is anything unpickled.
    """
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(512)
            # Reads the header alone, of which it checks the length. Mapped into memory, as by
            # default, the tensors would change with the file, and files above the memory fail.
            with safe_open(path, "pt", backend="pread") as content:
                if admit is not None:
                    admit(content.keys())
                tensors, metadata = content.get_tensors(), content.metadata() or {}
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise AdapterError(f"{path} does not exist: check the path, or train it first") from None
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise AdapterError(f"{path} {_diagnosis(head)} ({error})") from error
    return TensorFile(tensors, metadata, digest)


def _diagnosis(data: bytes) -> str:
    """What a file is, by its first bytes, that safetensors refuses, and what to do about it."""
    head = data.lstrip().lower()
    if not data:
        return "is empty: the download or copy failed; fetch it again"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights: the link led to a page; download the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not weights: run `git lfs pull`"
    if len(data) > 9 and data[8:9] == b"{":
        return "is cut short or damaged: fetch it again, or train it anew"
    if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
        return (
            "is a pickle (as .bin, .pt and .ckpt files are), which may run code when it is loaded "
            "and is never read here; convert it to safetensors with the tool that made it"
        )
    return "is not a safetensors file: only those are read"
