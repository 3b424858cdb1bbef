import base64
import io

import pytest
from kedro.io import DatasetError
from kedro_viz.models.flowchart.node_metadata import DataNodeMetadata
from PIL import Image

from blockwise_lora.atomic import WriteError
from blockwise_lora.datasets.picture import PictureDataset

RED = Image.new("RGB", (40, 20), (200, 0, 0))


def test_a_picture_comes_back_as_it_was(tmp_path):
    dataset = PictureDataset(filepath=str(tmp_path / "deep" / "grid.png"))
    assert not dataset.exists()
    dataset.save(RED)
    assert dataset.exists()
    assert dataset.load().tobytes() == RED.tobytes()


def test_the_preview_is_a_picture_that_kedro_viz_knows_by_its_type(tmp_path):
    dataset = PictureDataset(filepath=str(tmp_path / "grid.png"))
    dataset.save(RED)
    with Image.open(io.BytesIO(base64.b64decode(dataset.preview(longest=10)))) as preview:
        assert preview.size == (10, 5)
    assert PictureDataset.preview.__annotations__["return"].__name__ == "ImagePreview"
    assert "preview" in DataNodeMetadata.model_fields


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "grid.png"
    PictureDataset(filepath=str(path)).save(RED)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"grid\.png cannot be read"):
        PictureDataset(filepath=str(path)).load()


def test_an_unwritable_place_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((WriteError, DatasetError)) as caught:
        PictureDataset(filepath=str(tmp_path / "file" / "grid.png")).save(RED)
    assert "file stands where a folder is needed" in str(caught.value)
