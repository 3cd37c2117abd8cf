r"""A written solution cut into its steps, and put together again: `render(parse(text)) == text`.

    titled      1. **Factor** body      hash-step   ## Step 1: Factor
    numbered    1. body                 step        Step 1: body
    sentences   a line, or a sentence   lines       a line (only if asked for)

A header stands at the beginning of a line, indented by three spaces at most, and outside blocks (`blocks.py`). The
numbers run 1, 2, 3, ...; a list that begins at 1 again is part of the step it stands in, and a number that would
continue both belongs to the inner list. Whatever precedes the first header is the preamble; whatever follows the last
step without a header of its own (a conclusion, say) is part of that step.

Leaves out what a step is worth, contexts and targets; and turns of agents, which are no text to be cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from superrl.records import Step
from superrl.steps.blocks import Blocks
from superrl.steps.sentences import line_starts, sentence_starts

_NUMBER = r"(?P<number>[0-9]{1,3})"
_REST = r"(?:[.:)]|[ \t]*[-–—])?(?P<title>[^\n]*)"
_BOLD = r"(?P<title>(?:(?!\*\*)[^\n])+)\*\*[ \t]*:?"
_SPACE = r"(?=\s|\Z)"
_STEP = r"(?i:step)[ \t]+"
HEADERS = {
    "titled": (rf"{_NUMBER}[.)][ \t]+\*\*{_BOLD}", rf"\*\*{_NUMBER}[.)][ \t]+{_BOLD}"),
    "hash-step": (
        rf"#{{1,6}}[ \t]+(?:\*\*)?{_STEP}{_NUMBER}(?!\w|[.,][0-9]){_REST}",
        rf"#{{1,6}}[ \t]+(?:\*\*)?{_NUMBER}(?=[.):](?:\s|\Z)){_REST}",
    ),
    "step": (
        rf"\*\*{_STEP}{_NUMBER}\*\*[ \t]*[.:)]?{_SPACE}",
        rf"\*\*{_STEP}{_NUMBER}(?:[.:)]|[ \t]+[-–—])\*\*{_SPACE}",
        rf"\*\*{_STEP}{_NUMBER}(?:[.:)]|[ \t]+[-–—])[ \t]+{_BOLD}",
        rf"{_STEP}{_NUMBER}(?:[.:)]|[ \t]+[-–—]){_SPACE}",
    ),
    "numbered": (rf"{_NUMBER}[.)]{_SPACE}", rf"\*\*{_NUMBER}[.)]\*\*{_SPACE}"),
}
"""The forms that a header has in a format, after its indent; a form that says what is done names it `title`."""

PLAIN = {"sentences": sentence_starts, "lines": line_starts}
"""The formats without headers, and where their steps begin."""

FORMATS = (*HEADERS, *PLAIN)
"""All formats, those that `auto` would rather find first."""

_STARTS = 8
"""So many lists that begin at 1 and never reach 2 are passed over."""

_FORMS = {name: [re.compile(rf"(?P<indent> {{0,3}}){form}") for form in forms] for name, forms in HEADERS.items()}


class _Header(NamedTuple):
    """A header as it stands: its number and title, where it begins (with its indent) and where it ends."""

    number: int
    title: str
    indent: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution in steps: what precedes them, at least two steps, and the format they were found in."""

    preamble: str
    steps: tuple[Step, ...]
    format: str


def parse(text: str, format: str = "auto") -> Solution | str:
    r"""A solution's steps, or why it has none: `empty`, `no_steps`, `one_step`.

    `auto` takes the first of FORMATS that gives steps with something in each of them, or else the first that gives any
    steps; but not titled steps inside larger ones, nor titles that only some of the numbers have.

    >>> parse("So:\n1. **Add** 2+2\n2. **Say** 4").steps[1]
    Step(action='4', lead='2. **Say** ', title='Say', thought='', observation='', tool='')
    >>> parse("It is four.")
    'one_step'
    """
    if not text.strip():
        return "empty"
    if format != "auto":
        return _parse_as(text, format)
    found = {name: _parse_as(text, name) for name in HEADERS}
    solutions = [solution for solution in found.values() if isinstance(solution, Solution)]
    whole = [solution for solution in solutions if all(step.action for step in solution.steps)]
    for candidates in (whole, solutions):
        if candidates:
            return _outermost(candidates)
    return _parse_as(text, "sentences")


def render(solution: Solution) -> str:
    """Exactly the text that was parsed."""
    return "".join([solution.preamble, *(step.text for step in solution.steps)])


