import logging
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.parameters import ParameterError
from blockwise_lora.pipelines.curation import create_pipeline, nodes

ROOT = Path(__file__).parents[3]
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
        "params:captioning": {},
        "params:output": {},
        "params:base_model": {"source": str(ROOT / "data" / "06_models" / "base")},
        "params:device": "cpu",
    }
    catalog = DataCatalog({k: MemoryDataset(v) for k, v in parameters.items()})
    with caplog.at_level(logging.INFO):
        outputs = SequentialRunner().run(create_pipeline(), catalog)
    made = {name: dataset.load() for name, dataset in outputs.items()}
    assert set(made) == {
        f"{concept}.{name}"
        for concept in ("character", "style")
        for name in (
            *("curation_report", "curation_table", "caption_table"),
            *("contact_sheet", "histograms", "duplicates"),
        )
    }
    assert made["character.curation_report"]["reasons"] == {"not an image": 1}
    table = made["style.curation_table"]
    assert table["caption"].tolist() == ["qwo style, car, automobile", "qwo style"]
    assert table["status"].tolist() == ["kept", "kept"]
    captions = made["style.caption_table"]
    assert captions["after"].tolist() == ["qwo style, car, automobile", "qwo style"]
    assert captions["before"].tolist() == ["car, automobile", ""]
    # Start, letters of the unknown word q-w-o, "style", comma, "car", comma, "automobile", end.
    assert captions["tokens"].tolist()[0] > captions["tokens"].tolist()[1] > 3
    assert made["character.contact_sheet"].width > 500
    assert "1 dropped (1 not an image); curation_table.csv says which and why" in caplog.text


def test_the_curated_sets_are_what_other_pipelines_read():
    outputs = create_pipeline().all_outputs()
    assert {"character.curated", "style.curated"} <= outputs
    inputs = create_pipeline().inputs()
    shared = ("character", "style", "curation", "captioning", "output", "base_model", "device")
    assert inputs == {f"params:{name}" for name in shared}


def test_a_misspelt_parameter_is_named_with_its_concept(folders):
    concept = CAT | {"pictures": str(folders / "cat"), "blok": "out1"}
    with pytest.raises(ParameterError, match=r"character\.blok: unknown .* did you mean 'blocks'"):
        nodes.screen_pictures(concept, {}, {}, where="character")
    concept = CAT | {"pictures": str(folders / "cat"), "caption_template": "{triger}"}
    with pytest.raises(ParameterError, match=r"character: caption_template has \{triger\}"):
        nodes.screen_pictures(concept, {}, {}, where="character")
    with pytest.raises(ParameterError, match=r"curation\.resolutoin"):
        nodes.screen_pictures(CAT | {"pictures": "x"}, {"resolutoin": 64}, {})
    with pytest.raises(ParameterError, match=r"captioning\.tags\.oder: .* did you mean 'order'"):
        nodes.screen_pictures(CAT | {"pictures": "x"}, {}, {"tags": {"oder": "kept"}})


def test_a_missing_folder_is_named():
    with pytest.raises(ImageSetError, match="nowhere: no such folder"):
        nodes.screen_pictures(CAT | {"pictures": "nowhere"}, {}, {})


@pytest.mark.parametrize(
    ("source", "most", "tokens"),
    [(str(ROOT / "data" / "06_models" / "base"), 32, None), ("some/model", 77, 4)],
)
def test_the_limit_is_the_base_models(source, most, tokens):
    limit = nodes.text_limit(source)
    assert limit.most == most
    assert limit.count("") == 2
    if tokens:
        assert limit.count("a cat") == tokens  # two words that CLIP's vocabulary has


def test_a_caption_that_is_too_long_is_named(folders, caplog):
    (folders / "cat" / "1.txt").write_text("cat face, " + "very " * 30 + "long")
    concept = CAT | {"pictures": str(folders / "cat")}
    screened = nodes.screen_pictures(concept, {}, {})
    base = {"source": str(ROOT / "data" / "06_models" / "base")}
    with caplog.at_level(logging.WARNING):
        _, report = nodes.caption_pictures(screened, screened, concept, {}, {}, base, "cpu")
    assert "1 captions have more tokens than the 32" in caplog.text
    assert "1.png (" in caplog.text
    assert nodes.tabulate_captions(report)["tokens"].max() > 32


def test_the_shipped_sets_keep_their_captions():
    """What the published figures were trained on; a change here needs new figures."""
    conf = {
        name: yaml.safe_load((ROOT / "conf" / "base" / f"parameters_{name}.yml").read_text("utf-8"))
        for name in ("data", "curation")
    }
    groups = {
        "curation": conf["curation"]["curation"],
        "captioning": conf["curation"]["captioning"],
    }
    concepts = {
        name: conf["data"][name] | {"pictures": str(ROOT / conf["data"][name]["pictures"])}
        for name in ("character", "style")
    }
    screened = {n: nodes.screen_pictures(c, **groups, where=n) for n, c in concepts.items()}
    base = {"source": str(ROOT / "data" / "06_models" / "base")}
    sets = {}
    for name, other in (("character", "style"), ("style", "character")):
        sets[name], report = nodes.caption_pictures(
            screened[name], screened[other], concepts[name], groups["captioning"], {}, base, "cpu"
        )
        assert f"Licence: {concepts[name]['licence']}." in sets[name].card
        own = [tag.tag for tag in report.captions.concept_tags if tag.own]
        assert own == {"character": ["cat face"], "style": []}[name]
    assert sets["character"].captions == (
        "zkc cat face, neutral",
        "zkc cat face, tears of joy",
        "zkc cat face, wry smile",
        "zkc cat face, grinning with smiling eyes",
        "zkc cat face, grinning",
        "zkc cat face, smiling with heart-eyes",
    )
    assert len(sets["style"]) == 48
    assert sets["style"].find("birthday-cake.png").caption == "qwo style, birthday cake"


def test_kohyas_layout_and_the_card_by_parameters(folders):
    concept = CAT | {"pictures": str(folders / "cat"), "licence": "CC0-1.0", "source": "me"}
    (folders / "cat" / "metadata.csv").write_text("file_name,license\n1.png,CC-BY-4.0\n")
    screened = nodes.screen_pictures(concept, {}, {})
    base = {"source": str(ROOT / "data" / "06_models" / "base")}
    layout = {"layout": "kohya", "repeats": 4}
    images, _ = nodes.caption_pictures(screened, screened, concept, {}, layout, base, "cpu", "cat")
    assert [p.file_name for p in images] == ["4_zkc cat face/0.png", "4_zkc cat face/1.png"]
    assert "# cat\n" in images.card
    assert "Source: me.\nLicence: CC0-1.0." in images.card
    assert "| CC-BY-4.0 | 1 |" in images.card
    with pytest.raises(ParameterError, match="output: repeats is at least 1"):
        nodes.caption_pictures(screened, screened, concept, {}, {"repeats": 0}, base, "cpu")
