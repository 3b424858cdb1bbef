import pytest
import torch
from safetensors.torch import save_file

from blockwise_lora.diffusion.weights import BaseModelError, check_safetensors, fingerprint


@pytest.fixture
def file(tmp_path):
    save_file({"a": torch.zeros(10)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    return tmp_path / "a.safetensors"


def test_a_whole_file_passes(file):
    check_safetensors(file)


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1])
def test_every_truncation_is_noticed(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BaseModelError, match="truncated or not a safetensors file"):
        check_safetensors(file)


def test_trailing_bytes_and_other_content_are_noticed(file):
    whole = file.read_bytes()
    for content in (
        whole + b"x",
        b"<!doctype html>" + b" " * 100,
        b"\x08" + b"\0" * 7 + b"notjson!",
    ):
        file.write_bytes(content)
        with pytest.raises(BaseModelError):
            check_safetensors(file)


def test_a_fingerprint_is_of_content(file, tmp_path):
    first = fingerprint([file])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    assert fingerprint([copy]) == first
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert fingerprint([file]) != first
    assert fingerprint([file, copy]) != fingerprint([copy, file])
