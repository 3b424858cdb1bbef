import dataclasses

import pytest
import torch

from blockwise_lora.diffusion.config import CaptionConfig, NoiseConfig, TrainingConfig
from blockwise_lora.diffusion.draws import (
    choose,
    draw,
    draw_timesteps,
    generator_for,
    shelf_of,
)

CONFIG = TrainingConfig(batch_size=4)
SHAPE = (4, 2, 2)
TEN = torch.arange(10)  # the pictures of a pass


def test_a_draw_depends_on_seed_and_step_alone():
    torch.manual_seed(1)
    first = draw(CONFIG, 7, TEN, SHAPE, 1000)
    torch.randn(3)
    second = draw(CONFIG, 7, TEN, SHAPE, 1000)
    fields = [f.name for f in dataclasses.fields(first)]
    assert all(torch.equal(getattr(first, f), getattr(second, f)) for f in fields)
    assert not torch.equal(draw(CONFIG, 8, TEN, SHAPE, 1000).noise, first.noise)
    other = dataclasses.replace(CONFIG, seed=1)
    assert not torch.equal(draw(other, 7, TEN, SHAPE, 1000).noise, first.noise)
    assert not torch.equal(first.noise, first.latent_noise)


def test_every_picture_once_a_pass():
    rows = torch.cat([draw(CONFIG, step, torch.arange(6), SHAPE, 1000).rows for step in range(9)])
    for start in range(0, 36, 6):
        assert sorted(rows[start : start + 6].tolist()) == list(range(6))
    assert rows[:6].tolist() != rows[6:12].tolist(), "each pass in its own order"


def test_a_set_smaller_than_the_batch():
    rows = draw(CONFIG, 0, torch.arange(1), SHAPE, 1000).rows
    assert rows.tolist() == [0, 0, 0, 0]


def test_stratified_levels_cover_the_range_in_every_batch():
    for step in range(50):
        levels = draw(CONFIG, step, TEN, SHAPE, 1000).timesteps
        assert sorted((levels // 250).tolist()) == [0, 1, 2, 3]


def test_levels_are_uniform_either_way():
    for way in ("uniform", "stratified"):
        config = dataclasses.replace(CONFIG, noise=NoiseConfig(way))
        levels = torch.stack([draw(config, s, TEN, SHAPE, 1000).timesteps for s in range(800)])
        assert levels.min() >= 0 and levels.max() <= 999
        # The first place of a batch, too: no place has levels of its own.
        for drawn in (levels.float(), levels[:, 0].float()):
            assert abs(drawn.mean() - 499.5) < 35
            assert abs(drawn.std() - 288.7) < 20


def test_share_of_dropped_captions():
    config = dataclasses.replace(CONFIG, captions=CaptionConfig(0.25))
    dropped = torch.stack([draw(config, s, TEN, SHAPE, 1000).dropped for s in range(500)])
    assert abs(dropped.float().mean() - 0.25) < 0.04
    assert not draw(CONFIG, 0, TEN, SHAPE, 1000).dropped.any()


def test_noise_offset_moves_whole_channels():
    offset = dataclasses.replace(CONFIG, noise=NoiseConfig(offset=0.5))
    plain, moved = (draw(c, 3, TEN, SHAPE, 1000).noise for c in (CONFIG, offset))
    shift = moved - plain
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift))
    assert shift.abs().max() > 0.05


def test_purposes_have_generators_of_their_own():
    values = {torch.rand(1, generator=generator_for(0, *p)).item() for p in ((), ("a",), ("a", 1))}
    assert len(values) == 3


def test_pictures_that_are_repeated_come_as_often():
    order = torch.tensor([0, 0, 0, 1])
    rows = torch.cat([draw(CONFIG, turn, order, SHAPE, 1000).rows for turn in range(5)])
    assert rows.bincount().tolist() == [15, 5]
    assert sorted(rows[:4].tolist()) == [0, 0, 0, 1], "in every pass"


def test_draws_of_another_purpose_and_size():
    order = TEN
    main = draw(CONFIG, 3, order, SHAPE, 1000)
    other = draw(CONFIG, 3, order, SHAPE, 1000, purpose="prior", size=3)
    assert len(other.rows) == len(other.noise) == len(other.timesteps) == 3
    assert not torch.equal(main.noise[:3], other.noise)


def test_every_column_is_chosen_alike():
    table = torch.arange(6).view(2, 3)
    chance = torch.tensor([0.0, 0.34, 0.999])
    assert choose(table, torch.tensor([1, 1, 0]), chance).tolist() == [3, 4, 2]


def test_shelves_have_turns_by_their_pictures():
    counts = [8, 3, 4]  # batches of four: two, one and one in a cycle
    turns = [shelf_of(CONFIG, turn, counts) for turn in range(12)]
    for cycle in range(3):
        shelves = [shelf for shelf, _ in turns[4 * cycle : 4 * cycle + 4]]
        assert sorted(shelves) == [0, 0, 1, 2]
    assert [place for shelf, place in turns if shelf == 0] == list(range(6))
    assert [place for shelf, place in turns if shelf == 2] == list(range(3))
    orders = {tuple(s for s, _ in turns[4 * c : 4 * c + 4]) for c in range(3)}
    assert len(orders) > 1, "each cycle in its own order"
    assert [shelf_of(CONFIG, turn, [8]) for turn in range(3)] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("config", "mean", "std"),
    [
        (NoiseConfig("uniform"), 500, 288.7),
        (NoiseConfig("uniform", lowest=0.2, highest=0.6), 400, 115.5),
        (NoiseConfig("stratified", lowest=0.5), 750, 144.3),
        (NoiseConfig("cubic"), 750, 283.5),  # of 1 - u^3: 3/4 and sqrt(1/7 - 1/16)
        (NoiseConfig("logit_normal"), 500, 208.3),
        (NoiseConfig("logit_normal", logit_mean=1.0, logit_std=0.5), 722, 98),
    ],
    ids=str,
)
def test_ways_of_drawing_noise_levels(config, mean, std):
    drawn = draw_timesteps(config, 20000, 1000, torch.Generator().manual_seed(0)).float()
    assert abs(drawn.mean() - mean) < 8 and abs(drawn.std() - std) < 8
    assert drawn.min() >= 1000 * config.lowest and drawn.max() < 1000 * config.highest


def test_pyramid_noise_is_drawn_from_the_turns_generator():
    config = dataclasses.replace(CONFIG, noise=NoiseConfig(pyramid=0.5))
    first, second = (draw(config, 3, torch.arange(4), SHAPE, 1000).noise for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(CONFIG, 3, torch.arange(4), SHAPE, 1000).noise)
