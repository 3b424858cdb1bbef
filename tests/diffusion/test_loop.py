"""Several adapters in one pass, through `train_many`."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blockwise_lora.adapters import AdapterSpec, attached_names, detach, trainable_parameters
from blockwise_lora.diffusion import loop
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.trainer import Failed, Job, Trained, all_trained, train_many

CONFIG = TrainingConfig(steps=4, batch_size=2, learning_rate=1e-3)
SPECS = {
    "shallow": AdapterSpec("out3", "lora", 2),
    "whole": AdapterSpec("all", "locon", 2),
    "middle": AdapterSpec("mid:3+out2", "locon", 2),
}


def results(base, jobs, **options):
    """Outcomes, and each adapter's weights by name; the U-Net is as before."""
    outcomes = train_many(base, jobs, **options)
    weights = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Trained):
            found = trainable_parameters(base.unet, job.name)
            weights[job.name] = [p.detach().clone() for p in found]
            detach(base.unet, job.name)
    return outcomes, weights


def jobs(images, **configs):
    return [Job(name, images, SPECS[name], config) for name, config in configs.items()]


def assert_near(first, second):
    difference = sum((a - b).square().sum() for a, b in zip(first, second, strict=True)).sqrt()
    size = sum(b.square().sum() for b in second).sqrt()
    assert difference < 1e-3 * size


@pytest.mark.parametrize("shared", [True, False])
def test_each_is_what_it_is_alone(base, images, shared):
    configs = {
        name: CONFIG if shared else dataclasses.replace(CONFIG, seed=i, steps=4 + i)
        for i, name in enumerate(SPECS)
    }
    outcomes, together = results(base, jobs(images, **configs))
    for name, outcome in zip(SPECS, outcomes, strict=True):
        (single,), alone = results(base, jobs(images, **{name: configs[name]}))
        assert_near(together[name], alone[name])
        assert outcome.losses == pytest.approx(single.losses, rel=1e-4)
        assert outcome.attached.name == name and len(outcome.losses) == configs[name].steps


def test_equal_calls_give_equal_bits(base, images):
    (_, first), (_, second) = (
        results(base, jobs(images, **dict.fromkeys(SPECS, CONFIG))) for _ in range(2)
    )
    assert all(torch.equal(a, b) for n in SPECS for a, b in zip(first[n], second[n], strict=True))


def test_one_that_fails_leaves_the_others_as_they_are(base, images, tmp_path):
    bad = dataclasses.replace(CONFIG, learning_rate=1e30, log_every=1)
    configs = {"shallow": CONFIG, "whole": bad, "middle": CONFIG}
    (first, failed, last), weights = results(base, jobs(images, **configs), checkpoint_dir=tmp_path)
    assert isinstance(failed, Failed) and failed.name == "whole"
    assert "learning_rate" in str(failed.error)
    with pytest.raises(TrainingError, match="learning_rate"):
        all_trained([first, failed, last])
    assert attached_names(base.unet) == ()
    assert first.skipped == last.skipped == 0
    for name in ("shallow", "middle"):
        _, alone = results(base, jobs(images, **{name: CONFIG}))
        assert_near(weights[name], alone[name])


class KilledError(Exception):
    """Stands for a kill: raised between two steps."""


def test_a_killed_pass_in_which_one_had_failed_goes_on_to_the_same_bits(
    base, images, tmp_path, monkeypatch
):
    """And of the one that failed the last good state stays, for a training of its own."""
    update = loop.Learner.update

    def spoiling(self, loss):
        update(self, loss * torch.nan if self.name == "whole" and self.step >= 3 else loss)

    def kill(step):
        if step == 9:
            raise KilledError

    config = dataclasses.replace(CONFIG, steps=10, checkpoint_every=2, log_every=1)
    configs = dict.fromkeys(SPECS, config)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Learner, "update", spoiling)
        _, whole = results(base, jobs(images, **configs))
        with pytest.raises(KilledError):
            train_many(base, jobs(images, **configs), checkpoint_dir=tmp_path, on_step=kill)
        kinds = sorted(path.name[64:] for path in tmp_path.iterdir())
        assert kinds == ["-2.safetensors"] + ["-8.failed.safetensors"] + ["-8.safetensors"] * 2
        (one, failed, other), resumed = results(
            base, jobs(images, **configs), checkpoint_dir=tmp_path
        )
    assert isinstance(failed, Failed) and one.resumed_from == other.resumed_from == 8
    for name in ("shallow", "middle"):
        assert all(torch.equal(a, b) for a, b in zip(resumed[name], whole[name], strict=True))
    (alone,), _ = results(base, jobs(images, whole=config), checkpoint_dir=tmp_path)
    assert alone.resumed_from == 2 and alone.skipped == 0
    assert list(tmp_path.iterdir()) == []


