"""Where the lines of a text begin, or its sentences: every line, and every sentence within a line.

Blocks (`blocks.py`) belong to what precedes them. Inline mathematics and code hold no end of a sentence, nor do usual
abbreviations. Leaves out languages that end sentences otherwise than with `.`, `!` or `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from superrl.steps.blocks import Blocks

_OPAQUE = r"(?<!\\)\$[^$\n]+\$|\\\((?:(?!\\\))[^\n]){,500}\\\)|`[^`\n]+`"
_END = r"""(?P<end>[.!?])["'”’)\]*]{,4}[ \t]+(?=["'“‘(\[*]{,4}(?P<next>[^\W\d_a-z]|[$\\]))"""
_TOKEN = re.compile(rf"{_OPAQUE}|{_END}")
_WORD = re.compile(r"[\w.]{1,12}\Z")
_ABBREVIATIONS = frozenset(
    {
        "e.g",
        "i.e",
        "cf",
        "vs",
        "approx",
        "resp",
        "Mr",
        "Mrs",
        "Ms",
        "Dr",
        "Prof",
        "St",
        "No",
        "Nos",
        "Fig",
        "Figs",
        "Eq",
        "Eqs",
        "Ch",
        "Sec",
        "Thm",
        "Prop",
    }
)


def line_starts(text: str) -> list[int]:
    r"""Where each line begins, white space before it left out; a line without a letter or digit begins none.

    >>> line_starts("We add. So x = 2.\n---\nDone.")
    [0, 22]
    """
    return _starts(text, within_lines=False)


def sentence_starts(text: str) -> list[int]:
    r"""Where each line begins, as `line_starts`, and each further sentence in it.

    >>> sentence_starts("We add. So x = 2.\n---\nDone.")
    [0, 8, 22]
    """
    return _starts(text, within_lines=True)


def _starts(text: str, *, within_lines: bool) -> list[int]:
    starts: list[int] = []
    for start, stop, begins_line in _pieces(text):
        piece = text[start:stop]
        if (begins_line or not starts) and any(map(str.isalnum, piece)):
            starts.append(start + len(piece) - len(piece.lstrip()))
        if starts and within_lines:
            starts += _within(text, max(start, starts[-1]), stop)
    return starts


def _within(text: str, start: int, stop: int) -> Iterator[int]:
    """The starts of further sentences in a piece of a line."""
    for token in _TOKEN.finditer(text, start, stop):
        if token["end"] is None:
            continue
        word = _WORD.search(text, max(start, token.start() - 12), token.start())
        listed = word is not None and word[0].isdecimal() and not text[start : word.start()].strip()
        if not listed and (word is None or word[0] not in _ABBREVIATIONS):
            yield token.end()
            start = token.end()


def _pieces(text: str) -> Iterator[tuple[int, int, bool]]:
    """(begin, end, whether a line begins here) of what lies outside blocks, line by line."""
    blocks = Blocks(text)
    start, begins_line = 0, True
    while start < len(text):
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        block = blocks.first(start, stop, fence=begins_line)
        if block is None:
            yield start, stop, begins_line
            start, begins_line = stop + 1, True
        else:
            yield start, block[0], begins_line
            start, begins_line = block[1], False
