"""A record of every run in MLflow: one run a variant, under one parent an invocation.

An invocation is what the user started: a `make run`, which is several `kedro run`s, or a lone
`kedro run`. Only `MlflowClient` is used, so no run is ever "active" and none leaks into the next
session. mlflow itself is imported on first use: it costs seconds, and an untracked run none.
"""

import atexit
import logging
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CONCEPTS = ("character", "style")
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class TrackingConfig:
    """The parameter group `tracking`."""

    enabled: bool = True
    """False: nothing is recorded and mlflow is not imported."""
    experiment: str = "blockwise-lora"


def store_folder(project: Path) -> Path:
    """Where the default store lies: `mlruns` in the project.

    DVC runs queued and `--temp` experiments in a copy below `.dvc/tmp/exps`, which it removes;
    their records belong to the project that the copy was made of.
    """
    parts = project.absolute().parts
    for start in range(len(parts) - 3):
        if parts[start : start + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:start]) / "mlruns"
    return project.absolute() / "mlruns"


def invocation_name() -> str:
    """What the user started: set by `make run`, made up for a lone `kedro run`."""
    return os.environ.get("BLOCKWISE_LORA_INVOCATION") or time.strftime(
        f"kedro run %Y-%m-%d %H:%M:%S ({os.getpid()})"
    )


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters to dotted names, as `kedro run --params` takes them."""
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parameter_name(name: str) -> str:
    """A name that MLflow takes; one that it takes already stays as it is.

    It refuses most signs, `/` at the end, `:` on Windows and more than 250 characters, and with one
    name the whole record; tags such as `saber_(fate)` are names, too. The number at the end keeps
    apart what becomes equal.
    """
    plain = re.sub(r"[^\w.\- ]", "_", name)[:200]
    return name if plain == name else f"{plain} {zlib.crc32(name.encode()):08x}"


class Tracker:
    """The runs of one invocation in one experiment.

    Every method may raise whatever MLflow raises: the caller decides what a failure costs.
    """

    def __init__(self, project: Path, experiment: str, invocation: str):
        """Nothing is opened or written until the first use.

        Args:
            project: the Kedro project's folder.
            experiment: MLflow experiment, made if need be.
            invocation: name of the parent run; runs of the same name share it.
        """
        self._folder = store_folder(project)
        self._experiment_name = experiment
        self._invocation = invocation.replace("'", "")  # MLflow's filters know no escape for it
        self._open: set[str] = set()
        atexit.register(self._close_at_exit)

    @cached_property
    def client(self) -> Any:
        """An `MlflowClient` of MLFLOW_TRACKING_URI, or of the SQLite file in the project."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # MLflow's own 7 retries of 120 s would hold up the run for many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    @property
    def uri(self) -> str:
        """Absolute, since a relative SQLite address depends on the working directory."""
        given = os.environ.get("MLFLOW_TRACKING_URI")
        return given or f"sqlite:///{(self._folder / 'mlflow.db').as_posix()}"

    @property
    def _local(self) -> bool:
        return not os.environ.get("MLFLOW_TRACKING_URI")

    def _lock(self) -> Any:
        """Serialise first use: two processes that create one SQLite store corrupt it."""
        if not self._local:
            return nullcontext()
        from filelock import FileLock

        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / ".lock", timeout=120)

    @cached_property
    def experiment(self) -> str:
        """The experiment's id."""
        with self._lock():
            found = self.client.get_experiment_by_name(self._experiment_name)
            if found:
                return found.experiment_id
            # A server decides for itself where artifacts go.
            place = (self._folder / "artifacts").as_uri() if self._local else None
            return self.client.create_experiment(self._experiment_name, artifact_location=place)

    @cached_property
    def parent(self) -> str:
        """Id of the invocation's run, found or made."""
        experiment = self.experiment
        with self._lock():
            found = self._search({"invocation": self._invocation, "role": "invocation"})
            if found:
                run_id = found[0].info.run_id
                self.client.update_run(run_id, status="RUNNING")
            else:
                tags = {"invocation": self._invocation, "role": "invocation"}
                run = self.client.create_run(experiment, run_name=self._invocation, tags=tags)
                run_id = run.info.run_id
        self._open.add(run_id)
        return run_id

    def start(self, variant: str, tags: Mapping[str, str]) -> str:
        """Begin a variant's run under the invocation's. Returns its id."""
        tags = {**tags, "variant": variant, "role": "variant", PARENT_TAG: self.parent}
        run = self.client.create_run(self.experiment, run_name=variant, tags=tags)
        self._open.add(run.info.run_id)
        return run.info.run_id

    def find(self, variant: str, tags: Mapping[str, str], *, here: bool = False) -> str | None:
        """The newest run of a variant that bears all `tags` (such as its adapters' hashes).

        Args:
            variant: the variant's name.
            tags: further tags that must match.
            here: only among the runs of this invocation.
        """
        wanted = {**tags, "variant": variant, "role": "variant"}
        found = self._search(wanted | ({PARENT_TAG: self.parent} if here else {}))
        return found[0].info.run_id if found else None

    def knows(self, run_id: str) -> bool:
        """Whether a run is there, and not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def discard(self, run_id: str) -> None:
        """Delete a run that turned out to be the continuation of another one."""
        self._open.discard(run_id)
        self.client.delete_run(run_id)

    def rejoin(self, run_id: str) -> None:
        """Bring an earlier invocation's run together with this invocation.

        Where this one has left nothing yet, the earlier one goes on under its name, so that there
        is one record of the job and not one for each time that it was started.
        """
        earlier = self.client.get_run(run_id).data.tags.get(PARENT_TAG)
        if earlier == self.parent:
            return
        used = self._search({PARENT_TAG: self.parent}) or self.client.list_artifacts(self.parent)
        if used or not earlier or not self.knows(earlier):
            self.client.set_tag(run_id, PARENT_TAG, self.parent)
            return
        self.discard(self.parent)
        self.client.set_tag(earlier, "invocation", self._invocation)
        self.parent = earlier
        self.resume(earlier)

    def resume(self, run_id: str) -> None:
        """Mark a finished run as running again, until `close`."""
        self.client.update_run(run_id, status="RUNNING")
        self._open.add(run_id)

    def log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        """Record parameters; those that the run has already stay, MLflow allows no change."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        named = {parameter_name(name): value for name, value in parameters.items()}
        new = [Param(k, str(v)) for k, v in named.items() if k not in known]
        for start in range(0, len(new), 100):  # MLflow's limit for one call
            self.client.log_batch(run_id, params=new[start : start + 100])

    def log_series(self, run_id: str, name: str, points: Iterable[tuple[int, float]]) -> None:
        """Record a curve: (step, value) pairs."""
        self._log_values(run_id, ((name, step, value) for step, value in points))

    def log_scores(self, run_id: str, scores: Mapping[str, float]) -> None:
        """Record single values, all in one call: each call costs a transaction or a request."""
        self._log_values(run_id, ((name, 0, value) for name, value in scores.items()))

    def _log_values(self, run_id: str, values: Iterable[tuple[str, int, float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, int(step)) for name, step, value in values]
        for start in range(0, len(metrics), 1000):  # MLflow's limit for one call
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set or change tags."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def log_path(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Record a file, or a folder's content, as artifacts under `folder`."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    def log_picture(self, run_id: str, picture: Any, name: str) -> None:
        """Record a Pillow picture as an artifact, and for the chart that puts runs side by side."""
        self.client.log_image(run_id, picture, artifact_file=f"{name}.png")
        if not self.client.list_artifacts(run_id, "images"):  # MLflow would keep each one
            self.client.log_image(run_id, picture, key=name, step=0)

    def close(self, status: str = "FINISHED") -> None:
        """End the runs that are open. A second call does nothing."""
        while self._open:
            run_id = self._open.pop()
            self.client.set_terminated(run_id, status)

    def _close_at_exit(self) -> None:
        """End what a failure left open. Nobody is left to handle an error."""
        try:
            self.close("KILLED")
        except Exception as error:  # whatever MLflow raises, as the server is gone
            first = (str(error) or type(error).__name__).splitlines()[0]
            logger.warning(
                "MLflow: runs of %s stay marked as running: %s. The results are not touched.",
                self._invocation,
                first,
            )

    def _search(self, tags: Mapping[str, str]) -> list[Any]:
        clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        return list(
            self.client.search_runs(
                [self.experiment],
                " and ".join(clauses),
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
        )
