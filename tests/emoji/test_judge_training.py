import open_clip
import pytest
import torch
from torch import nn

from blockwise_lora.emoji.clip import augment, contrastive_loss, model_config, text_encoder_from
from blockwise_lora.emoji.dino import Head, sinkhorn


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


def test_sinkhorn_uses_prototypes_evenly_and_rows_sum_to_one():
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    logits[:, 0] += 1.0  # all prefer one prototype: the start of a collapse
    assert (logits.argmax(1) == 0).all()
    q = sinkhorn(logits, 0.1, iterations=20)
    assert torch.allclose(q.sum(1), torch.ones(64), atol=1e-5)
    assert torch.allclose(q.sum(0), torch.full((8,), 8.0), rtol=0.05)


def test_head_answers_cosines():
    head = Head(128)
    answers = head(torch.randn(5, 128, generator=torch.Generator().manual_seed(0)))
    assert answers.shape == (5, 1024)
    assert answers.abs().max() <= 1 + 1e-5
