"""The page of an invented sweep whose truth is known: mid carries identity, out3 style."""

from dataclasses import replace

import pytest
from PIL import Image

from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.report.sweep.heatmap import HeatMap, signed, tell
from blockwise_lora.report.sweep.page import SweepReport, render, svg, verdict
from blockwise_lora.sweep.bank import Cost
from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.studies import Pair
from invented_sweep import FULL, invented


@pytest.fixture(scope="module")
def report(loaded_tiny_base) -> SweepReport:
    return SweepReport(
        title="Cat <in> OpenMoji",
        outcome=invented(),
        found=None,
        model=BlockMap.of(loaded_tiny_base.unet),
        prompts=("cat face, kissing", "cat face, weary"),
        costs={"character": {"mid": Cost(3.25, 12345, 4_200_000, 67_000)}, "style": {}},
        command="kedro run --params variant=own,character.blocks={character},style.blocks={style}",
        variant="recommended: {character: {blocks: {character}}, style: {blocks: {style}}}",
        commands=("kedro run --pipelines sweep",),
        settings={"study": "paper"},
        provenance={"base": "abc"},
        level=0.95,
    )


def test_the_first_words_say_which_blocks_and_the_command_does_it(report):
    page = render(report)
    text = page[page.index("<body>") : page.index("<h2>")]
    lead = " ".join(text[text.index('class="lead"') : text.index("</p>")].split())
    assert "Train the character on mid alone and the style on out3 alone." in lead
    assert "character.blocks=mid,style.blocks=out3" in text
    assert "recommended: {character: {blocks: mid}, style: {blocks: out3}}" in text
    assert text.count('class="character on"') == 1 and text.count('class="style on"') == 1
    assert "Cat &lt;in&gt; OpenMoji" in page and "<in>" not in page
    assert "12,345" in page and "67 kB" in page and "4.2 MB" in page


def test_a_mask_that_words_do_not_fit_is_written_as_it_is(report):
    samples = dict.fromkeys(("character", "style"), "all+mid:4")
    assert report.drawn(samples["style"]).words is None
    pair = replace(report, outcome=one_pair(Interval(0.3, 0.1, 0.4, 6), "all+mid:4"))
    assert "<code>all+mid:4</code>" in render(pair)[: render(pair).index("<h2>")]


def one_pair(combined: Interval, mask: str = "mid") -> Outcome:
    """The invented sweep, whose best pair is another one, and as much better than the full pair."""
    outcome, best = invented(), Pair(mask, "out3")
    renamed = {p: best if p == Pair("mid", "out3") else p for p in outcome.trained}
    rows = {row_of(old): row_of(new) for old, new in renamed.items()}
    samples = tuple(replace(s, row=rows[s.row]) for s in outcome.judged.samples)
    effects = {rows[row]: by for row, by in outcome.effects.items()}
    effects[row_of(best)] = effects[row_of(best)] | {"combined": combined}
    return replace(
        outcome,
        judged=replace(outcome.judged, samples=samples),
        trained=tuple(renamed.values()),
        scores={rows[row]: by for row, by in outcome.scores.items()},
        effects=effects,
    )


def test_the_verdict_says_whether_a_mask_is_worth_it():
    best = Pair("mid", "out3")
    said = {
        by: verdict(one_pair(by), best)
        for by in (
            Interval(0.3, 0.1, 0.4, 6),
            Interval(0.3, -0.1, 0.4, 6),
            Interval(0.01, 0.005, 0.015, 6),
            Interval(-0.3, -0.4, -0.1, 6),
        )
    }
    words = ["together are better", "no better than", "no better than", "together are worse"]
    assert all(word in text for word, text in zip(words, said.values(), strict=True))
    assert verdict(one_pair(Interval(0, 0, 0, 6)), FULL).startswith("No pair of masks did better")


def test_the_intervals_coverage_is_the_one_that_was_asked_for(report):
    page = render(replace(report, level=0.9))
    assert "With 90% intervals" in page and "(90% interval" in page and "95%" not in page
    assert "With 57% intervals" in render(replace(report, level=0.57)), "not 56.99999999999999"


def test_it_needs_nothing_from_elsewhere(report):
    page = render(report)
    assert 'src="http' not in page and "<script" not in page and 'href="http' not in page


def test_sentences_name_what_is_outside_chance_and_no_more(report):
    character, style = tell(HeatMap.skipping(report.outcome, report.blocks))
    assert "loses identity most without mid (-0.4" in character and "in0" in character
    assert "loses style most without out3 (-0.39)" in style


def test_without_evidence_the_sentence_says_so():
    one = Interval(-0.1, -0.3, 0.1, 4)
    rows = (("character", "identity"), ("style", "style"))
    heat = HeatMap("x", ("mid",), rows, {rows[0]: (one,), rows[1]: (None,)})
    assert "No single block" in tell(heat)[0] and "not tried" in tell(heat)[1]


def test_what_is_too_small_to_matter_is_not_told():
    rows = (("character", "identity"), ("style", "style"))
    small, large = Interval(-0.018, -0.02, -0.016, 4), Interval(-0.2, -0.3, -0.1, 4)
    heat = HeatMap("x", ("in0", "mid"), rows, {rows[0]: (small, large), rows[1]: (small, small)})
    told = tell(heat)
    assert told[0].startswith("The character's adapter loses identity most without mid (-0.20)")
    assert told[0].endswith("without in0 nothing changes that matters.")
    assert "No single block" in told[1] and "outside chance and 0.02 or more" in told[1]
    strict = tell(replace(heat, smallest=0.01))
    assert "in0 (-0.02)" in strict[0] and "in0 (-0.02)" in strict[1]


def test_what_rounds_to_nothing_has_no_sign():
    assert [signed(x) for x in (-0.004, 0.004, -0.005, 0.25)] == ["0.00", "0.00", "-0.01", "+0.25"]


def test_figures_are_the_same_bytes_each_time(report):
    first, second = (svg(report.figures["skipped"]) for _ in range(2))
    assert first == second and first.startswith("<svg") and ">mid<" in first


def test_it_can_be_looked_at(report, tmp_path):
    """`--basetemp` keeps the page and the figures for a look in a browser."""
    (tmp_path / "sweep.html").write_text(render(report), encoding="utf-8")
    for name, figure in report.figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert Image.open(tmp_path / f"{name}.png").width > 400
