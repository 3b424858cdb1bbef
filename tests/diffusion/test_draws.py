import dataclasses

import torch

from blockwise_lora.diffusion.config import CaptionConfig, NoiseConfig, TrainingConfig
from blockwise_lora.diffusion.draws import draw, generator_for

CONFIG = TrainingConfig(batch_size=4)
SHAPE = (4, 2, 2)


def test_a_draw_depends_on_seed_and_step_alone():
    torch.manual_seed(1)
    first = draw(CONFIG, 7, 10, SHAPE, 1000)
    torch.randn(3)
    second = draw(CONFIG, 7, 10, SHAPE, 1000)
    fields = [f.name for f in dataclasses.fields(first)]
    assert all(torch.equal(getattr(first, f), getattr(second, f)) for f in fields)
    assert not torch.equal(draw(CONFIG, 8, 10, SHAPE, 1000).noise, first.noise)
    other = dataclasses.replace(CONFIG, seed=1)
    assert not torch.equal(draw(other, 7, 10, SHAPE, 1000).noise, first.noise)
    assert not torch.equal(first.noise, first.latent_noise)


def test_every_picture_once_a_pass():
    rows = torch.cat([draw(CONFIG, step, 6, SHAPE, 1000).rows for step in range(9)])
    for start in range(0, 36, 6):
        assert sorted(rows[start : start + 6].tolist()) == list(range(6))
    assert rows[:6].tolist() != rows[6:12].tolist(), "each pass in its own order"


def test_a_set_smaller_than_the_batch():
    rows = draw(CONFIG, 0, 1, SHAPE, 1000).rows
    assert rows.tolist() == [0, 0, 0, 0]


def test_stratified_levels_cover_the_range_in_every_batch():
    for step in range(50):
        levels = draw(CONFIG, step, 10, SHAPE, 1000).timesteps
        assert sorted((levels // 250).tolist()) == [0, 1, 2, 3]


def test_levels_are_uniform_either_way():
    for way in ("uniform", "stratified"):
        config = dataclasses.replace(CONFIG, noise=NoiseConfig(way))
        levels = torch.stack([draw(config, s, 10, SHAPE, 1000).timesteps for s in range(800)])
        assert levels.min() >= 0 and levels.max() <= 999
        # The first place of a batch, too: no place has levels of its own.
        for drawn in (levels.float(), levels[:, 0].float()):
            assert abs(drawn.mean() - 499.5) < 35
            assert abs(drawn.std() - 288.7) < 20


def test_share_of_dropped_captions():
    config = dataclasses.replace(CONFIG, captions=CaptionConfig(0.25))
    dropped = torch.stack([draw(config, s, 10, SHAPE, 1000).dropped for s in range(500)])
    assert abs(dropped.float().mean() - 0.25) < 0.04
    assert not draw(CONFIG, 0, 10, SHAPE, 1000).dropped.any()


def test_noise_offset_moves_whole_channels():
    offset = dataclasses.replace(CONFIG, noise=NoiseConfig(offset=0.5))
    plain, moved = (draw(c, 3, 10, SHAPE, 1000).noise for c in (CONFIG, offset))
    shift = moved - plain
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift))
    assert shift.abs().max() > 0.05


def test_purposes_have_generators_of_their_own():
    values = {torch.rand(1, generator=generator_for(0, *p)).item() for p in ((), ("a",), ("a", 1))}
    assert len(values) == 3
