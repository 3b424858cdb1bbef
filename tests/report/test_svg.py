import xml.etree.ElementTree as ET

import pytest

from blockwise_lora.report.svg import Plot, span, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.61, 0.93, [0.7, 0.8, 0.9]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (0, 300, [0, 100, 200, 300]),
        (0.9991, 0.9994, [0.9991, 0.9992, 0.9993, 0.9994]),
    ],
)
def test_ticks_are_round_numbers_within(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_an_axis_has_a_length_even_for_one_value():
    assert span([0.5, 0.5]) == pytest.approx((0.46, 0.54))
    assert span([0.0]) == (-1.0, 1.0)
    assert span([0, 1], margin=0.1) == pytest.approx((-0.1, 1.1))


def test_a_plot_is_well_formed_and_puts_up_up():
    plot = Plot((0, 1), (0, 1), "x <&>", "y", 'a "title"')
    plot.mark(0.5, 0.5, "triangle", "dot c0", "hint <b>")
    plot.line([(0, 0), (1, 1)], "curve")
    plot.text(10, 10, "<script>", "label")
    drawn = plot.draw()
    ET.fromstring(drawn)
    assert "<script>" not in drawn
    assert plot.down(1) < plot.down(0)
    assert plot.across(1) > plot.across(0)
