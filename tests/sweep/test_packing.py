import pytest

from blockwise_lora.sweep.packing import pack, unpack


def test_folders_travel_and_stay_in_their_place(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x.bin").write_bytes(b"\x00\x01")
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "x.bin").read_bytes() == b"\x00\x01"
    with pytest.raises(ValueError, match="leads out"):
        unpack({"../evil": b""}, tmp_path / "c")
