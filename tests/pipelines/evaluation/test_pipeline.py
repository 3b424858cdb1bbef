import json
from html import unescape

import pandas as pd
import pytest
from kedro.runner import SequentialRunner
from PIL import Image

from blockwise_lora.pipelines.evaluation import create_pipeline
from blockwise_lora.pipelines.evaluation.evidence import EvidenceError


def test_two_variants_end_in_scores_table_grid_and_report(project):
    SequentialRunner().run(create_pipeline(), project.catalog)
    reporting = project.data / "08_reporting"

    scores = json.loads((reporting / "evaluation.json").read_text())
    assert set(scores["variants"]) == {"lora", "own"}
    assert set(scores["variants"]["lora"]) == {"character", "style", "both"}
    assert {"real", "real-character", "base", "copy", "style-picture"} <= set(scores["anchors"])
    assert {p["row"] for p in scores["pictures"]} >= {"lora/both", "own/both", "base"}

    table = pd.read_csv(reporting / "evaluation.csv")
    both = table[(table.row == "own/both") & (table.score == "truth")]
    assert both["mean"].item() == scores["variants"]["own"]["both"]["truth"]["mean"]

    with Image.open(reporting / "grid.png") as grid:
        assert grid.width > 8 * 128
    page = unescape((reporting / "report.html").read_text(encoding="utf-8"))
    assert "plain LoRA" in page
    assert "locon is missing: it was not made yet" in page
    assert "kedro run --pipelines evaluation" in page
    # The style adapter was trained on other blocks than its variant says now.
    assert "--params variant=lora,style.blocks=out2-out3" in page
    assert "out2: rank 2" in page
    assert "out1: not trained" in page
    assert "steps 3" in page
    assert "data/07_model_output" not in page

    base = project.data / "07_model_output" / "base" / "metadata.jsonl"
    assert [json.loads(x)["prompt"] for x in base.read_text().splitlines()][::2] == [
        "cat face, sad",
        "cat face, glad",
    ]


def test_the_runs_own_variant_is_shown_or_named(project, caplog):
    """By itself where nothing that is compared was made; else one is told how to see it."""
    project.catalog["params:variant"] = "own"
    project.catalog["params:compare"] = ["locon"]
    SequentialRunner().run(create_pipeline(), project.catalog)
    scores = project.data / "08_reporting" / "evaluation.json"
    assert set(json.loads(scores.read_text())["variants"]) == {"own"}
    assert "own is not shown" not in caplog.text

    project.catalog["params:compare"] = ["lora"]
    SequentialRunner().run(create_pipeline(), project.catalog)
    assert set(json.loads(scores.read_text())["variants"]) == {"lora"}
    assert "own is not shown: add it to `compare`" in caplog.text


def test_an_adapter_that_was_trained_anew_needs_new_pictures(project):
    folder = project.data / "07_model_output" / "lora"
    origin = {"adapters": {"style": "0" * 64}, "combination": {}}
    (folder / "made_with.json").write_text(json.dumps(origin))
    with pytest.raises(EvidenceError, match="lora were made with another style adapter"):
        SequentialRunner().run(create_pipeline(), project.catalog)


def test_without_truths_their_column_and_rows_are_gone(project):
    project.catalog["params:truth"] = None
    SequentialRunner().run(create_pipeline(), project.catalog)
    scores = json.loads((project.data / "08_reporting" / "evaluation.json").read_text())
    assert "real" not in scores["anchors"]
    assert {"real-character", "real-style", "base", "copy"} <= set(scores["anchors"])
    assert "truth" not in scores["variants"]["lora"]["both"]
    assert "<th>truth" not in (project.data / "08_reporting" / "report.html").read_text()


def test_the_same_inputs_give_the_same_files(project):
    names = ("evaluation.json", "evaluation.csv", "grid.png", "report.html")
    project.catalog["params:compare"] = ["lora"]
    outcomes = []
    for _ in range(2):
        SequentialRunner().run(create_pipeline(), project.catalog)
        outcomes.append([(project.data / "08_reporting" / n).read_bytes() for n in names])
    assert outcomes[0] == outcomes[1]


def test_the_pipeline_has_no_dotted_names_outside_their_namespace():
    import warnings

    from kedro.pipeline.node import Node

    Node.__dotted_dataset_name_warned__ = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline = create_pipeline()
    assert {"evaluation", "evaluation_table", "report"} == pipeline.outputs()
    assert {"character.curated", "style.curated", "all_samples"} <= pipeline.inputs()
