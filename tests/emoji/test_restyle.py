import torch

from blockwise_lora.emoji.restyle import CHANGES, fade, flatten, outline, restyle


def square() -> torch.Tensor:
    """A red square on white, (1, 3, 16, 16) in [0, 1]."""
    picture = torch.ones(1, 3, 16, 16)
    picture[:, 1:, 4:12, 4:12] = 0.0
    return picture


def full(n: int = 1) -> torch.Tensor:
    return torch.ones(n, 1, 1, 1)


def test_every_change_leaves_white_paper_white():
    paper = torch.ones(2, 3, 16, 16)
    for change in CHANGES:
        drawn = change(paper, full(2), torch.Generator().manual_seed(0))
        assert torch.allclose(drawn, paper, atol=1e-6), change.__name__


def test_every_change_changes_a_drawing():
    shaded = square() * torch.linspace(0.6, 1, 16)
    for change in CHANGES:
        assert not torch.equal(change(shaded, full(), torch.Generator().manual_seed(0)), shaded)


def test_full_fading_leaves_the_luminance_of_red():
    grey = fade(square(), full(), torch.Generator())
    assert torch.allclose(grey[0, :, 8, 8], torch.full((3,), 0.299))


def test_three_levels_have_one_grey():
    drawn = flatten(torch.full((1, 3, 4, 4), 0.4), torch.full((1, 1, 1, 1), 0.1), torch.Generator())
    assert torch.equal(drawn, torch.full((1, 3, 4, 4), 0.5))


def test_an_outline_is_black_at_the_border_and_leaves_the_fill():
    drawn = outline(square(), full(), torch.Generator())
    assert torch.equal(drawn[0, :, 4, 8], torch.zeros(3))
    assert torch.equal(drawn[0, :, 8, 8], torch.tensor([1.0, 0.0, 0.0]))


def test_it_is_a_function_of_the_generator():
    pictures = square().repeat(8, 1, 1, 1) * 2 - 1
    once = restyle(pictures, torch.Generator().manual_seed(3))
    assert torch.equal(once, restyle(pictures, torch.Generator().manual_seed(3)))
    assert not torch.equal(once, restyle(pictures, torch.Generator().manual_seed(4)))
    assert once.min() >= -1 and once.max() <= 1
