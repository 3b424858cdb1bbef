import pytest

from blockwise_lora.imagesets.captioning import CaptioningConfig, CaptionRule
from blockwise_lora.parameters import ParameterError, typed

RULE = CaptionRule("zkc", "cat face")


def test_defaults_load_nothing(subject):
    def encoder(source):
        raise AssertionError(source)

    captioner = CaptioningConfig().captioner(RULE, encoder=encoder)
    assert [source.name for source in captioner.sources] == ["sidecar", "metadata", "template"]
    assert captioner.judge is None
    rows = captioner([subject("a", sidecar="cat face, grinning"), subject("b")]).rows
    assert [row.after for row in rows] == ["zkc cat face, grinning", "zkc cat face"]


def test_models_come_from_the_encoder_that_is_handed_in(tmp_path):
    (tmp_path / "tags.txt").write_text("a\nb\n")
    config = typed(
        CaptioningConfig,
        {
            "sources": ["file_name", "zero_shot", "template"],
            "template": "{class_word}, {folder}",
            "zero_shot": {"clip": "eye", "tags": str(tmp_path / "tags.txt")},
            "concept_tags": {"judge": "other eye"},
        },
        "captioning",
    )
    asked = []
    captioner = config.captioner(RULE, encoder=lambda source: asked.append(source) or source)
    names = [source.name for source in captioner.sources]
    assert names == ["file_name", "zero_shot", "template"]
    assert asked == ["eye"]
    assert captioner.sources[1].groups == (("a", "b"),)
    assert captioner.sources[2].text == "{class_word}, {folder}"
    assert captioner.judge() == "other eye"


def test_all_mistakes_at_once():
    wrong = {
        "sources": ["template", "sidecar", "sidecar"],
        "template": "{name}",
        "tags": {"order": "alphabetical"},
    }
    with pytest.raises(ParameterError, match=r"captioning\.tags\.order.*did you mean 'alphabet'"):
        typed(CaptioningConfig, wrong, "captioning")
    with pytest.raises(ParameterError) as caught:
        typed(CaptioningConfig, {k: wrong[k] for k in ("sources", "template")}, "captioning")
    for part in ("sidecar is there twice", "put it last", "template has {name}"):
        assert part in str(caught.value)
    with pytest.raises(ParameterError, match="name at least one"):
        typed(CaptioningConfig, {"sources": []}, "captioning")
    with pytest.raises(ParameterError, match=r"sources\[0\].*did you mean 'file_name'"):
        typed(CaptioningConfig, {"sources": ["filename"]}, "captioning")
