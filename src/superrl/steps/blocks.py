r"""Blocks that no step begins inside: fenced code, and displayed LaTeX (`$$...$$`, `\[...\]`, `\begin{x}...\end{x}`).

A block that is never closed is none, so that one stray mark does not hide the rest of a solution; nor is displayed
mathematics with an empty line in it, which LaTeX refuses too. Leaves out inline code and mathematics.
"""

from __future__ import annotations

import re
from bisect import bisect_left

_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)*(`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})[^\n]*")
_FENCE_END = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t\r]*$", re.MULTILINE)
_LATEX = re.compile(r"(?<!\\)(?:\$\$|\\\[|\\begin\{(?P<environment>[A-Za-z]{1,30}\*?)\})")
_EMPTY_LINE = re.compile(r"\n[ \t\r]*\n")


class Blocks:
    """The blocks of one text, to be asked for from left to right; linear in the text's length."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._fence_ends = [(match.end(), match[1]) for match in _FENCE_END.finditer(text)]
        self._paragraph_ends = [match.start() for match in _EMPTY_LINE.finditer(text)]
        self._hopeless: dict[str, int] = {}
        """By closing mark: up to where there is none (of fences: from which length on there is none to the end)."""

    def first(self, start: int, stop: int, *, fence: bool) -> tuple[int, int] | None:
        """Begin and end of the first block that opens in [start, stop), which lies within one line and outside blocks.

        `fence`: `start` is where a line, or a step's body, begins, so that a fence may open there.
        """
        if fence and (opened := _FENCE.match(self.text, start)) and (end := self._fence_end(opened)):
            return opened.start(1), end
        for opened in _LATEX.finditer(self.text, start, stop):
            if end := self._latex_end(opened):
                return opened.start(), end
        return None

    def next_line(self, start: int) -> int:
        """Where the next line begins that lies in no block; the text's length if there is none. `start`: as `first`."""
        fence = True
        while True:
            stop = self.text.find("\n", start)
            stop = len(self.text) if stop < 0 else stop
            block = self.first(start, stop, fence=fence)
            if block is None:
                return min(stop + 1, len(self.text))
            start, fence = block[1], False

    def _fence_end(self, opened: re.Match[str]) -> int | None:
        """The end of the first line that closes this fence: the same character, at least as many."""
        mark, length = opened[1][0], len(opened[1])
        if length >= self._hopeless.get(mark, length + 1):
            return None
        for index in range(bisect_left(self._fence_ends, (opened.end() + 1, "")), len(self._fence_ends)):
            end, closing = self._fence_ends[index]
            if closing[0] == mark and len(closing) >= length:
                return end
        self._hopeless[mark] = length
        return None

    def _latex_end(self, opened: re.Match[str]) -> int | None:
        """The end of the mark that closes this block, which for mathematics must stand in the same paragraph."""
        if name := opened["environment"]:
            closing, limit = f"\\end{{{name}}}", len(self.text)
        else:
            closing = "$$" if opened[0] == "$$" else "\\]"
            later = bisect_left(self._paragraph_ends, opened.end())
            limit = self._paragraph_ends[later] if later < len(self._paragraph_ends) else len(self.text)
        if opened.end() <= self._hopeless.get(closing, -1):
            return None
        at = self.text.find(closing, opened.end(), limit)
        if at < 0:
            self._hopeless[closing] = limit
            return None
        return at + len(closing)
