import numpy as np
import pytest
from PIL import Image

from blockwise_lora.judges.samples import BASE, Question, References, Row, Sample
from blockwise_lora.report.columns import comparison_columns
from blockwise_lora.report.grid import Column, draw_grid


def flat(*colour: int, size: int = 64) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


def test_pictures_stand_in_their_row_and_column():
    columns = [
        Column("a", (flat(255, 0, 0), flat(0, 255, 0))),
        Column("b", (None, flat(0, 0, 255))),
    ]
    pixels = np.asarray(draw_grid(columns, ["one", "two"], tile=64)).astype(int)
    places = {
        name: np.argwhere((pixels == colour).all(-1)).mean(0)
        for name, colour in {"a1": (255, 0, 0), "a2": (0, 255, 0), "b2": (0, 0, 255)}.items()
    }
    assert places["a1"][1] == places["a2"][1] < places["b2"][1]
    assert places["a1"][0] < places["a2"][0] == places["b2"][0]


def test_small_pictures_are_enlarged_pixel_by_pixel():
    checker = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )
    pixels = np.asarray(draw_grid([Column("", (checker,))], [" x"], tile=128))
    body = pixels[-128 - 8 : -8]
    assert set(np.unique(body[60:70, -100:-40])) == {0, 255}


def test_large_and_oblong_pictures_fit_their_tile():
    grid = draw_grid([Column("a", (Image.new("RGB", (640, 320), "red"),))], ["x"], tile=64)
    rows = np.argwhere((np.asarray(grid) == (255, 0, 0)).all(-1))
    height, width = np.ptp(rows, axis=0) + 1
    assert (height, width) == (32, 64)


def test_long_labels_are_wrapped_and_cut_not_drawn_over_the_pictures():
    word = "Donaudampfschifffahrtsgesellschaft " * 12
    small = draw_grid([Column(word, (flat(9, 9, 9),), note=word)], [word], tile=96)
    assert small.width < 400
    assert colours(
        small.crop((small.width - 60, small.height - 60, small.width - 50, small.height - 50))
    ) == {(9, 9, 9)}


@pytest.mark.parametrize(
    ("columns", "rows"),
    [([], ["a"]), ([Column("a", ())], []), ([Column("a", (None,))], ["a", "b"])],
)
def test_a_grid_that_does_not_fit_together_is_refused(columns, rows):
    with pytest.raises(ValueError, match="grid"):
        draw_grid(columns, rows)


def sample(row: Row, prompt: int, seed: int, level: int) -> Sample:
    return Sample(row, prompt, seed, flat(level, level, level))


def comparison(truth: bool = True) -> list[Column]:
    samples = [
        sample(row, p, s, 10 * k + s)
        for k, row in enumerate(
            [
                Row(BASE),
                *(Row(v, c) for v in ("lora", "own") for c in ("character", "style", "both")),
            ]
        )
        for p in (0, 1)
        for s in (4, 3)
    ]
    questions = [Question("a", flat(99, 0, 0) if truth else None), Question("b")]
    references = References(tuple(flat(i, 0, 0) for i in range(5)), (flat(0, 1, 0),))
    return comparison_columns(samples, questions, references, {"lora": "plain LoRA"})


def test_columns_lead_from_what_was_learned_to_the_true_answer():
    assert [(c.title, c.note) for c in comparison()] == [
        ("Character's pictures", "learned from"),
        ("Style's pictures", "learned from"),
        ("Base model", "no adapter"),
        ("Character only", "plain LoRA"),
        ("Style only", "plain LoRA"),
        ("Both: plain LoRA", ""),
        ("Both: own", ""),
        ("True answer", "seen by no model"),
    ]


def test_without_true_pictures_their_column_is_gone():
    assert comparison(truth=False)[-1].title == "Both: own"


def test_every_row_shows_another_training_picture_and_the_first_seed():
    columns = comparison()
    assert columns[0].pictures[0] != columns[0].pictures[1]
    assert columns[2].pictures[0].getpixel((0, 0)) == (3, 3, 3)
    assert columns[-1].pictures[1] is None
