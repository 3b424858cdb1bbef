import pytest

from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.pipelines.training.recipes import resolve
from blockwise_lora.pipelines.training.watching import watching
from tiny_base import write_tiny_pictures


@pytest.mark.parametrize("judged", [True, False])
def test_a_judge_is_known_by_its_weights(tmp_path, judge_folders, judged):
    judges = {name: str(folder) for name, folder in judge_folders.items()}
    recipe = resolve(
        "character",
        concept={"trigger": "zkc", "class_word": "cat"},
        variant="lora",
        variants={"lora": {"character": {"blocks": "mid"}}},
        training={"validation": {"every": 1, "prompts": ["zkc cat"], "judge": judged}},
        seed=0,
    )
    images = read_imagefolder(write_tiny_pictures(tmp_path / "pictures", 2))
    watched = watching({"character": recipe}, {"character": images}, {"judges": judges}, "cpu")
    panel = Panel.load(JudgeConfig(**judges))
    known = {panel.clip.sha256, panel.dino.sha256}
    assert (watched.judge is not None) is judged
    assert set(watched.judge_sha256.split()) == (known if judged else set())
