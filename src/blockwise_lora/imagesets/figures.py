"""What the numbers of a curation look like: histograms, and copies side by side."""

from collections.abc import Sequence

from PIL import Image

from blockwise_lora.imagesets.contact_sheet import COLUMNS, INK, MARGIN, RED, original, tile
from blockwise_lora.imagesets.report import CurationReport
from blockwise_lora.imagesets.screening import Verdict

_NUMBERS = {
    "shorter side, pixels": lambda v: min(v.width, v.height),
    "longer by shorter side": lambda v: max(v.width, v.height) / min(v.width, v.height),
    "sharpness": lambda v: v.sharpness,
    "brightness, 0 to 255": lambda v: v.brightness,
}

_TICKS = 5


def histograms(report: CurationReport) -> Image.Image:
    """Size, shape, sharpness and brightness of the kept and of the dropped pictures.

    Returns:
        RGB, 900 x 620 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # One outline for each group, one legend, fixed margins, few numbers: drawn in a third of the
    # time, which every run of a curation takes twice.
    figure = Figure(figsize=(9, 6.2), dpi=100)
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.08, top=0.92, wspace=0.2, hspace=0.27)
    canvas = FigureCanvasAgg(figure)
    groups = {"kept": report.kept, "dropped": report.dropped}
    for axes, (name, number) in zip(figure.subplots(2, 2).flat, _NUMBERS.items(), strict=True):
        values = [_values(verdicts, number) for verdicts in groups.values()]
        axes.hist(
            values,
            bins=24,
            histtype="stepfilled",
            stacked=True,
            label=list(groups),
            color=["#3b6ea5", "#b02020"],
        )
        axes.set(xlabel=name, ylabel="pictures")
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS))
        axes.yaxis.set_major_locator(MaxNLocator(_TICKS, integer=True))
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", fontsize=8, ncols=2)
    figure.suptitle(report.folder, fontsize=9)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def duplicate_sheet(report: CurationReport, limit: int = 40) -> Image.Image:
    """Each picture that has copies, and its copies beside it.

    Args:
        report: on the set.
        limit: rows at most; a row holds the original and up to seven copies.

    Returns:
        RGB, 8 tiles wide.
    """
    copies: dict[str, list[Verdict]] = {}
    for verdict in report.dropped:
        if verdict.twin:
            copies.setdefault(verdict.twin, []).append(verdict)
    rows = [_row(report, name, found) for name, found in list(copies.items())[:limit]]
    blank = tile(None, "no copies found")
    width = COLUMNS * (blank.width + MARGIN) + MARGIN
    height = max(len(rows), 1) * (blank.height + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    for top, row in enumerate(rows or [[blank]]):
        for left, picture in enumerate(row):
            place = (MARGIN + left * (blank.width + MARGIN), MARGIN + top * (blank.height + MARGIN))
            sheet.paste(picture, place)
    return sheet


def _values(verdicts: Sequence[Verdict], number) -> list[float]:
    measured = (number(v) for v in verdicts if v.width)
    return [value for value in measured if value is not None]


def _row(report: CurationReport, name: str, found: Sequence[Verdict]) -> list[Image.Image]:
    first = next(verdict for verdict in report.verdicts if verdict.file == name)
    row = [tile(original(report.root, first), name, (f"kept, {first.width}x{first.height}", INK))]
    for verdict in found[: COLUMNS - 1]:
        words = f"{verdict.reason} ({verdict.number:g}), {verdict.width}x{verdict.height}"
        row.append(tile(original(report.root, verdict), verdict.file, (words, RED)))
    return row
