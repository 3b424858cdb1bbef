import dataclasses
import math

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, attached_names, trainable_parameters
from blockwise_lora.diffusion.config import (
    CaptionConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.looks import HELD_OUT_LOSS, Watching, split_off
from blockwise_lora.diffusion.sampling import SamplingConfig, sample
from blockwise_lora.diffusion.trainer import Job, train, train_many

SPEC = AdapterSpec("out3", "locon", 2)
CONFIG = TrainingConfig(
    steps=4,
    batch_size=2,
    learning_rate=1e-2,
    schedule=ScheduleConfig("constant"),
    checkpoint_every=1,
)
SAMPLES = ValidationConfig(
    every=2, prompts=("zkc square",), seeds=(3, 4), sampling_steps=2, guidance_scale=1.0
)


class KilledError(Exception):
    """Stands for a kill: raised between two steps."""


def with_looks(**values):
    return dataclasses.replace(CONFIG, validation=ValidationConfig(**values))


def scripted(*scores):
    """A judge with an opinion fixed beforehand."""
    left = list(scores)
    return Watching(judge=lambda name, pictures, prompts: {"likeness": left.pop(0)})


def weights(base, name="adapter"):
    return [p.detach().clone() for p in trainable_parameters(base.unet, name)]


def test_held_out_pictures_are_not_trained_on(images):
    config = with_looks(every=1, held_out=2)
    kept, held = split_off(images, config)
    assert (len(kept), len(held)) == (3, 2)
    assert {p.file_name for p in kept}.isdisjoint(p.file_name for p in held)
    assert split_off(images, dataclasses.replace(config, seed=5))[1].sha256 != held.sha256
    assert split_off(images, CONFIG) == (images, None)
    with pytest.raises(TrainingError, match="5 of 5 pictures leave none"):
        split_off(images, with_looks(every=1, held_out=5))


def test_looks_come_in_time_and_change_nothing(base, images):
    plain = train(base, images, SPEC, CONFIG, name="plain")
    seen = []
    watching = Watching(on_look=lambda name, look: seen.append((name, look.step)))
    config = dataclasses.replace(CONFIG, steps=5, validation=SAMPLES)
    longer = dataclasses.replace(CONFIG, steps=5)
    watched = train(base, images, SPEC, config, name="watched", watching=watching)
    unwatched = train(base, images, SPEC, longer, name="unwatched")
    assert seen == [("watched", 2), ("watched", 4), ("watched", 5)]
    assert watched.losses == unwatched.losses and plain.looks == ()
    pairs = zip(weights(base, "watched"), weights(base, "unwatched"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_samples_show_the_adapter_at_that_step(base, images):
    config = dataclasses.replace(CONFIG, validation=SAMPLES)
    trained = train(base, images, SPEC, config)
    first, last = (look.pictures for look in trained.looks)
    assert len(first) == 2 and first[0].tobytes() != last[0].tobytes()
    wanted = sample(base, ["zkc square"] * 2, [3, 4], SamplingConfig(2, 1.0))
    assert [p.tobytes() for p in last] == [p.tobytes() for p in wanted]


def test_the_held_out_loss_is_measured_alike_at_every_look(base, images):
    still = dataclasses.replace(with_looks(every=1, held_out=2), learning_rate=1e-12)
    losses = [look.values[HELD_OUT_LOSS] for look in train(base, images, SPEC, still).looks]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    learning = dataclasses.replace(with_looks(every=4, held_out=2), learning_rate=3e-2, steps=8)
    first, last = train(base, images, SPEC, learning, name="b").looks
    assert last.values[HELD_OUT_LOSS] < first.values[HELD_OUT_LOSS] < losses[0]


def test_the_held_out_loss_knows_nothing_of_what_chance_does_in_training(base, images):
    """Captions that are left out there are read here: losses of two trainings can be compared."""
    still = dataclasses.replace(with_looks(every=1, held_out=2), learning_rate=1e-12, steps=1)
    dropping = dataclasses.replace(still, captions=CaptionConfig(dropout=0.9))
    plain, other = (
        train(base, images, SPEC, config, name=name).looks[0].values[HELD_OUT_LOSS]
        for name, config in (("a", still), ("b", dropping))
    )
    assert other == pytest.approx(plain, rel=1e-6)


def test_the_best_is_kept_and_a_stale_training_ends(base, images):
    validation = dataclasses.replace(SAMPLES, every=1, judge=True, best_by="score", patience=2)
    config = dataclasses.replace(CONFIG, steps=9, validation=validation)
    watching = scripted(0.1, 0.5, 0.4, 0.3)
    trained = train(base, images, SPEC, config, watching=watching)
    assert [look.step for look in trained.looks] == [1, 2, 3, 4] and len(trained.losses) == 4
    assert trained.kept.step == 2
    best = weights(base)
    train(
        base,
        images,
        SPEC,
        dataclasses.replace(config, steps=9),
        name="b",
        watching=scripted(0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    )
    assert not torch.equal(best[0], weights(base, "b")[0])
    two = dataclasses.replace(CONFIG, steps=2)  # constant rate: its end is the other's second step
    train(base, images, SPEC, two, name="two")
    assert all(torch.equal(a, b) for a, b in zip(best, weights(base, "two"), strict=True))


def test_the_lowest_held_out_loss_can_be_what_is_best(base, images):
    config = with_looks(every=1, held_out=2, best_by="loss")
    trained = train(base, images, SPEC, config)
    losses = [look.values[HELD_OUT_LOSS] for look in trained.looks]
    assert trained.kept.values[HELD_OUT_LOSS] == min(losses)


def test_a_score_that_is_no_number_is_worse_than_any(base, images):
    validation = dataclasses.replace(SAMPLES, every=1, judge=True, best_by="score")
    config = dataclasses.replace(CONFIG, validation=validation)
    watching = scripted(math.nan, -3.0, math.nan, math.inf)
    assert train(base, images, SPEC, config, watching=watching).kept.step == 2


def test_the_average_is_what_is_looked_at(base, images):
    optimizer = OptimizerConfig(ema=0.99)
    config = dataclasses.replace(CONFIG, optimizer=optimizer, validation=SAMPLES)
    trained = train(base, images, SPEC, config)
    wanted = sample(base, ["zkc square"] * 2, [3, 4], SamplingConfig(2, 1.0))
    assert [p.tobytes() for p in trained.looks[-1].pictures] == [p.tobytes() for p in wanted]
    plain = train(base, images, SPEC, CONFIG, name="plain")
    assert plain.losses == trained.losses
    assert not torch.equal(weights(base)[0], weights(base, "plain")[0])


def test_a_resumed_training_has_all_looks_and_its_notes(base, images, tmp_path):
    validation = dataclasses.replace(SAMPLES, every=1, judge=True, best_by="score", patience=3)
    config = dataclasses.replace(CONFIG, steps=6, validation=validation)

    def kill(step):
        if step == 3:
            raise KilledError

    first = scripted(0.9, 0.2, 0.3)
    first = dataclasses.replace(first, notes=lambda: {"run": "abc"})
    with pytest.raises(KilledError):
        train(base, images, SPEC, config, checkpoint_dir=tmp_path, on_step=kill, watching=first)
    told = []
    second = dataclasses.replace(scripted(0.4), on_resume=told.append)
    trained = train(base, images, SPEC, config, checkpoint_dir=tmp_path, watching=second)
    assert told == [{"run": "abc"}] and trained.resumed_from == 3
    scores = [look.values["likeness"] for look in trained.looks]
    assert scores == [0.9, 0.2, 0.3, 0.4] and trained.kept.step == 1
    assert all(len(look.pictures) == 2 for look in trained.looks)


@pytest.mark.parametrize(("best_by", "resumed_from"), [("score", 0), (None, 2)])
def test_another_judge_decides_in_another_training(base, images, tmp_path, best_by, resumed_from):
    validation = dataclasses.replace(SAMPLES, judge=True, best_by=best_by)
    config = dataclasses.replace(CONFIG, validation=validation)

    def kill(step):
        if step == 2:
            raise KilledError

    first = dataclasses.replace(scripted(0.9), judge_sha256="one")
    with pytest.raises(KilledError):
        train(base, images, SPEC, config, checkpoint_dir=tmp_path, on_step=kill, watching=first)
    second = dataclasses.replace(scripted(0.1, 0.2), judge_sha256="two")
    trained = train(base, images, SPEC, config, checkpoint_dir=tmp_path, watching=second)
    assert trained.resumed_from == resumed_from


def test_others_of_the_pass_go_on_when_one_has_had_its_best(base, images):
    validation = dataclasses.replace(SAMPLES, every=1, judge=True, best_by="score", patience=1)
    short = dataclasses.replace(CONFIG, validation=validation)
    jobs = [Job("short", images, SPEC, short), Job("long", images, SPEC, CONFIG)]
    one, other = train_many(base, jobs, watching=scripted(0.9, 0.1))
    assert (len(one.losses), len(other.losses)) == (2, 4)


def test_scores_need_a_judge(base, images):
    config = dataclasses.replace(CONFIG, validation=dataclasses.replace(SAMPLES, judge=True))
    with pytest.raises(TrainingError, match="there is no judge here"):
        train(base, images, SPEC, config)
    assert attached_names(base.unet) == ()
