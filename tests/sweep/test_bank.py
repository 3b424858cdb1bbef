import dataclasses

import torch


def test_what_decides_the_result_decides_the_place(base, lesson, bank):
    other = dataclasses.replace(lesson.config, learning_rate=0.2)
    changed = dataclasses.replace(lesson, config=other)
    assert bank.entry(base, lesson, "mid") != bank.entry(base, changed, "mid")
    coarse = dataclasses.replace(base, dtype=torch.bfloat16)
    assert bank.entry(base, lesson, "mid") != bank.entry(coarse, lesson, "mid")
    safer = dataclasses.replace(lesson.config, checkpoint_every=7)
    same = dataclasses.replace(lesson, config=safer)
    assert bank.entry(base, lesson, "mid") == bank.entry(base, same, "mid")
