import os
import stat
from pathlib import Path

import pytest

from blockwise_lora import atomic
from blockwise_lora.atomic import WriteError, replace_folder, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_make_parents_and_keep_line_ends(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "é\r\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é\r\n".encode()
    assert names(tmp_path / "a") == ["b.txt"]


def test_files_are_readable_by_others_as_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*a: the disk is full: free some space"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_where_a_folder_is_needed(tmp_path):
    write_text(tmp_path / "a", "x")
    with pytest.raises(WriteError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "a" / "b", "y")
    stands = pytest.raises(WriteError, match="a file stands where a folder is needed")
    with stands, replace_folder(tmp_path / "a"):
        pass


def test_a_folder_where_a_file_is_needed(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError, match="a folder stands where a file is needed"):
        write_text(tmp_path / "a", "x")


def test_replace_folder_drops_what_was_there(tmp_path):
    target = tmp_path / "deep" / "set"
    for name in ("one", "two"):
        with replace_folder(target) as folder:
            (folder / name).write_text(name)
    assert names(target) == ["two"]
    assert names(tmp_path / "deep") == ["set"]


def test_replace_folder_keeps_the_old_one_on_an_error(tmp_path):
    target = tmp_path / "set"
    with replace_folder(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), replace_folder(target) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert names(target) == ["one"]
    assert names(tmp_path) == ["set"]


def test_errors_about_other_files_are_not_blamed_on_the_target(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(IsADirectoryError), replace_folder(tmp_path / "out" / "set"):
        (tmp_path / "elsewhere").read_bytes()
