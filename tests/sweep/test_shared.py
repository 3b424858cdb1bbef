"""Adapters that several machines share: here two banks and a store in memory, on disk or on S3."""

import io
import logging
import zipfile

import fsspec
import pytest

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.bank import Bank
from blockwise_lora.sweep.shared import SharedBank
from blockwise_lora.sweep.training import train_missing

MASKS = ("mid", "out3")


@pytest.fixture(params=["memory", "file", "s3"])
def shared(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("bucket")
        return SharedBank("s3://bucket/adapters")
    if request.param == "file":
        return SharedBank(f"file://{tmp_path.as_posix()}/shared")
    fsspec.filesystem("memory").store.clear()
    return SharedBank("memory://shared/adapters/")


def train(base, lesson, bank, masks=MASKS) -> list[str]:
    """Masks that had to be trained."""
    came = []
    on_trained = lambda entry: came.append(entry.mask)  # noqa: E731
    assert not train_missing(base, lesson, masks, bank, at_once=2, on_trained=on_trained)
    return sorted(came)


def test_what_one_machine_trained_another_finds(shared, base, lesson, tmp_path):
    one, other = Bank(tmp_path / "one", shared), Bank(tmp_path / "other", shared)
    assert train(base, lesson, one) == ["mid", "out3"]
    assert train(base, lesson, other, (*MASKS, "in0")) == ["in0"]
    for mask in MASKS:
        here, there = (bank.entry(base, lesson, mask) for bank in (one, other))
        assert here.read().sha256 == there.read().sha256
        assert (here.losses, here.cost) == (there.losses, there.cost)
    system, root = fsspec.core.url_to_fs(shared.address)
    assert all(path.endswith(".zip") for path in system.find(root)), "no part is left"


def test_what_is_damaged_or_something_else_is_trained_anew(shared, base, lesson, tmp_path, caplog):
    one = Bank(tmp_path / "one", shared)
    train(base, lesson, one)
    mid, out3 = (one.entry(base, lesson, mask) for mask in MASKS)
    shared.put(mid.place, shared.get(out3.place))  # a name that tells another thing
    system, root = fsspec.core.url_to_fs(shared.address)
    system.pipe_file(f"{root.rstrip('/')}/{out3.place}.zip", b"PK\x03\x04half")
    with caplog.at_level(logging.WARNING):
        assert train(base, lesson, Bank(tmp_path / "other", shared)) == ["mid", "out3"]
    assert "made otherwise than its name says" in caplog.text and "is damaged" in caplog.text
    assert train(base, lesson, Bank(tmp_path / "third", shared)) == [], "both are mended"


def test_nothing_leads_out_and_nothing_grows(shared, base, lesson, tmp_path):
    entry = Bank(tmp_path / "one", shared).entry(base, lesson, "mid")
    shared.put(entry.place, {"../../evil": b""})
    assert not Bank(tmp_path / "one", shared).fetched(entry)
    assert not list(tmp_path.rglob("evil")) and not entry.trained
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cost.json", b"0" * 1_000_000)
    system, root = fsspec.core.url_to_fs(shared.address)
    system.pipe_file(f"{root.rstrip('/')}/{entry.place}.zip", bomb.getvalue())
    assert shared.get(entry.place) is None


def test_an_address_that_cannot_be_read_is_told_before_anything_is_trained(base, lesson, tmp_path):
    bank = Bank(tmp_path / "bank", SharedBank("nowhere://bucket"))
    with pytest.raises(UserError, match=r"sweep\.shared_bank: nowhere://bucket cannot be read"):
        train(base, lesson, bank)
    assert not bank.entry(base, lesson, "mid").trained


def test_an_address_that_cannot_be_written_to_costs_a_warning(
    base, lesson, tmp_path, monkeypatch, caplog
):
    shared = SharedBank("memory://full")
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "pipe_file", _full)
    bank = Bank(tmp_path / "bank", shared)
    with caplog.at_level(logging.WARNING):
        assert train(base, lesson, bank, ("mid",)) == ["mid"]
    assert bank.entry(base, lesson, "mid").trained
    assert "memory://full cannot be written to (no space)" in caplog.text


def _full(*arguments, **options):
    raise OSError("no space")
