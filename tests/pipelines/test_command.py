from blockwise_lora.pipelines.command import kedro_run


def test_a_command_line():
    assert kedro_run("") == "kedro run"
    assert kedro_run("", "curation,sweep") == "kedro run --pipelines curation,sweep"
    given = {"variant": "own", "style.alpha": None, "style.rank": 4}
    assert kedro_run("sd15", "training", given) == (
        "kedro run --env sd15 --pipelines training "
        "--params variant=own,style.alpha=null,style.rank=4"
    )