def test_who_ends_while_nothing_can_be_saved_is_saved_later(base, images, tmp_path, monkeypatch):
    """One step of the other comes to nothing just then."""
    update = loop.Learner.update

    def spoiling(self, loss):
        update(self, loss * torch.nan if self.name == "whole" and self.step == 3 else loss)

    def kill(step):
        if step == 6:
            raise KilledError

    monkeypatch.setattr(loop.Learner, "update", spoiling)
    config = dataclasses.replace(CONFIG, steps=10, checkpoint_every=4, log_every=1)
    configs = {"shallow": dataclasses.replace(config, steps=4), "whole": config}
    _, whole = results(base, jobs(images, **configs))
    with pytest.raises(KilledError):
        train_many(base, jobs(images, **configs), checkpoint_dir=tmp_path, on_step=kill)
    outcomes, resumed = results(base, jobs(images, **configs), checkpoint_dir=tmp_path)
    assert [outcome.resumed_from for outcome in outcomes] == [4, 5]
    for name in configs:
        assert all(torch.equal(a, b) for a, b in zip(resumed[name], whole[name], strict=True))


def test_one_input_is_made_once_for_all_that_share_it(base, images, monkeypatch):
    made = []
    batch = loop.Batch.__dict__["of"].__func__

    def counted(cls, model, cached, config, *place):
        made.append(config.seed)
        return batch(cls, model, cached, config, *place)

    monkeypatch.setattr(loop.Batch, "of", classmethod(counted))
    other = dataclasses.replace(CONFIG, seed=1)
    results(base, jobs(images, shallow=CONFIG, whole=other, middle=CONFIG))
    assert sorted(made) == [0] * 4 + [1] * 4


def test_only_what_begins_together_or_sees_the_same_takes_one_pass(base, images, monkeypatch):
    """One pass would take the gradient of `shallow`'s batch on to where `whole`'s ends."""
    passes = []
    predict = loop.predict

    def watched(model, batches):
        passes.append(len(batches))
        return predict(model, batches)

    monkeypatch.setattr(loop, "predict", watched)
    once = dataclasses.replace(CONFIG, steps=1)
    other = dataclasses.replace(once, seed=1)
    results(base, jobs(images, shallow=once, whole=other))
    assert passes == [1, 1]
    passes.clear()
    results(base, jobs(images, shallow=once, whole=once, middle=once))
    assert passes == [1]
    passes.clear()
    results(base, [Job(f"s{i}", images, SPECS["middle"], c) for i, c in enumerate((once, other))])
    assert passes == [2]


class Reads(TorchDispatchMode):
    """Counts `item`, `tolist`, `bool` and the like: on a GPU each makes the host wait."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_step_reads_from_the_device_between_two_looks(base, images, monkeypatch):
    reads, looks = Reads(), []

    def counted(method):
        def wrapper(self, *args):
            with reads:
                return method(self, *args)

        return wrapper

    check = loop.Learner.check
    monkeypatch.setattr(loop.Learner, "check", lambda self: looks.append(self.step) or check(self))
    monkeypatch.setattr(loop.Learner, "update", counted(loop.Learner.update))
    monkeypatch.setattr(loop.Loop, "_pass", counted(loop.Loop._pass))
    config = dataclasses.replace(CONFIG, steps=6, log_every=3)
    results(base, jobs(images, shallow=config, middle=config))
    assert looks == [3, 3, 6, 6]
    assert reads.count == 0
    with reads:
        torch.ones(1).item()
    assert reads.count == 1, "a read would have been seen"


def test_names_must_differ(base, images):
    from blockwise_lora.adapters import AdapterError

    with pytest.raises(AdapterError):
        train_many(base, jobs(images, shallow=CONFIG) * 2)
    assert attached_names(base.unet) == ()
