import pytest
from kedro.io import DatasetError

from blockwise_lora.datasets.folder import FolderDataset


def test_the_folder_is_made_and_what_is_in_it_stays(tmp_path):
    dataset = FolderDataset(filepath=str(tmp_path / "a" / "b"))
    (dataset.load() / "kept").write_text("x")
    assert [p.name for p in dataset.load().iterdir()] == ["kept"]


def test_a_file_in_its_place_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DatasetError, match="taken"):
        FolderDataset(filepath=str(tmp_path / "taken" / "below")).load()


def test_nodes_write_themselves(tmp_path):
    with pytest.raises(DatasetError, match="themselves"):
        FolderDataset(filepath=str(tmp_path)).save(object())
