import logging

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.parameters import ParameterError
from blockwise_lora.pipelines.curation import create_pipeline, nodes

CAT = {"trigger": "zkc", "class_word": "cat face"}
STYLE = {"trigger": "qwo", "class_word": "style", "caption_template": "{trigger} style, {caption}"}


@pytest.fixture
def folders(tmp_path, request):
    for number, name in enumerate(("cat", "other")):
        (tmp_path / name).mkdir()
        for seed in range(2):
            colour = (200 * number, 100 * seed, 50)
            Image.new("RGB", (64, 64), colour).save(tmp_path / name / f"{seed}.png")
        (tmp_path / name / "0.txt").write_text("car, automobile")
    (tmp_path / "cat" / "broken.png").write_text("x")
    return tmp_path


def test_both_concepts_are_curated(folders, caplog):
    parameters = {
        "params:character": CAT | {"pictures": str(folders / "cat"), "blocks": "out1-out3"},
        "params:style": STYLE | {"pictures": str(folders / "other")},
        "params:curation": {"resolution": 32, "workers": 1},
    }
    catalog = DataCatalog({k: MemoryDataset(v) for k, v in parameters.items()})
    with caplog.at_level(logging.INFO):
        outputs = SequentialRunner().run(create_pipeline(), catalog)
    made = {name: dataset.load() for name, dataset in outputs.items()}
    assert set(made) == {
        f"{concept}.{name}"
        for concept in ("character", "style")
        for name in ("curation_report", "curation_table", "contact_sheet")
    }
    assert made["character.curation_report"]["reasons"] == {"not an image": 1}
    table = made["style.curation_table"]
    assert table["caption"].tolist() == ["qwo style, car, automobile", "qwo style"]
    assert table["status"].tolist() == ["kept", "kept"]
    assert made["character.contact_sheet"].width > 500
    assert "1 dropped (1 not an image); curation_table.csv says which and why" in caplog.text


def test_the_curated_sets_are_what_other_pipelines_read():
    outputs = create_pipeline().all_outputs()
    assert {"character.curated", "style.curated"} <= outputs
    inputs = create_pipeline().inputs()
    assert inputs == {"params:character", "params:style", "params:curation"}


def test_a_misspelt_parameter_is_named_with_its_concept(folders):
    concept = CAT | {"pictures": str(folders / "cat"), "blok": "out1"}
    with pytest.raises(ParameterError, match=r"character\.blok: unknown .* did you mean 'blocks'"):
        nodes.curate_pictures(concept, {}, where="character")
    concept = CAT | {"pictures": str(folders / "cat"), "caption_template": "{triger}"}
    with pytest.raises(ParameterError, match=r"character: caption_template has \{triger\}"):
        nodes.curate_pictures(concept, {}, where="character")
    with pytest.raises(ParameterError, match=r"curation\.resolutoin"):
        nodes.curate_pictures(CAT | {"pictures": "x"}, {"resolutoin": 64})


def test_a_missing_folder_is_named():
    with pytest.raises(ImageSetError, match="nowhere: no such folder"):
        nodes.curate_pictures(CAT | {"pictures": "nowhere"}, {})
