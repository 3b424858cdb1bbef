import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from blockwise_lora.report.charts import BlockStrip, LossCurve, loss_chart, running_mean, scatter
from blockwise_lora.report.page import AdapterCard, Report, render
from blockwise_lora.report.words import row_name

HOSTILE = "<script>alert(1)</script>"
BLOCKS = ("in0", "in1", "mid", "out0", "out1")


@pytest.fixture
def page(evaluation) -> str:
    strip = BlockStrip(BLOCKS, ((8,), (), (4, 16), (), (8,)))
    report = Report(
        title=f"cats {HOSTILE}",
        evaluation=evaluation,
        grid=Image.new("RGB", (20, 10), "red"),
        prompts=("a cat", HOSTILE),
        names={"blockwise": "block-wise"},
        adapters=(AdapterCard("blockwise", "style", HOSTILE, "locon", strip, "ab" * 32),),
        losses=(LossCurve("lora", "style", (1.0, 2.0), (0.5, 0.4)),),
        commands=(f"kedro run --params variant={HOSTILE}",),
        settings={"sampling": HOSTILE},
        provenance={"commit": HOSTILE},
        warnings=(HOSTILE,),
    )
    return render(report)


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "rect", "circle", "polyline"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_nests_and_runs_no_script(page):
    tags = [tag for tag, _ in Tags(page).found]
    assert "script" not in tags
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") > 8


def test_the_page_asks_for_nothing_from_elsewhere(page):
    for _, attributes in Tags(page).found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"@import|url\(", page)


def test_the_answer_stands_first(page):
    body = page[page.index("<body>") :]
    assert body.index("block-wise combines best") < body.index("<img") < body.index("<table")
    assert "beats copying" in body or "beat copying" in body


def test_only_a_lead_beyond_the_interval_is_coloured(page):
    ahead = re.findall(r'<tr class="(\w+)"><th>([^<]+)(?:(?!</tr>).)*?class="ahead"', page, re.S)
    assert {name for _, name in ahead} == {"block-wise"}


def test_a_score_that_nothing_has_gets_no_column(evaluation, page):
    assert "<th>truth" in page
    from blockwise_lora.judges.protocol import summarise
    from blockwise_lora.judges.scores import Judged

    values = {
        k: v * float("nan") if k == "truth" else v for k, v in evaluation.judged.values.items()
    }
    judged = Judged(evaluation.judged.samples, values, evaluation.judged.scales)
    report = Report(
        "t", summarise(judged), Image.new("RGB", (4, 4)), ("a",), {}, (), (), (), {}, {}
    )
    shorter = render(report)
    assert "<th>truth" not in shorter
    assert "What each adapter trains" not in shorter
    assert "Training</h2>" not in shorter


def test_every_row_is_in_the_scatter_with_its_interval(evaluation):
    drawn = scatter(evaluation, {})
    assert drawn.count("<polygon") == len(evaluation.intervals)
    assert drawn.count('class="bar') == 2 * len(evaluation.intervals)
    labels = re.findall(r'<text class="label[^>]*y="([\d.-]+)"[^>]*>([^<]*)', drawn)
    assert len(labels) == 6, "anchors and rows with both adapters"


def test_a_strip_says_which_blocks_are_trained():
    drawn = BlockStrip(BLOCKS, ((8,), (), (4, 16), (), (8,))).draw("c1")
    assert drawn.count('class="on c1"') == 3
    assert drawn.count('class="off"') == 2
    assert ">4–16<" in drawn


def test_losses_are_smoothed_and_spikes_do_not_flatten_the_rest():
    assert running_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    losses = tuple([0.1] * 99 + [1000.0])
    drawn = loss_chart([LossCurve("lora", "style", tuple(range(100)), losses)], ["lora"])
    ticks = [float(t) for t in re.findall(r'class="tick"[^>]*text-anchor="end">([\d.]+)', drawn)]
    assert max(ticks) < 500
    assert loss_chart([], ["lora"]) == ""


def test_rows_are_called_by_their_names():
    from blockwise_lora.judges.samples import COPY, Row

    assert row_name(Row("lora", "both"), {"lora": "plain LoRA"}) == "plain LoRA"
    assert row_name(Row("own", "style"), {}) == "own, style only"
    assert row_name(Row(COPY), {}) == "copying"
