"""Which dataset leaves what in MLflow: parameters, curves, scores, pictures, adapters, hashes."""

import hashlib
import importlib.metadata
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from blockwise_lora.tracking import CONCEPTS, Tracker, flatten

logger = logging.getLogger(__name__)

# Last part of a dataset's name: `character.loss` and `style.loss` are treated alike.
VARIANT_RESULTS = ("adapter", "loss", "samples")
COMPARISON_RESULTS = ("evaluation", "evaluation_table", "grid", "report")
SWEEP_RECORDS = ("sweep_records", "search_records")
SWEEP_PAGES = ("sweep_report", "search_report", "sweep_figures", "search_figures")
CURATION_FIGURES = ("contact_sheet", "histograms", "duplicates", "curation_report")
RECORDED = (*CURATION_FIGURES, *VARIANT_RESULTS, *COMPARISON_RESULTS, *SWEEP_RECORDS, *SWEEP_PAGES)
LIBRARIES = ("blockwise-lora", "torch", "diffusers", "transformers", "peft", "kedro", "mlflow")


class Recorder:
    """Turns saved datasets into records of the variant's run or of the comparison."""

    def __init__(self, tracker: Tracker, catalog: Any, parameters: dict, project: Path):
        """Hold what a record is made of; nothing is written yet.

        Args:
            tracker: where the records go.
            catalog: Kedro's catalog, asked for the places of files only.
            parameters: the resolved parameters of the run.
            project: the project's folder.
        """
        self._tracker = tracker
        self._catalog = catalog
        self._parameters = parameters
        self._project = project
        self._variant = str(parameters.get("variant", "unnamed"))
        self._run: str | None = None

    def begin(self, outputs: set[str]) -> None:
        """Open the run: a new one to train, the trained one to combine, none to compare.

        Args:
            outputs: names of all datasets that the pipeline saves.
        """
        last_parts = {name.split(".")[-1] for name in outputs}
        if not last_parts.intersection(VARIANT_RESULTS):
            self._tracker.set_tags(self._tracker.parent, self._origin)
            return
        tags = self._adapter_tags(self._variant) if "adapter" not in last_parts else {}
        found = self._tracker.find(self._variant, tags, here=True) if tags else None
        if found:
            self._run = found
            self._tracker.resume(found)
        else:
            self._run = self._tracker.start(self._variant, tags | self._origin)
        self._tracker.log_parameters(self._run, flatten(self._relevant()))
        self._tracker.set_tags(self._run, self._input_tags())

    def record(self, name: str, data: Any) -> None:
        """Record a dataset that was just saved.

        Args:
            name: the dataset's name in the catalog.
            data: what was saved.
        """
        concept, _, kind = name.rpartition(".")
        path = self._path(name)
        if self._run and kind == "loss":
            for column in (c for c in data.columns if c != "step"):
                known = data[["step", column]].dropna()
                points = zip(known["step"], known[column], strict=True)
                self._tracker.log_series(self._run, f"{concept}.{column}", points)
        elif self._run and kind == "adapter" and path:
            self._tracker.set_tags(self._run, dict(_adapter_tags(path, concept)))
            self._tracker.log_path(self._run, path, f"adapters/{concept}")
        elif self._run and kind == "samples" and path:
            self._tracker.log_path(self._run, path, "samples")
        elif kind in CURATION_FIGURES and path:
            self._tracker.log_path(self._tracker.parent, path, f"curation/{concept}")
            if kind == "curation_report":
                counts = _numbers({f"curation.{concept}": data})
                self._tracker.log_scores(self._tracker.parent, counts)
        elif kind == "evaluation":
            self._record_scores(data)
        elif kind in SWEEP_RECORDS:
            for record in data:
                self._record_mask(record)
        elif kind in SWEEP_PAGES and path:
            self._tracker.log_path(self._tracker.parent, path, kind.replace("_", "/"))
        elif kind in COMPARISON_RESULTS and path:
            self._tracker.log_path(self._tracker.parent, path, "comparison")
            if kind == "grid":
                for run in self._compared().values():
                    self._tracker.log_path(run, path, "comparison")

    @property
    def run(self) -> str | None:
        """Id of the variant's run."""
        return self._run

    def adopt(self, run: str) -> None:
        """Go on with an earlier run, of which this one is the continuation, in place of this one's.

        Args:
            run: its id; nothing happens if that run is no longer there.
        """
        if self._run and run != self._run and self._tracker.knows(run):
            self._tracker.discard(self._run)
            self._run = run
            self._tracker.resume(run)
            self._tracker.rejoin(run)

    def look(
        self, concept: str, step: int, values: Mapping[str, float], pictures: Sequence[Any]
    ) -> None:
        """Record what was seen of an adapter while it trains."""
        if not self._run:
            return
        for name, value in values.items():
            self._tracker.log_series(self._run, f"{concept}.{name}", [(step, value)])
        with tempfile.TemporaryDirectory() as folder:
            for number, picture in enumerate(pictures):
                picture.save(Path(folder) / f"{step:06}-{number:02}.png")
            if pictures:
                self._tracker.log_path(self._run, Path(folder), f"looks/{concept}")

    def end(self, status: str) -> None:
        """Close the runs with MLflow's word for how it went."""
        self._tracker.close(status)

    def _compared(self) -> dict[str, str]:
        """Variant to the run that trained its adapters as they are now, whenever that was."""
        runs = {}
        for variant in self._parameters.get("compare", ()):
            tags = self._adapter_tags(variant)
            if tags:  # else it was never trained
                runs[variant] = self._tracker.find(variant, tags) or self._tracker.start(
                    variant, tags | self._origin | {"note": "trained without a record"}
                )
        return runs

    def _record_scores(self, evaluation: Mapping[str, Any]) -> None:
        for variant, run in self._compared().items():
            scores = _numbers(evaluation.get("variants", {}).get(variant, {}))
            self._tracker.log_scores(run, scores)

    def _record_mask(self, record: Any) -> None:
        """A sweep's `MaskRecord`: one run for the same adapters, however often they are scored."""
        found = self._tracker.find(record.name, {"sweep.key": record.key}, here=True)
        if found:
            run = found
            self._tracker.resume(run)
        else:
            tags = {**record.tags, "sweep.key": record.key}
            run = self._tracker.start(record.name, tags | self._origin)
            for concept, losses in record.losses.items():
                self._tracker.log_series(run, f"{concept}.loss", enumerate(losses, 1))
            for concept, folder in record.adapters.items():
                self._tracker.log_path(run, folder, f"adapters/{concept}")
        self._tracker.log_parameters(run, flatten(record.parameters))
        self._tracker.log_scores(run, record.scores)
        self._tracker.log_picture(run, record.sheet, "samples")

    def _relevant(self) -> dict[str, Any]:
        """The parameters of this run: without the other variants and without pretraining."""
        kept = {k: v for k, v in self._parameters.items() if k not in ("pretraining", "variants")}
        return kept | {"variants": {self._variant: self._parameters["variants"][self._variant]}}

    def _path(self, name: str) -> Path | None:
        """Where a dataset lies on disk; None for what is kept in memory."""
        dataset = self._catalog.get(name)
        path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        return Path(str(path)) if path and Path(str(path)).exists() else None

    def _adapter_tags(self, variant: str) -> dict[str, str]:
        """Tags of a variant's adapters on disk, which tell its run from its other runs."""
        tags: dict[str, str] = {}
        for concept in CONCEPTS:
            dataset = self._catalog.get(f"{concept}.adapter")
            own = Path(str(getattr(dataset, "_filepath", "")))
            # data/06_models/<variant>/<concept>: the same place with the other variant's name.
            tags |= dict(_adapter_tags(own.parents[1] / variant / concept, concept))
        return tags

    def _input_tags(self) -> dict[str, str]:
        """Hashes of what the adapters were made from."""
        tags = {}
        for concept in CONCEPTS:
            path = self._path(f"{concept}.curated")
            if path:
                tags[f"data.{concept}.sha256"] = hash_path(path)
        base = self._project / str(self._parameters.get("base_model", {}).get("source", ""))
        if base.exists() and base != self._project:
            tags["base_model.sha256"] = hash_path(base)
        return tags

    @cached_property
    def _origin(self) -> dict[str, str]:
        """The code's commit and the libraries' versions."""
        versions = {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}
        commit = _git(self._project, "rev-parse", "HEAD")
        changed = _git(self._project, "status", "--porcelain", "--untracked-files=no")
        origin = {"mlflow.source.git.commit": commit, "git.changed": str(bool(changed)).lower()}
        return versions | (origin if commit else {})


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents (hidden files left out)."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("[!.]*") if p.is_file()):
        total.update(f"{file.relative_to(path).as_posix()}\0{hash_path(file)}\n".encode())
    return total.hexdigest()


