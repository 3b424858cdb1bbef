"""Tables that people open in a spreadsheet, which would run some cells as formulas.

Such a cell gets an apostrophe before it. So does one in which apostrophes stand before the sign of
a formula, or taking one away would not give back what was there.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def guarded(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose texts are shown as they are; numbers stay numbers."""
    return [{column: _guarded(cell) for column, cell in row.items()} for row in rows]


def unguarded(cell: str) -> str:
    """The text that `guarded` was given; what a person wrote without the apostrophe stays."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _guarded(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
