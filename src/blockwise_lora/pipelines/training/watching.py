"""What the looks at an adapter need from outside: judges, and the record of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockwise_lora.recording import live

if TYPE_CHECKING:
    from PIL import Image

    from blockwise_lora.diffusion.looks import Judge, Look, Watching
    from blockwise_lora.imagesets import ImageSet
    from blockwise_lora.pipelines.training.recipes import Recipe


def watching(
    recipes: Mapping[str, Recipe],
    sets: Mapping[str, ImageSet],
    evaluation: Mapping[str, Any],
    device: str,
) -> Watching:
    """Looks are judged by the evaluation's judges, and recorded at once; so is a resumed run.

    Args:
        recipes: of the adapters, by name.
        sets: what each learns from, which its samples are compared with.
        evaluation: parameter group that names the judges.
        device: where they judge.
    """
    from blockwise_lora.diffusion.looks import Watching

    def on_look(name: str, look: Look) -> None:
        live().look(name, look.step, look.values, look.pictures)

    judge, sha256 = None, ""
    judged = {
        name: images for name, images in sets.items() if recipes[name].config.validation.judge
    }
    if judged:
        judge, sha256 = _judge(judged, evaluation, device)
    return Watching(
        judge=judge,
        judge_sha256=sha256,
        on_look=on_look,
        notes=lambda: live().notes(),
        on_resume=lambda notes: live().resume(notes),
    )


def _judge(
    sets: Mapping[str, ImageSet], evaluation: Mapping[str, Any], device: str
) -> tuple[Judge, str]:
    """DreamBooth's protocol: DINO's likeness to the pictures, CLIP's fit to the prompts.

    Returns:
        The judge, and the hashes of the weights that it judges by.
    """
    from blockwise_lora.judges.panel import Panel
    from blockwise_lora.pipelines.evaluation.config import EvaluationConfig

    panel = Panel.load(EvaluationConfig.of(evaluation).judge_config(), device)
    references = {
        name: panel.dino.images([picture.open() for picture in images])
        for name, images in sets.items()
    }

    def judge(
        name: str, pictures: Sequence[Image.Image], prompts: Sequence[str]
    ) -> dict[str, float]:
        likeness = panel.dino.images(list(pictures)) @ references[name].T
        shown, said = panel.clip.images(list(pictures)), panel.clip.texts(list(prompts))
        return {
            "likeness": float(likeness.mean()),
            "prompt_fit": float((shown * said).sum(1).mean()),
        }

    return judge, f"{panel.clip.sha256} {panel.dino.sha256}"
