from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from blockwise_lora.recording import Live, Recorder, _numbers, hash_path
from blockwise_lora.tracking import Tracker

ROOT = Path(__file__).parents[1]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path):
    one = write(tmp_path / "one", a="1", b="2")
    assert hash_path(one) == hash_path(write(tmp_path / "two", b="2", a="1"))
    others = [
        write(tmp_path / "three", a="2", b="1"),
        write(tmp_path / "four", a="1", c="2"),
        write(tmp_path / "five", a="1"),
    ]
    assert len({hash_path(folder) for folder in [one, *others]}) == 4


def test_hidden_files_do_not_count(tmp_path):
    one = write(tmp_path / "one", a="1")
    before = hash_path(one)
    (one / ".gitignore").write_text("a")
    assert hash_path(one) == before
    assert hash_path(one / "a") != before


def test_scores_are_the_numbers_among_the_results():
    tree = {"both": {"identity": {"mean": 0.5, "low": 0.4}, "n": 4}, "note": "x", "won": True}
    assert _numbers(tree) == {"both.identity.mean": 0.5, "both.identity.low": 0.4, "both.n": 4.0}


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """A recorder of a training that has just begun, with a store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(tmp_path, "test", "first")
    made = Recorder(tracker, {}, {"variant": "lora"}, tmp_path)
    made._run = tracker.start("lora", {})
    yield made
    tracker.close()


def test_looks_are_recorded_when_they_are_taken(recorder):
    live = Live(recorder)
    live.look("style", 20, {"held_out_loss": 0.5}, [Image.new("RGB", (4, 4))])
    live.look("style", 40, {"held_out_loss": 0.25}, [])
    client, run = recorder._tracker.client, recorder.run
    curve = client.get_metric_history(run, "style.held_out_loss")
    assert [(m.step, m.value) for m in curve] == [(20, 0.5), (40, 0.25)]
    assert [a.path for a in client.list_artifacts(run, "looks/style")] == [
        "looks/style/000020-00.png"
    ]


def test_what_a_curation_counted_can_be_compared(recorder, tmp_path):
    file = tmp_path / "curation_report.json"
    file.write_text("{}")
    recorder._catalog["character.curation_report"] = SimpleNamespace(_filepath=file)
    report = {"in": 3, "kept": 2, "reasons": {"near-duplicate": 1}, "folder": "cats"}
    recorder.record("character.curation_report", report)
    parent = recorder._tracker.client.get_run(recorder._tracker.parent)
    assert parent.data.metrics == {
        "curation.character.in": 3,
        "curation.character.kept": 2,
        "curation.character.reasons.near-duplicate": 1,
    }


def test_a_resumed_training_goes_on_with_its_run(recorder, tmp_path):
    notes = Live(recorder).notes()
    assert notes == {"run": recorder.run}
    again = Tracker(tmp_path, "test", "second")
    later = Recorder(again, {}, {"variant": "lora"}, tmp_path)
    later._run = superfluous = again.start("lora", {})
    Live(later).resume(notes)
    assert later.run == recorder.run
    assert not again.knows(superfluous) and again.knows(later.run)
    assert again.parent == recorder._tracker.parent
    assert Tracker(tmp_path, "test", "second").parent == again.parent, "under its name from now on"
    later.end("FINISHED")
    assert again.client.get_run(later.run).info.status == "FINISHED"
    another = again.start("lora", {})
    later._run = another
    Live(later).resume({"run": superfluous})
    assert later.run == another, "an earlier run that was deleted is not gone on with"


def test_a_record_that_fails_costs_a_warning(recorder, caplog):
    recorder._tracker.log_series = None
    Live(recorder).look("style", 1, {"x": 1.0}, [])
    assert "The results are not touched" in caplog.text
    assert Live().notes() == {}
    Live().look("style", 1, {"x": 1.0}, [])
