from dataclasses import replace

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


def test_pictures_that_are_known_are_not_looked_at_again(panel, pictures):
    known = panel.look(pictures[:4])
    marked = replace(known, dino=known.dino * 0 + 7)  # a second look would not see this
    views = panel.look([pictures[5], pictures[1], pictures[1], pictures[6]], marked)
    assert views.of([pictures[5], pictures[1], pictures[6]]).tolist() == [0, 1, 2]
    assert (views.dino[1] == 7).all() and len(views.dino) == len(views.clip) == 3
    assert np.allclose(views.style[1], known.style[1])
    fresh = panel.look(pictures[5:])
    assert np.allclose(views.clip[[0, 2]], fresh.clip, atol=1e-5)
    assert np.allclose(views.dino[[0, 2]], fresh.dino, atol=1e-5)
    again = panel.look([pictures[3], pictures[0]], marked)
    assert (again.dino == 7).all() and np.array_equal(again.clip, known.clip[[3, 0]])


def test_a_fingerprint_is_of_what_is_seen():
    white = Image.new("RGB", (4, 4), "white")
    assert fingerprint(white) == fingerprint(Image.new("RGBA", (4, 4), (9, 9, 9, 0)))
    assert fingerprint(white) != fingerprint(Image.new("RGB", (4, 4), (255, 255, 254)))
    assert fingerprint(white) != fingerprint(Image.new("RGB", (8, 2), "white"))


def test_a_batch_of_none_is_refused():
    with pytest.raises(UserError, match="batch_size: must be at least 1"):
        typed(JudgeConfig, {"clip": "a", "dino": "b", "batch_size": 0})
