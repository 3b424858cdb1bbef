import numpy as np
import pytest
from PIL import Image

from blockwise_lora.errors import UserError
from blockwise_lora.judges.panel import JudgeConfig, Panel, fingerprint
from blockwise_lora.parameters import typed


@pytest.fixture(scope="module")
def panel(judge_folders) -> Panel:
    config = {"clip": str(judge_folders["clip"]), "dino": str(judge_folders["dino"])}
    return Panel.load(typed(JudgeConfig, config))


def test_equal_pictures_are_looked_at_once(panel, pictures):
    views = panel.look([*pictures, pictures[2].copy()])
    assert len(views.dino) == len(views.clip) == len(views.style) == 7
    assert views.of([pictures[2].copy(), pictures[0]]).tolist() == [2, 0]
    assert np.allclose(views.dino, panel.dino.images(pictures), atol=1e-5)


def test_a_fingerprint_is_of_what_is_seen():
    white = Image.new("RGB", (4, 4), "white")
    assert fingerprint(white) == fingerprint(Image.new("RGBA", (4, 4), (9, 9, 9, 0)))
    assert fingerprint(white) != fingerprint(Image.new("RGB", (4, 4), (255, 255, 254)))
    assert fingerprint(white) != fingerprint(Image.new("RGB", (8, 2), "white"))


def test_a_batch_of_none_is_refused():
    with pytest.raises(UserError, match="batch_size: must be at least 1"):
        typed(JudgeConfig, {"clip": "a", "dino": "b", "batch_size": 0})
