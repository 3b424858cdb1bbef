"""What happens around the nodes: parameters are checked before, results are recorded after."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines

from blockwise_lora.errors import UserError
from blockwise_lora.parameters import typed
from blockwise_lora.pipelines.training.recipes import CONCEPTS, check_masks, resolve
from blockwise_lora.recording import RECORDED, Recorder, set_live
from blockwise_lora.tracking import Tracker, TrackingConfig, invocation_name

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

    from blockwise_lora.blocks import BlockMap

TRACKING = "tracking"
"""The one group of parameters that hooks read, and no node."""

logger = logging.getLogger(__name__)


class ParameterHooks:
    """Refuse `--params` that nothing would read, before anything is loaded."""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Keep what only the context knows: what was given on the command line."""
        self._loader = context.config_loader

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Check the overrides against what is read, and against each other.

        Not sooner, since Kedro has read the parameters by now, which takes a tenth of a start.

        Raises:
            UserError: a name that nothing reads, a variant that is not defined, or one whose
                results would go to another one's folders.
        """
        self._parameters = parameters["parameters"]
        given = dict(self._loader.runtime_params or {})
        check_overrides(given, parameters_read(pipelines), self._parameters.get("variants", {}))
        check_variant(self._parameters, given, self._loader["globals"])

    @hook_impl(tryfirst=True)  # what is refused leaves no record
    def before_pipeline_run(self, pipeline: Any) -> None:
        """Check masks and methods before curation begins, where the run is to train.

        The base model is known by its configurations; its weights are not touched.

        Raises:
            UserError: as `resolve` and `check_masks`, or there is no such base model.
        """
        if not any(name.endswith(".adapter") for name in pipeline.all_outputs()):
            return
        names = ("variant", "variants", "training", "seed")
        groups = {name: self._parameters[name] for name in names}
        recipes = {
            concept: resolve(concept, concept=self._parameters[concept], **groups)
            for concept in CONCEPTS
        }
        check_masks(_blocks(self._parameters["base_model"]), recipes)


def _blocks(base_model: Mapping[str, Any]) -> BlockMap:
    from blockwise_lora.diffusion.base import BaseModelConfig
    from blockwise_lora.diffusion.skeleton import skeleton

    config = typed(BaseModelConfig, base_model, "base_model")
    return skeleton(config.config or config.source).blocks


def parameters_read(pipelines: Mapping[str, Pipeline]) -> set[str]:
    """Names of the parameters, or of their groups, that some node or hook reads.

    Args:
        pipelines: all of the project's.
    """
    inputs = {name for pipeline in pipelines.values() for name in pipeline.inputs()}
    nodes = {x.removeprefix("params:").split(".")[0] for x in inputs if x.startswith("params:")}
    return nodes | {TRACKING}


def check_overrides(given: Mapping[str, Any], known: set[str], variants: Collection[str]) -> None:
    """Check the names in `--params`.

    Kedro takes any name, so that `--params charcter.blocks=...` would change nothing and say
    nothing. Names further down are checked by the node that turns a group into its dataclass.

    Args:
        given: what `--params` set, nested.
        known: the names that something reads.
        variants: names of those that are defined.

    Raises:
        UserError: listing each unknown name with the nearest known one.
    """
    lines = [
        f"--params {name}: unknown parameter{_near(name, known)}"
        for name in given
        if name not in known
    ]
    variant = given.get("variant")
    if variant is not None and variant not in variants:
        lines.append(
            f"--params variant={variant}: not among {', '.join(variants)}; define it under "
            "`variants` in conf/base/parameters_variants.yml"
        )
    if lines:
        raise UserError("\n".join(lines))


def check_variant(
    parameters: dict[str, Any], given: dict[str, Any], everywhere: dict[str, Any]
) -> None:
    """Check that the variant which is trained is the one that folders are named after.

    Args:
        parameters: all of them.
        given: what `--params` set.
        everywhere: Kedro's globals, which the catalog reads.

    Raises:
        UserError: a parameters file names another variant, which the catalog does not know of.
    """
    named = given.get("variant", everywhere["variant"])
    trained = parameters.get("variant", named)
    if trained != named:
        raise UserError(
            f"variant: a parameters file says {trained!r}, but results would go to the folders of "
            f"{named!r}. Set `variant` in globals.yml instead, or by --params variant={trained}."
        )


def _near(name: str, choices: Collection[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(choices))}"


def _never_fatal(method: Callable[..., None]) -> Callable[..., None]:
    """A failure to record costs a warning and the rest of the record, never the run."""

    @wraps(method)
    def guarded(self: TrackingHooks, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            logger.warning(
                "MLflow does not record this run: %s. The results are not touched by this; to do "
                "without MLflow, set tracking.enabled: false.",
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )
            logger.debug("while recording", exc_info=True)
            self.recorder = None

    return guarded


class TrackingHooks:
    """Record what the nodes save, as soon as it is saved."""

    recorder: Recorder | None = None

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Keep what only the context knows: the project's folder."""
        self._project = Path(context.project_path)

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Keep the parameters, which Kedro has read by now."""
        self._parameters = parameters["parameters"]

    # The arguments' names are how pluggy knows which ones to pass, also through the guard.
    @hook_impl
    def before_pipeline_run(self, run_params: dict, pipeline: Any, catalog: Any) -> None:
        """Begin or resume the variant's run, where there will be something to record."""
        self.recorder = None
        config = typed(TrackingConfig, self._parameters.get(TRACKING), TRACKING)
        names = pipeline.all_outputs()
        if config.enabled and any(name.split(".")[-1] in RECORDED for name in names):
            self._begin(config, names, catalog)

    @_never_fatal
    def _begin(self, config: TrackingConfig, names: set[str], catalog: Any) -> None:
        tracker = Tracker(self._project, config.experiment, invocation_name())
        self.recorder = Recorder(tracker, catalog, self._parameters, self._project)
        self.recorder.begin(names)
        set_live(self.recorder)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Record one result."""
        if self.recorder:
            self._record(dataset_name, data)

    @_never_fatal
    def _record(self, dataset_name: str, data: Any) -> None:
        self.recorder.record(dataset_name, data)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the runs."""
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """End the runs as failed."""
        self._end("FAILED")

    @_never_fatal
    def _end(self, status: str) -> None:
        set_live(None)
        if self.recorder:
            self.recorder.end(status)
            self.recorder = None
