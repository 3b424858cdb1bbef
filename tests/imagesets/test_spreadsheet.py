import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockwise_lora.imagesets.spreadsheet import guarded, unguarded


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1.png", "@SUM(1)", "'=1", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_is_text(cell):
    assert guarded([{"a": cell}]) == [{"a": f"'{cell}"}]
    # Somebody, or the spreadsheet, took the apostrophe away.
    assert unguarded("=1+1") == "=1+1"


def test_the_rest_stays():
    row = {"a": -1, "b": None, "c": "'twas a cat", "d": "a=b", "e": "", "f": "''", "g": 0.5}
    assert guarded([row]) == [row]
    assert [unguarded(cell) for cell in row.values() if isinstance(cell, str)] == [
        cell for cell in row.values() if isinstance(cell, str)
    ]


@given(st.text() | st.text(alphabet="'=+-@a \t\r"))
def test_every_text_comes_back(text):
    (row,) = guarded([{"a": text}])
    assert unguarded(row["a"]) == text