def find_header(text: str, number: int, format: str) -> int | None:
    r"""Where in the body of step `number - 1` the header of step `number` begins; None if it is one step alone.

    Read as `parse` reads a body, so that no body which `parse` gave has one. What stands first in the text is no
    header of a further step, since nothing precedes it. For `sentences` and `lines`: where a second one begins.

    >>> find_header("x = 2\n3. **Say** 2", 3, "titled")
    6
    """
    if format in PLAIN:
        starts = PLAIN[format](text)
        return starts[1] if len(starts) > 1 else None
    found = next(_headers(text, 0, number, format, first=False), None)
    return found.start if found else None


def of_text(step_text: str) -> Step:
    """One step's text with its header, if it has one, taken off as lead and title: `of_text(text).text == text`.

    >>> of_text("2. **Say** 4")
    Step(action='4', lead='2. **Say** ', title='Say', thought='', observation='', tool='')
    """
    for format in HEADERS:
        if header := _match(step_text, 0, format):
            return _step(step_text, header, len(step_text))
    return Step(step_text)


def _parse_as(text: str, format: str) -> Solution | str:
    if format in PLAIN:
        starts = PLAIN[format](text)
        if len(starts) < 2:
            return "one_step" if starts else "no_steps"
        steps = tuple(Step(text[start:stop]) for start, stop in zip(starts, [*starts[1:], len(text)], strict=True))
        return Solution(text[: starts[0]], steps, format)
    start, reason = 0, "no_steps"
    for _ in range(_STARTS):
        headers = list(_headers(text, start, 1, format, first=True))
        if not headers:
            break
        if len(headers) > 1:
            stops = [*(header.start for header in headers[1:]), len(text)]
            steps = tuple(_step(text, header, stop) for header, stop in zip(headers, stops, strict=True))
            return Solution(text[: headers[0].start], steps, format)
        start, reason = Blocks(text).next_line(headers[0].end), "one_step"
    return reason


def _step(text: str, header: _Header, stop: int) -> Step:
    """The step from its header up to `stop`; white space before its body belongs to the lead."""
    body = text[header.end : stop]
    action = body.lstrip()
    lead = text[header.start : header.end] + body[: len(body) - len(action)]
    return Step(action, lead=lead, title=header.title)


def _outermost(solutions: list[Solution]) -> Solution:
    """The first, unless titled steps are parts of larger ones (`## Step 1` before `1. **Look**`) or some of more."""
    chosen = solutions[0]
    if chosen.format == "titled":
        for other in solutions[1:]:
            earlier, same = len(other.preamble) < len(chosen.preamble), other.preamble == chosen.preamble
            if earlier if other.format != "numbered" else same and len(other.steps) > len(chosen.steps):
                return other
    return chosen


def _match(text: str, start: int, format: str) -> _Header | None:
    """The header that begins at `start`, the beginning of a line."""
    for form in _FORMS[format]:
        if match := form.match(text, start):
            title = match["title"].strip(" \t\r*").rstrip(":. \t") if "title" in form.groupindex else ""
            return _Header(int(match["number"]), title, len(match["indent"]), start, match.end())
    return None


def _headers(text: str, start: int, number: int, format: str, *, first: bool) -> Iterator[_Header]:
    """The headers numbered `number`, `number + 1`, ... from `start` on, where a line begins outside blocks.

    `first`: whether what stands first may be one. A list inside a step is followed as (indent, number expected next).
    One that opens the body of step 1 is told from the steps by the indent of its further numbers alone: its first may
    be the step's own, repeated, and may have lost its indent.
    """
    blocks = Blocks(text)
    inner: set[tuple[int, int]] = set()
    fresh = not first
    while start < len(text):
        header = _match(text, start, format)
        inside = header and next(filter(inner.__contains__, _continued(header)), None)
        body = start
        if header and inside:
            inner.remove(inside)
            inner.add((inside[0], header.number + 1))
        elif header and header.number == number and (first or not fresh):
            yield header
            number, inner, first, fresh, body = number + 1, set(), True, True, header.end
        elif header and header.number == 1 < number:
            inner.add((1 if fresh and number == 2 else header.indent, 2))
        start = blocks.next_line(body)
        fresh = fresh and not text[body:start].strip()


def _continued(header: _Header) -> Iterator[tuple[int, int]]:
    """The inner lists, as (indent, number), that a header would continue: deeper ones first."""
    return ((indent, header.number) for indent in range(header.indent, -1, -1))
