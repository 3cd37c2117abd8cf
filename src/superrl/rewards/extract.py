"""Finds the answer in a completion, and compares plain numbers without a parser.

Everything here is linear in the length of the text and never raises on it. Leaves out algebra: what is neither equal
text nor a plain number goes to the worker processes of `mathematics.py`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,;]+)")
HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
ANSWER = re.compile(r"\banswer\b(?:[ \t]+is|[ \t]*[:=])+[ \t]*[:=]?[ \t]*(?=\S)", re.IGNORECASE)
TEXT_MACRO = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
SPACING = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!,;: ]|\\?\$|~|\^\s*\\circ|\^\s*\{\\circ\}")
BRACED = re.compile(r"\{([^{}]*)\}")
LOST_ROW = re.compile(r"(?<!\\)\\(?=[-+\d(])")
READABLE = re.compile(r"[\d$\\]")
LOOSE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+")
RATIO = re.compile(r"([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|\\frac(\d)(\d)|(\d+)/(\d+))")
UNIT = re.compile(r"(?P<number>[^A-Za-z]*\d[^A-Za-z]*?)\s*(?:\b[A-Za-z]{2,}[.]?\s*)+")

LONGEST_NUMBER = 100
TAIL = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """The extracted text. `bare`: the answer and nothing else; `phrase`: a line that has it after "answer is";
    `tail`: the end of a completion that does not say what its answer is."""

    text: str
    kind: Literal["bare", "phrase", "tail"]


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}`, the innermost if they are nested; braces are matched."""
    open_braces: list[int | None] = []
    best_start, best = -1, None
    for token in BRACES.finditer(text):
        if token.group() == "{":
            open_braces.append(None)
        elif token.group() == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and start > best_start:
                best_start, best = start, text[start : token.start()]
        elif token.group().endswith("{") and len(token.group()) > 2:
            open_braces.append(token.end())
    for token in BARE_BOX.finditer(text):
        if token.start(1) > best_start:
            best_start, best = token.start(1), token.group(1)
    return best.strip() if best is not None else None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last of the pattern's matches."""
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def last_hashes(text: str) -> str | None:
    """What follows `####` on the last line that starts so with a number, or on the last line of all.

    A completion may use `####` for headings, so a line without a number counts only when nothing follows it.
    """
    found = list(HASHES.finditer(text))
    for line in reversed(found):
        if plain_number(line.group(1)) is not None:
            return line.group(1).strip()
    return found[-1].group(1).strip() if found and not text[found[-1].end() :].strip() else None


def last_answer_phrase(text: str) -> str | None:
    """The rest of the line after the last "answer is", "answer:" or "answer =", without emphasis and full stop."""
    if (last := last_match(ANSWER, text)) is None:
        return None
    line = text[last.end() : last.end() + TAIL].partition("\n")[0]
    return line.replace("**", "").strip().rstrip(".").strip() or None


def find_answer(text: str, *, boxed_only: bool = False) -> Answer | None:
    r"""The completion's answer: `\boxed{}`, else a `####` line, else after "answer is", else somewhere in its end."""
    if (boxed := last_boxed(text)) is not None or boxed_only:
        return Answer(boxed.rstrip(". "), "bare") if boxed else None
    if hashes := last_hashes(text):
        return Answer(hashes, "bare")
    if phrase := last_answer_phrase(text):
        return Answer(phrase, "bare" if plain_number(phrase) is not None else "phrase")
    tail = text.strip()[-TAIL:]
    return Answer(tail, "tail") if READABLE.search(tail) else None


def gold_text(answer: str) -> str:
    r"""The gold answer itself, where a row gives a whole solution ending in `\boxed{}` or `#### n`.

    Answer columns that went through a normaliser write a matrix's row break `\\` as one backslash; it is given back.
    """
    found = last_boxed(answer) or last_hashes(answer) or answer.strip()
    return LOST_ROW.sub(r"\\\\", found) if "matrix}" in found else found


def normalise(text: str) -> str:
    r"""Spellings that mean the same: no `$`, `\left`, `\!`, `\text{}`, `\dfrac`, degrees, loose spaces, full stop."""
    text = TEXT_MACRO.sub(r"\1", text).replace("{,}", ",")
    text = SPACING.sub("", text.replace("\\\\", "\\cr{}").replace("\u2212", "-"))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = LOOSE_SPACE.sub("", " ".join(text.split())).rstrip(".")
    return braced.group(1) if (braced := BRACED.fullmatch(text)) else text


@dataclass(frozen=True, slots=True)
class Number:
    """A plain number: exact, unless it was written with a decimal point."""

    value: Fraction
    decimal: bool

    def equals(self, other: Number) -> bool:
        """Exact between integers and ratios; to six decimals, as math-verify does, if one has a decimal point."""
        if self.decimal or other.decimal:
            return round(self.value, 6) == round(other.value, 6)
        return self.value == other.value


def plain_number(text: str) -> Number | None:
    """An integer (thousands commas allowed), a decimal or a ratio of integers; None for everything else."""
    if len(text) > LONGEST_NUMBER:
        return None
    text = normalise(text)
    if NUMBER.fullmatch(text) and text.isascii():
        return Number(Fraction(text.replace(",", "")), "." in text)
    if (ratio := RATIO.fullmatch(text)) and text.isascii():
        sign, *digits = (group for group in ratio.groups() if group is not None)
        top, bottom = (int(group) for group in digits)
        return Number(Fraction(-top if sign == "-" else top, bottom), False) if bottom else None
    return None


def without_unit(text: str) -> str:
    """`18 dollars` -> `18`: a number followed by words, of at least two letters so that `18 x` stays a product."""
    if len(text) > LONGEST_NUMBER:
        return text
    unit = UNIT.fullmatch(TEXT_MACRO.sub(r"\1", text).strip())
    return unit.group("number") if unit else text


def quick_verdict(gold: str, answer: Answer) -> bool | None:
    """What needs no algebra: equal text is right, a plain number against a plain number is settled; None otherwise."""
    if (spelled := normalise(answer.text)) and spelled == normalise(gold):
        return True
    if answer.kind != "bare":
        return None
    wanted = plain_number(gold)
    given = plain_number(answer.text) or (plain_number(without_unit(answer.text)) if wanted else None)
    return wanted.equals(given) if wanted and given else None
