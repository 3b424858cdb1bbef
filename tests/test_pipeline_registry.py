from blockwise_lora.pipeline_registry import DEFAULT, PIPELINES, register_pipelines


def test_every_pipeline_has_nodes_and_the_default_is_the_whole_job():
    pipelines = register_pipelines()
    assert set(pipelines) == {*PIPELINES, "training_in_one_pass", "search", "__default__"}
    assert all(pipeline.nodes for pipeline in pipelines.values())
    names = {node.name for name in DEFAULT for node in pipelines[name].nodes}
    assert {node.name for node in pipelines["__default__"].nodes} == names


def test_the_default_job_needs_nothing_but_parameters_and_files():
    produced = register_pipelines()["__default__"].all_outputs()
    assert {"character.adapter", "style.adapter", "samples", "evaluation", "grid"} <= produced
