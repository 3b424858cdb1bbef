import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from blockwise_lora.tracking import (
    Tracker,
    flatten,
    invocation_name,
    parameter_name,
    store_folder,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """One store for all tests here: making its tables takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tracker(project: Path, invocation: str) -> Tracker:
    return Tracker(project, "experiment", invocation)


def test_flatten():
    nested = {"character": {"blocks": "all", "more": {}}, "seed": 0, "prompts": [{"text": "a"}]}
    flat = {"character.blocks": "all", "character.more": {}, "seed": 0, "prompts": [{"text": "a"}]}
    assert flatten(nested) == flat


def test_the_store_is_the_projects_even_in_a_copy_that_dvc_made(tmp_path):
    assert store_folder(tmp_path) == tmp_path / "mlruns"
    assert store_folder(tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc") == tmp_path / "mlruns"


def test_the_uri_is_absolute_and_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"sqlite:///{(tmp_path / 'mlruns' / 'mlflow.db').as_posix()}"
    assert Tracker(Path(), "e", "i").uri == expected
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert Tracker(Path(), "e", "i").uri == "http://127.0.0.1:1"


def test_invocation(monkeypatch):
    monkeypatch.setenv("BLOCKWISE_LORA_INVOCATION", "make run 1")
    assert invocation_name() == "make run 1"
    monkeypatch.delenv("BLOCKWISE_LORA_INVOCATION")
    assert invocation_name().startswith("kedro run ")


def test_a_variant_s_record(project, tmp_path):
    record = tracker(project, "it's one")
    run = record.start("lora", {"mask.character": "all+in0:0"})
    record.log_parameters(run, {"character.rank": 8, **{f"p{i}": i for i in range(150)}})
    record.log_parameters(run, {"character.rank": 16, "seed": 1})  # MLflow would refuse a change
    record.log_series(run, "character.loss", [(step, 1 / (step + 1)) for step in range(1200)])
    record.log_scores(run, {"both.identity": 0.5})
    (tmp_path / "grid.png").write_bytes(b"png")
    record.log_path(run, tmp_path / "grid.png", "comparison")
    record.log_path(run, tmp_path, "samples")
    record.close()

    seen = record.client.get_run(run)
    assert seen.info.status == "FINISHED"
    assert seen.data.tags["mask.character"] == "all+in0:0"
    assert seen.data.tags["mlflow.parentRunId"] == record.parent
    assert seen.data.params["character.rank"] == "8"
    assert seen.data.params["seed"] == "1"
    assert seen.data.params["p149"] == "149"
    assert seen.data.metrics["both.identity"] == 0.5
    curve = record.client.get_metric_history(run, "character.loss")
    assert len(curve) == 1200
    assert [a.path for a in record.client.list_artifacts(run)] == ["comparison", "samples"]
    assert record.client.get_run(record.parent).data.tags["invocation"] == "its one"


def test_any_name_of_a_parameter_is_recorded(project):
    synonyms = {"saber_(fate)": "saber", "saber_[fate]": "lily", ":/": "smirk", "жа ñ": "plain"}
    synonyms["x" * 300] = "long"
    record = tracker(project, "names")
    run = record.start("lora", {})
    for _ in range(2):  # a run that is gone on with has them already
        record.log_parameters(run, flatten({"synonyms": synonyms, "seed": 1}))
    record.close()
    known = record.client.get_run(run).data.params
    assert sorted(known.values()) == sorted([*synonyms.values(), "1"])
    assert known["seed"] == "1" and known["synonyms.жа ñ"] == "plain"
    assert known[parameter_name("synonyms.saber_(fate)")] == "saber"
    assert parameter_name("synonyms.saber_(fate)").startswith("synonyms.saber__fate_ ")


def test_a_picture_is_an_artifact_and_in_the_chart_once_however_often_it_is_recorded(project):
    record = tracker(project, "pictures")
    run = record.start("mid", {})
    for colour in ("red", "blue"):
        record.log_picture(run, Image.new("RGB", (8, 8), colour), "samples")
    charted = [file.path for file in record.client.list_artifacts(run, "images")]
    assert len([path for path in charted if path.endswith(".png")]) == 1
    assert "images/samples" in charted[0]
    with Image.open(record.client.download_artifacts(run, "samples.png")) as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 255)
    record.close()


def test_runs_of_one_invocation_share_a_parent(project):
    first, second, other = (tracker(project, name) for name in ("two", "two", "three"))
    assert first.parent == second.parent != other.parent


def test_a_run_joins_an_invocation_that_has_others_already(project, tmp_path):
    first, second = Tracker(project, "test", "first"), Tracker(project, "test", "second")
    run, parent = first.start("lora", {}), second.parent
    second.start("locon", {})
    second.rejoin(run)
    assert second.parent == parent and second.knows(first.parent)
    assert second.find("lora", {}, here=True) == run


def test_an_invocation_with_a_picture_is_not_discarded(project, tmp_path):
    first, second = Tracker(project, "test", "first"), Tracker(project, "test", "second")
    run, parent = first.start("lora", {}), second.parent
    (tmp_path / "sheet.png").write_bytes(b"x")
    second.log_path(parent, tmp_path / "sheet.png", "curation")
    second.rejoin(run)
    assert second.knows(parent) and second.find("lora", {}, here=True) == run


def test_find_is_by_all_tags_and_takes_the_newest(project):
    one, two = tracker(project, "four"), tracker(project, "five")
    one.start("locon", {"adapter.style.sha256": "a"})
    newest = two.start("locon", {"adapter.style.sha256": "a"})
    assert one.find("locon", {"adapter.style.sha256": "a"}) == newest
    assert one.find("locon", {"adapter.style.sha256": "a"}, here=True) != newest
    assert one.find("locon", {"adapter.style.sha256": "b"}) is None
    assert one.find("own", {}) is None


def test_processes_that_start_at_once_make_one_sound_store(tmp_path):
    code = (
        "from pathlib import Path; from blockwise_lora.tracking import Tracker;"
        f"t = Tracker(Path({str(tmp_path)!r}), 'e', 'together');"
        "t.start('lora', {}); t.close(); print(t.parent)"
    )
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    parents = {process.communicate(timeout=120)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(parents) == 1
    record = tracker(tmp_path, "later")
    (experiment,) = record.client.search_experiments(filter_string="name = 'e'")
    assert len(record.client.search_runs([experiment.experiment_id])) == 3


def test_a_process_that_ends_early_leaves_no_run_open(project):
    code = (
        "from pathlib import Path; from blockwise_lora.tracking import Tracker;"
        f"print(Tracker(Path({str(project)!r}), 'experiment', 'six').start('lora', {{}}));"
        "raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    run = done.stdout.strip()
    assert tracker(project, "six").client.get_run(run).info.status == "KILLED"


def test_a_server_that_died_costs_a_warning_at_the_end_and_no_traceback(project):
    code = (
        "from pathlib import Path; from blockwise_lora.tracking import Tracker;"
        f"t = Tracker(Path({str(project)!r}), 'experiment', 'seven'); t.start('lora', {{}});"
        "t.client = None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "runs of seven stay marked as running" in done.stderr
    assert "Traceback" not in done.stderr
