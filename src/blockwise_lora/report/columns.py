"""Which pictures stand in which column of the grid."""

from collections.abc import Sequence

from PIL import Image

from blockwise_lora.judges.samples import BASE, Question, References, Row, Sample
from blockwise_lora.report.grid import Column


def comparison_columns(
    samples: Sequence[Sample],
    questions: Sequence[Question],
    references: References,
    names: dict[str, str],
) -> list[Column]:
    """From what was learned, over what each model draws, to the true answer.

    Args:
        samples: base pictures and each variant's; the lowest seed of each is shown.
        questions: by prompt index; the last column is left out where none has a true picture.
        references: what the adapters learned from.
        names: how each variant is called above its column; its own name where it is missing.
    """
    shown = {}
    for sample in sorted(samples, key=lambda sample: -sample.seed):
        shown[sample.row, sample.prompt] = sample.picture
    variants = list(dict.fromkeys(s.row.variant for s in samples if not s.row.anchor))
    count = len(questions)

    def column(title: str, row: Row, note: str = "", apart: bool = False) -> Column:
        return Column(title, tuple(shown.get((row, i)) for i in range(count)), note, apart)

    columns = [
        Column("Character's pictures", in_turn(references.character, count), "learned from"),
        Column("Style's pictures", in_turn(references.style, count), "learned from"),
        column("Base model", Row(BASE), "no adapter", apart=True),
    ]
    if variants:
        first, name = variants[0], names.get(variants[0], variants[0])
        columns.append(column("Character only", Row(first, "character"), name))
        columns.append(column("Style only", Row(first, "style"), name))
    columns += [
        column(f"Both: {names.get(v, v)}", Row(v, "both"), apart=i == 0)
        for i, v in enumerate(variants)
    ]
    truths = tuple(question.truth for question in questions)
    if any(truths):
        columns.append(Column("True answer", truths, "seen by no model", apart=True))
    return [c for c in columns if any(picture is not None for picture in c.pictures)]


def in_turn(pictures: tuple[Image.Image, ...], count: int) -> tuple[Image.Image, ...]:
    """A different picture in each row, spread over the whole set."""
    step = max(1, len(pictures) // count)
    return tuple(pictures[i * step % len(pictures)] for i in range(count))
