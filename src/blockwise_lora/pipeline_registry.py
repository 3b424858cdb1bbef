"""The project's pipelines, by name."""

import warnings
from importlib import import_module

from kedro.pipeline import Pipeline

# In the order in which data walks through them; the default job is all but pretraining.
DEFAULT = ("curation", "training", "combination", "evaluation")
PIPELINES = (*DEFAULT, "pretraining")


def register_pipelines() -> dict[str, Pipeline]:
    """Build every pipeline; `__default__` is the whole job of one variant."""
    # A node that brings both concepts together takes datasets of both namespaces: names with a dot.
    warnings.filterwarnings("ignore", "One or more dataset names contain '.'", UserWarning)
    pipelines = {}
    for name in PIPELINES:
        module = f"{__package__}.pipelines.{name}"
        try:
            pipelines[name] = import_module(module).create_pipeline()
        except ModuleNotFoundError as error:  # while the project is being built
            if error.name != module:
                raise
    pipelines["__default__"] = sum((pipelines[n] for n in DEFAULT if n in pipelines), Pipeline([]))
    return pipelines
