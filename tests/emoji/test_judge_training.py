import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from blockwise_lora.emoji.clip import augment, contrastive_loss, model_config, text_encoder_from
from blockwise_lora.emoji.corpus import Corpus, Emoji
from blockwise_lora.emoji.dino import Partners, train_dino
from blockwise_lora.emoji.loop import LoopConfig
from blockwise_lora.emoji.sampling import ConceptSampler


class Vocabulary:
    """Stands where only the length and two ids of a tokenizer are asked for."""

    def __len__(self):
        return 300

    def convert_tokens_to_ids(self, token):
        return {"<|startoftext|>": 298, "<|endoftext|>": 299}[token]


def test_the_text_encoder_equals_the_text_tower():
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config(300)).eval()
    nn.init.normal_(model.positional_embedding)
    encoder = text_encoder_from(model, Vocabulary()).eval()
    ids = torch.randint(0, 298, (3, 32), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, 9:] = 298, 299
    with torch.no_grad():
        hidden = encoder(ids).last_hidden_state
        # open_clip takes the end token's state, then its own projection.
        tower = model.encode_text(ids)
        ours = hidden[:, 9] @ model.text_projection
    assert torch.allclose(tower, ours, atol=1e-5)


def test_contrastive_loss_of_distinct_concepts_is_infonce_with_smoothing():
    images = nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    texts = nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    logits = 5.0 * images @ texts.T
    labels = torch.arange(4)
    expected = 0.5 * (
        nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)
    )
    assert contrastive_loss(images, texts, torch.tensor(5.0), labels) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_two_drawings_of_a_concept_share_a_fifth_of_the_target():
    unit = torch.eye(3)
    concepts = torch.tensor([0, 0, 1])
    loss = contrastive_loss(unit, unit, torch.tensor(1.0), concepts)
    log_own = torch.log(torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + 2))
    log_other = torch.log(1 / (torch.tensor(1.0).exp() + 2))
    rows = torch.stack([0.9 * log_own + 0.1 * log_other] * 2 + [log_own])
    assert float(loss) == pytest.approx(float(-rows.mean()), rel=1e-5)


def test_augmentation_keeps_white_white_and_never_mirrors():
    pixels = torch.full((8, 64, 64, 3), 255, dtype=torch.uint8).numpy()
    views = augment(pixels, torch.Generator().manual_seed(0))
    assert views.min() > 0.99, "what is shifted in from outside is white"
    pixels[:, 20:44, 16:30] = 0  # black in the left half
    views = augment(pixels, torch.Generator().manual_seed(1))
    columns = torch.arange(64).float()
    ink = (1 - views[:, 0]).sum(1)
    assert ((ink * columns).sum(1) / ink.sum(1) < 33).all()


def drawings():
    rows = [Emoji(c, hand, c, (), 3, 0) for c in "ABC" for hand in ("noto", "twemoji", "emojione")]
    rows.append(Emoji("D", "noto", "D", (), 3, 0))  # nobody else draws it
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    return Corpus(tuple(rows), pixels)


def test_second_views_are_the_same_concept_mostly_in_another_hand():
    corpus = drawings()
    sampler = ConceptSampler(corpus.emojis)
    first = torch.arange(10).repeat(300)
    second = Partners(corpus, sampler).draw(first, torch.Generator().manual_seed(0))
    assert torch.equal(sampler.concepts[first], sampler.concepts[second])
    shared = first < 9
    assert float((first != second)[shared].float().mean()) == pytest.approx(0.7, abs=0.03)
    assert torch.equal(first[~shared], second[~shared])
    for row in range(9):
        others = second[(first == row) & (second != row)]
        assert others.unique().numel() == 2, "every other hand has its turn"


def test_the_teacher_is_what_is_kept(tmp_path):
    config = LoopConfig(steps=2, batch_size=4, learning_rate=1e-3, ema=0.9, warmup=1)
    judge, trainer = train_dino(drawings(), config, tmp_path, "cpu")
    weights = dict(judge.named_parameters())
    for key, average in trainer.average.items():
        if key.startswith("dino.0."):
            assert torch.equal(weights[key.removeprefix("dino.0.")], average)
    assert trainer.step == 2
