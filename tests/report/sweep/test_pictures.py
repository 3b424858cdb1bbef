from dataclasses import replace

import numpy as np
from PIL import Image

from blockwise_lora.judges.samples import BASE, REAL_CHARACTER, REAL_STYLE, Row, Sample
from blockwise_lora.report.sweep.pictures import pair_sheet, picture_grid, thumbnails
from blockwise_lora.sweep.outcome import row_of
from blockwise_lora.sweep.studies import Pair
from invented_sweep import FULL, invented

PROMPTS = ("cat face, kissing", "cat face, weary")
BEST = Pair("mid", "out3")


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.asarray(picture).reshape(-1, 3)}


def picture_of(outcome, pair: Pair, prompt: int, seed: int) -> tuple[int, int, int]:
    """The invented pictures are of one colour each."""
    row = row_of(pair)
    (found,) = (
        s for s in outcome.judged.samples if (s.row, s.prompt, s.seed) == (row, prompt, seed)
    )
    return found.picture.getpixel((0, 0))


def test_the_grid_shows_the_pairs_it_is_given_in_every_place_and_no_other():
    outcome = invented()
    grid = picture_grid(outcome, PROMPTS, [BEST, FULL])
    for pair in (BEST, FULL):
        assert {picture_of(outcome, pair, p, s) for p in (0, 1) for s in (0, 1, 2)} <= colours(grid)
    assert picture_of(outcome, Pair("all+mid:0", "all"), 1, 2) not in colours(grid)
    swapped = picture_grid(outcome, PROMPTS, [FULL, BEST])
    assert grid.width == swapped.width and grid.tobytes() != swapped.tobytes()


def test_the_grid_begins_with_what_was_learned_from_and_the_base_model():
    outcome = invented()
    red, green, blue = (Image.new("RGB", (64, 64), c) for c in ("#ff0000", "#00ff00", "#0000ff"))
    samples = [
        Sample(Row(REAL_CHARACTER), 0, 0, red, prompted=False),
        Sample(Row(REAL_STYLE), 0, 0, green, prompted=False),
        *(Sample(Row(BASE), p, s, blue) for p in (0, 1) for s in (0, 1, 2)),
    ]
    judged = replace(outcome.judged, samples=(*outcome.judged.samples, *samples))
    plain = picture_grid(outcome, PROMPTS, [BEST])
    whole = picture_grid(replace(outcome, judged=judged), PROMPTS, [BEST])
    assert whole.width > plain.width + 3 * 128
    middle = np.asarray(whole)[-64]
    firsts = [int(np.argmax((middle == c).all(1))) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert 0 < firsts[0] < firsts[1] < firsts[2]


def test_a_sheet_has_one_pair_and_all_of_it():
    outcome = invented()
    sheet = pair_sheet(outcome, PROMPTS, BEST)
    own = {picture_of(outcome, BEST, p, s) for p in (0, 1) for s in (0, 1, 2)}
    assert own <= colours(sheet) and picture_of(outcome, FULL, 0, 2) not in colours(sheet)


def test_every_pair_has_a_thumbnail_of_the_first_place():
    outcome = invented()
    found = thumbnails(outcome)
    assert list(found) == list(outcome.trained)
    assert found[BEST].getpixel((0, 0)) == picture_of(outcome, BEST, 0, 0)
