import pytest
from kedro.io import DatasetError

from blockwise_lora.datasets.variants import VariantsDataset


@pytest.fixture
def losses(tmp_path) -> VariantsDataset:
    for variant in ("lora", "locon", ".archive"):
        (tmp_path / variant).mkdir()
        (tmp_path / variant / "style_loss.csv").write_text("step,loss\n1,0.5\n")
    (tmp_path / "lora" / "notes.txt").write_text("")
    return VariantsDataset(
        path=str(tmp_path), places="*/*_loss.csv", ending="_loss.csv", dataset="pandas.CSVDataset"
    )


def test_variants_are_found_by_their_places(losses):
    assert list(losses.load()) == ["locon/style", "lora/style"]


def test_each_is_loaded_when_it_is_asked_for(losses, tmp_path):
    found = losses.load()
    (tmp_path / "locon" / "style_loss.csv").unlink()
    assert found["lora/style"]().loss.tolist() == [0.5]
    with pytest.raises(DatasetError, match="locon"):
        found["locon/style"]()


def test_nothing_made_is_nothing_found(tmp_path):
    dataset = VariantsDataset(
        path=str(tmp_path / "none"), places="*/x.csv", dataset="pandas.CSVDataset"
    )
    assert dataset.load() == {}
    assert not dataset.exists()


def test_saving_checks_that_the_result_lies_where_it_is_looked_for(losses, tmp_path):
    losses.save("lora's own dataset has saved it")
    elsewhere = VariantsDataset(
        path=str(tmp_path / "none"), places="*/x.csv", dataset="pandas.CSVDataset"
    )
    with pytest.raises(DatasetError, match="correct the places in the catalog"):
        elsewhere.save("lost")


def test_options_of_the_inner_dataset_are_passed_on(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "x.csv").write_text("a;b\n1;2\n")
    inner = {"type": "pandas.CSVDataset", "load_args": {"sep": ";"}}
    dataset = VariantsDataset(path=str(tmp_path), places="*/x.csv", dataset=inner)
    assert dataset.load()["lora/x.csv"]().b.tolist() == [2]
