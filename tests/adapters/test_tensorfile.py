import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import load, save

from blockwise_lora.adapters import tensorfile

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,  # not contiguous
    "a": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "half": torch.ones(3, dtype=torch.float16),
    "scalar": torch.tensor(4.0),
}


def test_the_library_reads_what_is_written():
    data = tensorfile.encode(TENSORS, {"key": "välue"})
    loaded = load(data)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert struct.unpack("<Q", data[:8])[0] % 8 == 0


def test_bytes_do_not_depend_on_the_order():
    one = tensorfile.encode(TENSORS, {"x": "1", "y": "2"})
    two = tensorfile.encode(dict(reversed(TENSORS.items())), {"y": "2", "x": "1"})
    assert one == two


def test_reading_what_the_library_wrote(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(save({k: t.contiguous() for k, t in TENSORS.items()}, {"key": "välue"}))
    content = tensorfile.read(path)
    assert content.metadata == {"key": "välue"}
    assert torch.equal(content.tensors["b"], TENSORS["b"])
    path.write_bytes(save({"a": torch.ones(1)}))
    assert tensorfile.read(path).metadata == {}


def test_an_unreadable_file_is_explained(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(tensorfile.AdapterError, match=r"folder\.safetensors cannot be read"):
        tensorfile.read(tmp_path / "folder.safetensors")


def test_names_are_asked_about_before_a_tensor_is_read(tmp_path):
    """The file says that it holds a tebibyte, which no memory does."""
    path, size = tmp_path / "large.safetensors", 1 << 40
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"layer": entry}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)

    def refuse(names):
        raise ValueError(f"not {names}")

    with pytest.raises(ValueError, match=r"not \['layer'\]"):
        tensorfile.read(path, refuse)


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "file.safetensors"
    data = tensorfile.encode(TENSORS, {})
    path.write_bytes(data)
    content = tensorfile.read(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * len(data))
    assert all(torch.equal(content.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert content.sha256 == hashlib.sha256(data).hexdigest()
