"""The project's pipelines, by name."""

import warnings
from importlib import import_module

from kedro.pipeline import Pipeline

# In the order in which data walks through them; the default job is all but pretraining.
DEFAULT = ("curation", "training", "combination", "evaluation")
PIPELINES = (*DEFAULT, "sweep", "pretraining")


def register_pipelines() -> dict[str, Pipeline]:
    """Build every pipeline; `__default__` is the whole job of one variant."""
    # A node that brings both concepts together takes datasets of both namespaces: names with a dot.
    warnings.filterwarnings("ignore", "One or more dataset names contain '.'", UserWarning)
    pipelines = {
        name: import_module(f"{__package__}.pipelines.{name}").create_pipeline()
        for name in PIPELINES
    }
    one_pass = import_module(f"{__package__}.pipelines.training").create_one_pass()
    pipelines["training_in_one_pass"] = one_pass
    pipelines["search"] = import_module(f"{__package__}.pipelines.sweep").create_search()
    pipelines["__default__"] = sum((pipelines[name] for name in DEFAULT), Pipeline([]))
    return pipelines
