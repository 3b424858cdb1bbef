import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from blockwise_lora.errors import UserError
from blockwise_lora.hooks import (
    ParameterHooks,
    TrackingHooks,
    check_overrides,
    parameters_read,
)
from blockwise_lora.pipeline_registry import register_pipelines
from blockwise_lora.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"
KNOWN, VARIANTS = {"character", "variant", "variants"}, ["lora", "locon"]


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_overrides_that_exist_pass():
    check_overrides({"character": {"blocks": "all"}, "variant": "locon"}, KNOWN, VARIANTS)


def test_every_wrong_override_is_named_with_a_remedy():
    with pytest.raises(UserError) as caught:
        check_overrides({"charcter": {"blocks": "all"}, "variant": "loca"}, KNOWN, VARIANTS)
    assert "charcter: unknown parameter; did you mean 'character'?" in str(caught.value)
    assert "variant=loca: not among lora, locon; define it" in str(caught.value)


def loader(**runtime) -> OmegaConfigLoader:
    return OmegaConfigLoader(
        conf_source=str(CONF), env="base", runtime_params=runtime, **CONFIG_LOADER_ARGS
    )


def begin(hook, tmp_path: Path, parameters: dict, **runtime) -> None:
    """Call a hook as Kedro does before a run."""
    hook.after_context_created(
        SimpleNamespace(config_loader=loader(**runtime), project_path=tmp_path)
    )
    hook.after_catalog_created({"parameters": parameters})


@pytest.fixture
def hook(monkeypatch) -> ParameterHooks:
    monkeypatch.setattr("blockwise_lora.hooks.pipelines", register_pipelines())
    return ParameterHooks()


def test_every_parameter_of_the_files_is_read_and_no_other():
    assert parameters_read(register_pipelines()) == set(loader()["parameters"])


def test_names_that_nothing_reads_are_refused(hook, tmp_path):
    begin(hook, tmp_path, {}, character={"blocks": "out1"}, seed=1, tracking={"enabled": False})
    with pytest.raises(UserError, match=r"--params sead: .*'seed'"):
        begin(hook, tmp_path, {"sead": 1}, sead=1)


def test_a_variant_that_folders_are_not_named_after_is_refused(hook, tmp_path):
    with pytest.raises(UserError, match=r"'lora', but .* folders of 'blockwise'. Set .*globals"):
        begin(hook, tmp_path, {"variant": "lora"})
    begin(hook, tmp_path, {"variant": "blockwise"})
    begin(hook, tmp_path, {"variant": "lora", "variants": {"lora": {}}}, variant="lora")


def training() -> Pipeline:
    return Pipeline([node(lambda: 1, None, "character.adapter", name="train")])


def parameters(blocks: str) -> dict:
    spec = {"method": "lora", "blocks": blocks, "rank": 2}
    concept = {"pictures": "x", "trigger": "zkc", "class_word": "cat"}
    return {
        "character": concept,
        "style": concept,
        "variant": "lora",
        "variants": {"lora": {"character": spec, "style": spec}},
        "training": {},
        "seed": 0,
        "base_model": {"source": str(CONF.parent / "data" / "06_models" / "base")},
    }


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ("all+inn0:0", r"character: mask 'all\+inn0:0', position 5"),
        ("out9", r"character.blocks: mask 'out9': this model has no block out9.* It has base, in0"),
        ("all+all:0", r"character.blocks: .*every block"),
    ],
)
def test_masks_are_checked_before_anything_runs(hook, tmp_path, monkeypatch, blocks, told):
    monkeypatch.setattr("safetensors.torch.load_file", None)  # no weights are wanted
    begin(hook, tmp_path, parameters(blocks), variant="lora")
    with pytest.raises(UserError, match=told):
        hook.before_pipeline_run(training())
    hook.before_pipeline_run(Pipeline([node(lambda: 1, None, "samples", name="other")]))


def test_masks_that_the_model_has_pass(hook, tmp_path):
    begin(hook, tmp_path, parameters("NOT in0"), variant="lora")
    hook.before_pipeline_run(training())


def test_a_base_model_that_is_not_there_is_told_before_anything_runs(hook, tmp_path):
    values = parameters("all") | {"base_model": {"source": str(tmp_path / "sd.safetensors")}}
    begin(hook, tmp_path, values, variant="lora")
    with pytest.raises(UserError, match=r"sd\.safetensors: no such file"):
        hook.before_pipeline_run(training())


def started(tmp_path: Path, pipeline: Pipeline, **tracking) -> TrackingHooks:
    hooks = TrackingHooks()
    parameters = {"tracking": tracking, "variant": "lora", "variants": {"lora": {"style": {}}}}
    begin(hooks, tmp_path, parameters)
    hooks.before_pipeline_run({}, pipeline, DataCatalog())
    return hooks


def test_nothing_is_recorded_when_told_so_or_for_other_pipelines(tmp_path):
    assert started(tmp_path, training(), enabled=False).recorder is None
    curation = Pipeline([node(lambda: 1, None, "character.curated", name="curate")])
    assert started(tmp_path, curation).recorder is None
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_had_costs_a_warning(tmp_path, caplog):
    (tmp_path / "mlruns").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger="blockwise_lora"):
        hooks = started(tmp_path, training())
    hooks.after_dataset_saved("character.adapter", 1)
    hooks.after_pipeline_run()
    assert "MLflow does not record this run" in caplog.text
    assert "tracking.enabled: false" in caplog.text


def test_a_failure_midway_costs_a_warning(tmp_path, caplog):
    hooks = started(tmp_path, training())
    assert hooks.recorder is not None
    hooks.after_dataset_saved("character.loss", "not a table")
    assert hooks.recorder is None
    assert "MLflow does not record this run" in caplog.text
    hooks.on_pipeline_error(RuntimeError())


def test_a_wrong_parameter_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"tracking\.enable: unknown parameter; did you mean"):
        started(tmp_path, training(), enable=True)
