from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

CONF = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize("name", ["sweep_outcome", "search_outcome", "sweep_records"])
def test_what_the_nodes_hand_on_is_not_copied(name):
    loader = OmegaConfigLoader(str(CONF), base_env="base", default_run_env="base")
    catalog = DataCatalog.from_config(loader["catalog"])
    held = {"a map of blocks that was used": vars(int)}  # a read-only view, which has no copy
    catalog.save(name, held)
    assert catalog.load(name) is held