def _adapter_tags(folder: Path, concept: str) -> Iterator[tuple[str, str]]:
    from blockwise_lora.adapters import read_adapter

    if folder.exists():
        adapter = read_adapter(folder)
        yield f"mask.{concept}", adapter.spec.blocks
        yield f"adapter.{concept}.sha256", adapter.sha256


def _numbers(tree: Mapping[str, Any]) -> dict[str, float]:
    flat = flatten(tree)
    return {k: float(v) for k, v in flat.items() if type(v) in (int, float)}


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class Live:
    """What a node may record while it runs; a failure to do so costs a warning, never the run.

    Args:
        recorder: of the run under way; None: nothing is recorded.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    def look(
        self, concept: str, step: int, values: Mapping[str, float], pictures: Sequence[Any]
    ) -> None:
        """Record what was seen of an adapter."""
        self._guarded(lambda recorder: recorder.look(concept, step, values, pictures))

    def notes(self) -> dict[str, str]:
        """What a saved state has to know to go on with the record."""
        run = self._recorder.run if self._recorder else None
        return {"run": run} if run else {}

    def resume(self, notes: Mapping[str, str]) -> None:
        """Go on with the record that a saved state belongs to."""
        if "run" in notes:
            self._guarded(lambda recorder: recorder.adopt(notes["run"]))

    def _guarded(self, act: Callable[[Recorder], None]) -> None:
        if not self._recorder:
            return
        try:
            act(self._recorder)
        except Exception as error:
            first = (str(error) or type(error).__name__).splitlines()[0]
            logger.warning("MLflow does not record this: %s. The results are not touched.", first)


_live = Live()


def live() -> Live:
    """Of the Kedro run under way in this process, which its nodes cannot be handed otherwise."""
    return _live


def set_live(recorder: Recorder | None) -> None:
    """Called by the hooks around each run."""
    global _live
    _live = Live(recorder)
