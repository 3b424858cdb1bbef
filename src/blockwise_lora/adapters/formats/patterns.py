r"""PEFT's patterns of layers' names, followed in bounded time.

PEFT takes the keys of `rank_pattern` and `alpha_pattern` for regular expressions of how a layer's
name ends. In a file they are a stranger's, and Python would follow one such as `(a+)+b` for years.
Here a pattern is followed by the set of places in the name that it can have reached, however many
the ways there are. What names need is understood: characters, `.`, `\d`, `[...]`, each of these
with `*`, `+` or `?`, and groups of alternatives.
"""

import re
from collections.abc import Callable, Mapping

Place = int
Step = Callable[[str, set[Place]], set[Place]]

_LONGEST_NAME = 500
"""Characters of a layer's name, and of a pattern that is one."""

_LONGEST, _MOST = 200, 100
"""Characters of any other pattern, and number of those in one table."""

_CHARACTER = r"\\[^A-Za-z0-9]|[^\\\[\](){}|*+?^$]"
_NAME = re.compile(rf"\^?(?:{_CHARACTER})+\$?")
_TOKEN = re.compile(
    rf"(?P<mark>[\^$|)]|\((?:\?:)?)"
    rf"|(?P<one>\\[dDwWsS]|\[\^?(?:\\[dDwWsS]|\\[^A-Za-z0-9]|[^\\\[\]])+\]|{_CHARACTER})"
    r"(?P<times>[*+?]?)\??"
)


class Patterns:
    """A table of patterns, `rank_pattern` or `alpha_pattern`, and what it gives their layers."""

    def __init__(self, table: Mapping[str, object]) -> None:
        """Understand a table.

        Raises:
            ValueError: a pattern is damaged, or more than is understood.
        """
        if sum(_NAME.fullmatch(key) is None for key in table) > _MOST:
            raise ValueError(f"there are more than {_MOST} patterns that are no names")
        self._rows = [(_matcher(key), value) for key, value in table.items()]

    def get(self, name: str, default: object) -> object:
        """The value of the first pattern that a layer's name ends in, as PEFT has it.

        Raises:
            ValueError: no layer has such a long name.
        """
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"{name[:40]}... is a name of {len(name)} characters")
        return next((value for matches, value in self._rows if matches(name)), default)


def _matcher(key: str) -> Callable[[str], object]:
    if _NAME.fullmatch(key) and len(key) <= _LONGEST_NAME:
        # Of one length, whatever it matches: nothing to try twice.
        return re.compile(rf"(?:.*\.)?(?:{key})$").match
    try:
        alternatives = _parsed(key) if len(key) <= _LONGEST else None
    except re.error:  # such as [z-a]
        alternatives = None
    if alternatives is None:
        short = key if len(key) <= 80 else f"{key[:80]}..."
        raise ValueError(
            f"pattern {short!r} is damaged, or more than is understood here: write the names of "
            "the layers instead"
        )

    def matches(name: str) -> bool:
        starts = {0, *(dot.end() for dot in re.finditer(r"\.", name))}
        return len(name) in _along(alternatives, name, starts)

    return matches


def _parsed(key: str) -> list[list] | None:
    """A pattern's alternatives, each of steps and of groups, which are alternatives again.

    None where something is not understood: a repeated group, above all.
    """
    groups: list[list[list]] = [[[]]]
    position = 0
    while position < len(key):
        token = _TOKEN.match(key, position)
        if token is None:
            return None
        position = token.end()
        match token["mark"]:
            case "(" | "(?:":
                groups.append([[]])
            case ")":
                group = groups.pop()
                if not groups:
                    return None
                groups[-1][-1].append(group)
            case "|":
                groups[-1].append([])
            case "^":
                groups[-1][-1].append(lambda name, places: places & {0})
            case "$":
                groups[-1][-1].append(lambda name, places: places & {len(name)})
            case _:
                groups[-1][-1].append(_step(token["one"], token["times"]))
    return groups[0] if len(groups) == 1 else None


def _step(character: str, times: str) -> Step:
    """From places in a name to those behind one character, or several of a kind."""
    one = re.compile(character)

    def step(name: str, places: set[Place]) -> set[Place]:
        reached = set(places) if times in ("*", "?") else set()
        latest = places
        while latest:
            behind = {place + 1 for place in latest if one.match(name[place : place + 1])}
            latest = behind - reached
            reached |= latest
            if times not in ("*", "+"):
                break
        return reached

    return step


def _along(alternatives: list[list], name: str, places: set[Place]) -> set[Place]:
    reached: set[Place] = set()
    for steps in alternatives:
        now = places
        for step in steps:
            now = _along(step, name, now) if isinstance(step, list) else step(name, now)
        reached |= now
    return reached
