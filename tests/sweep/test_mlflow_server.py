"""A sweep's records on a real MLflow server, started here on loopback."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.recording import Recorder
from blockwise_lora.sweep.records import MaskRecord
from blockwise_lora.tracking import Tracker


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Its address. It keeps runs in SQLite and artifacts in a folder of its own."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        )
        try:
            _wait(url, process, folder / "log")
            yield url
        finally:
            # The server's own workers are in its process group.
            os.killpg(process.pid, 15)
            process.wait(30)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def recorder(server, tmp_path, monkeypatch) -> Iterator[Recorder]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = Tracker(tmp_path, "sweeps", "one sweep")
    yield Recorder(tracker, {}, {}, tmp_path)
    tracker.close()


def record(folder: Path, mask: str, identity: float) -> MaskRecord:
    adapter = folder / mask
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter.safetensors").write_bytes(mask.encode())
    return MaskRecord(
        name=f"style: {mask}",
        key=f"key-of-{mask}",
        tags={"mask.style": mask, "study": "paper"},
        parameters={"style": {"rank_of": {"mid": 0, "out3": 8}, "method": "locon"}},
        scores={"identity": identity, "effect.identity": identity - 0.5},
        losses={"style": (0.5, 0.25, 0.125)},
        adapters={"style": adapter},
        sheet=Image.fromarray(np.full((4, 6, 3), 200, np.uint8)),
    )


def runs(recorder: Recorder) -> dict[str, object]:
    tracker = recorder._tracker
    found = tracker.client.search_runs([tracker.experiment], "tags.study = 'paper'")
    assert len({run.info.run_name for run in found}) == len(found), "no mask has two runs"
    return {run.info.run_name: run for run in found}


def test_every_mask_is_one_run_below_the_sweeps(recorder, server, tmp_path):
    tracker = recorder._tracker
    recorder.record("sweep_records", [record(tmp_path, m, i) for m, i in (("mid", 1), ("out3", 2))])
    first = runs(recorder)
    assert {"style: mid", "style: out3"} <= set(first) and tracker.uri == server
    run = first["style: mid"]
    assert run.data.tags["mlflow.parentRunId"] == tracker.parent
    assert run.data.params["style.rank_of.out3"] == "8"
    assert run.data.metrics["effect.identity"] == 0.5
    curve = tracker.client.get_metric_history(run.info.run_id, "style.loss")
    assert [(m.step, m.value) for m in curve] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    got = tracker.client.download_artifacts(run.info.run_id, "adapters/style", str(tmp_path))
    assert (Path(got) / "adapter.safetensors").read_bytes() == b"mid"
    got = tracker.client.download_artifacts(run.info.run_id, "samples.png", str(tmp_path))
    with Image.open(got) as sheet:
        assert sheet.size == (6, 4)


def test_a_second_writing_makes_no_second_run(recorder, tmp_path):
    recorder.record("sweep_records", [record(tmp_path, "out0", 1.0)])
    before = runs(recorder)
    recorder.record("sweep_records", [record(tmp_path, m, 3.0) for m in ("out0", "in0")])
    after = runs(recorder)
    assert set(after) == {*before, "style: in0"}
    one = after["style: out0"]
    assert one.info.run_id == before["style: out0"].info.run_id
    assert one.data.metrics["identity"] == 3.0, "the newest score is shown"
    curve = recorder._tracker.client.get_metric_history(one.info.run_id, "style.loss")
    assert len(curve) == 3, "the training happened once"
    recorder.end("FINISHED")
    assert {run.info.status for run in runs(recorder).values()} == {"FINISHED"}
