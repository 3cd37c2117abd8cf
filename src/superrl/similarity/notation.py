r"""Cuts a text into words and formulas: LaTeX, Unicode and plain typing become one notation of tokens.

`scan` gives the text's words and, between them, its formulas as runs of tokens: `$2 \cdot x$`, `2·x`, `2*x` and `2x` in
the middle of a sentence are the same run but for the sign of multiplication, which `formulas` does not need. Linear in
the length of the text; reads any text and never raises. Leaves out: matrices, tables, units, equations told in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple


class Token(NamedTuple):
    """`kind`: n number, v variable, f function, c command with arguments, r relation, o operator or bracket."""

    kind: str
    value: str


Run = list[Token]

TRANSLATION = str.maketrans(
    {
        "−": "-", "–": "-", "—": ";", "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "⁄": "/", "²": "^2",
        "³": "^3", "≤": "<=", "≥": ">=", "≠": "!=", "≡": r"\equiv ", "≈": r"\approx ", "√": r"\sqrt ", "π": r"\pi ",
        "°": "", "’": "'", "′": "'", "½": "1/2", "¼": "1/4", "¾": "3/4", "→": ";", "⇒": ";", "\u00a0": " ",
    }
)  # fmt: skip
LONGEST_FORMULA = 1000
"""Characters between two dollars; with more, they are money."""

LONGEST_NAME = 7
"""Letters of the longest function or unit; of `percent`."""

JOINING = frozenset("=+-*/^<>(_")
SIGNS = {sign: Token("o", sign) for sign in "-+*/^!|(){}[],_'"}
DANGLING_END = frozenset("*/^+-([{,_") | {"mod"}
DANGLING_START = frozenset("*/^+!)]},_'")
TEXT_BEGINS, TEXT_ENDS = "\ue000", "\ue001"
"""Stand for the braces of `\text{...}` while a text is read."""

DEGREES = re.compile(r"\^\s?(?:\\circ|\{\s?\\circ\s?\})")
PRIME = re.compile(r"\^\s?(?:\\prime|\{\s?\\prime\s?\})")
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?([0-9])\s?([0-9])")
PROSE = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox|operatorname|mathop|emph)\*?\s?\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s?\{[^{}]*\}")
BULLET = re.compile(r"^[ \t]*[-*•][ \t]+", re.MULTILINE)
TOKEN = re.compile(
    r"(?P<n>[0-9]{1,3}(?:(?:,(?:\\!)?|\{,\}|\\,)[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<w>[^\W\d_]+(?:'[^\W\d_]{1,2}(?![^\W\d_]))?)"
    r"|(?P<c>\\(?:[A-Za-z]+|.))"
    r"|(?P<r><=|>=|!=|==|=>|->|[=<>])"
    r"|(?P<o>\*\*|[-+*/^!|(){}\[\],_'&$:;.?\n\ue000\ue001])",
    re.DOTALL,
)
DOLLAR = re.compile(r"(?<!\\)\$")
WORD_BEFORE_OPERATOR = re.compile(r"\s?[=^_<>+*/]|\s?-\s?[^\W_]")
PERCENT = re.compile(r"\s?\\?%|[ -]?per ?cent\b")
FACTORIAL = re.compile(r"!(?=\s?[-+*/=^)}\],.;\\$]|[ ]?[a-z0-9(])")
ABBREVIATION = re.compile(r"\b(?:i\.\s?e|e\.\s?g|a\.m|p\.m)\.")
DISPLAY = (r"\[", r"\]")
COMMA_KINDS = re.compile(r"\\[,!]|[{},]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTIONS = _set("sqrt gcd lcm sin cos tan cot sec csc log ln lg exp arcsin arccos arctan mod")
CALLED = _set("max min floor ceil abs det deg ord lim sum prod f g h")
"""Functions only where a bracket follows at once; else they are words."""
STRUCTURES = {"frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac"} | {
    "binom": "binom", "dbinom": "binom", "tbinom": "binom", "sqrt": "sqrt",
}  # fmt: skip
RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "le": "<=", "leq": "<=", "ge": ">=",
    "geq": ">=", "leqslant": "<=", "geqslant": ">=", "ne": "!=", "neq": "!=", "lt": "<", "gt": ">", "equiv": "mod=",
    "approx": "~", "sim": "~", "cong": "~",
}  # fmt: skip
OPERATORS = {"cdot": "*", "times": "*", "ast": "*", "div": "/", "bmod": "mod", "pmod": "mod", "mod": "mod"} | {
    "lbrace": "{", "rbrace": "}", "lvert": "|", "rvert": "|", "mid": "|", "vert": "|", "{": "(", "}": ")",
}  # fmt: skip
SPACING = _set(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits boxed quad qquad , ; ! : >"
    " ldots cdots dots hline mathbf mathbb mathcal mathit boldsymbol"
) | {" "}
BREAKS = _set("implies Rightarrow Longrightarrow iff to rightarrow Leftrightarrow therefore because")
UNITS = _set("cm mm km kg ml mg ft in st nd rd th hz am pm min sec hr hrs lb lbs oz ms mph")
SHORT_WORDS = _set("is of to in it we so as by an at be or on if do no up us he me my go am ok oh vs ie eg st nd rd th")
CONNECTING = _set("and or so if for when where with then hence thus since as is are gives that therefore")
ARTICLES = frozenset("aAI")
UNIT_LETTERS = frozenset("mgshlkLJNWKCFVA")
"""Units after a number and a space, in the running text: 5 m."""


def scan(text: str) -> list[str | Run]:
    """The words of the text in lower case and its formulas, in order."""
    for pattern, instead in REWRITES:
        text = pattern.sub(instead, text)
    displays = text.translate(TRANSLATION).split("$$")
    last = len(displays) - 1
    scanner = _Scanner("".join(part + ("" if i == last else DISPLAY[i % 2]) for i, part in enumerate(displays)))
    scanner.read()
    return scanner.out


def _prose(match: re.Match[str]) -> str:
    r"""`\text{...}`: a function's name, a variable, or words within a formula."""
    content = match.group(1).strip()
    if len(content) == 1 or content.lower() in FUNCTIONS | CALLED:
        return f"\\{content} " if len(content) > 1 else content
    return f"{TEXT_BEGINS}{content}{TEXT_ENDS}"


REWRITES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (ENVIRONMENT, " "),
    (PROSE, _prose),
    (DEGREES, ""),
    (PRIME, "'"),
    (SHORT_FRACTION, r"\\frac{\1}{\2}"),
    (BULLET, ""),
    (ABBREVIATION, ""),
)
"""What is settled before there are tokens; in this order."""


@lru_cache(maxsize=1024)
def _variable(letter: str) -> Token:
    return Token("v", letter)


def canonical(digits: str) -> str:
    """A number without separators and needless zeros: 1,000 and 1{,}000 are 1000, .50 is 0.5."""
    if digits.isdecimal() and digits[0] != "0":
        return digits
    digits = COMMA_KINDS.sub("", digits)
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    whole, point, rest = digits.partition(".")
    return (whole.lstrip("0") or "0") + point + rest


def _dollars(text: str) -> frozenset[int]:
    """Where a `$` begins or ends a formula; the others are money. An end follows no space and comes before no digit."""
    paired: list[int] = []
    opening: int | None = None
    for match in DOLLAR.finditer(text):
        at = match.start()
        ends = not text[at - 1].isspace() and not text[at + 1 : at + 2].isdigit()
        if opening is not None and ends and at - opening < LONGEST_FORMULA:
            paired += [opening, at]
            opening = None
        else:
            opening = at
    return frozenset(paired)


class _Scanner:
    """One pass over one text: what is out, the run being built, and whether we are in a formula's delimiters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.dollars = _dollars(text)
        self.out: list[str | Run] = []
        self.run: Run = []
        self.depth = 0
        self.math = False
        self.in_text = False
        self.broken = False
        self.last = ("", -1)

    def read(self) -> None:
        """Take every token of the text in its turn."""
        for match in TOKEN.finditer(self.text):
            kind, value, end = str(match.lastgroup), match.group(), match.end()
            if self.broken and value not in "&\n":
                if not (kind == "r" or (kind == "c" and value[1:] in RELATIONS)):
                    self.flush()
                self.broken = False
            if kind == "w" and end - match.start() > LONGEST_NAME and not (self.math or self.in_text):
                self.plain_word(value)
            elif kind == "n":
                self.number(value, match.start(), end)
            elif kind == "w":
                self.word(value, match.start(), end)
            elif kind == "c":
                self.command(value[1:])
            elif kind == "r":
                self.relation(value)
            else:
                self.operator(value, match.start())
            self.last = (kind, end)
        self.flush()

    def flush(self) -> None:
        """End the run, without the operators and relations at its ends that join it to nothing."""
        run = self.run
        if not run:
            return
        while run and (run[-1].kind == "r" or run[-1].value in DANGLING_END):
            run.pop()
        start = 0
        while start < len(run) and (run[start].kind == "r" or run[start].value in DANGLING_START):
            start += 1
        if any(token.kind in "nv" for token in run):
            self.out.append(run[start:])
        self.run = []
        self.depth = 0

    def number(self, digits: str, start: int, end: int) -> None:
        """A number; directly after another one it begins a run of its own."""
        if self.run and self.run[-1].kind == "n" and self.last[1] < start:
            self.flush()
        percent = PERCENT.match(self.text, end)
        self.run.append(Token("n", canonical(digits) + ("%" if percent else "")))

    def plain_word(self, word: str) -> None:
        """A word of the running text that is too long to be a function or a unit; most words are."""
        if self.run:
            self.flush()
        self.out.append(word.lower())

    def word(self, word: str, start: int, end: int) -> None:
        """A variable, a product of variables, a function, or a word, which ends a formula of the running text."""
        lower = word.lower()
        following = self.text[end : end + 1]
        if lower in FUNCTIONS or (lower in CALLED and following == "("):
            self.run.append(Token("o", "mod") if lower == "mod" else Token("f", lower))
        elif self.in_text:
            if not self.depth and lower in CONNECTING:
                self.flush()
            self.out.append(lower)
        elif self.math and len(word) > 3:
            self.run.append(Token("v", word))
        elif self.math or self._variables(word, lower, start, end):
            self.run += [_variable(letter) for letter in word]
        elif lower not in ("percent", "per", "cent") or self.last[0] != "n":
            self.flush()
            self.out.append(lower)

    def _variables(self, word: str, lower: str, start: int, end: int) -> bool:
        """Whether letters of the running text are variables: x, 2ab, xy = 6, but not "a", "5 cm", "km/h"."""
        if not self.run and self.text[start - 1 : start] == "/":
            return False
        if len(word) == 1 and word not in ARTICLES:
            return word not in UNIT_LETTERS or not self._after_number(start)
        if self.last == ("n", start):
            return len(word) <= 3 and lower not in UNITS
        if len(word) > 2 or lower in SHORT_WORDS or lower in UNITS:
            return False
        joined = bool(self.run) and self.run[-1].value in JOINING and self.last[0] in "ro"
        return joined or WORD_BEFORE_OPERATOR.match(self.text, end) is not None

    def _after_number(self, start: int) -> bool:
        """Whether what ends before `start` is a number, or a formula between dollars, and a space follows it."""
        kind, end = self.last
        return 0 < end < start and (kind == "n" or (self.text[end - 1] == "$" and end - 1 in self.dollars))

    def command(self, name: str) -> None:
        """A LaTeX command, its backslash off."""
        if name in RELATIONS:
            self.run.append(Token("r", RELATIONS[name]))
        elif name in STRUCTURES:
            self.run.append(Token("c", STRUCTURES[name]))
        elif name in OPERATORS:
            self.run.append(Token("o", OPERATORS[name]))
        elif name in FUNCTIONS or name in CALLED:
            self.run.append(Token("f", name))
        elif name in "()[]":
            self.flush()
            self.math = name in "(["
        elif name == "\\":
            self.broken = True
        elif name in BREAKS:
            self.flush()
        elif name.isalpha() and name not in SPACING:
            self.run.append(Token("v", "\\" + name))

    def relation(self, sign: str) -> None:
        """=, < and the like; an arrow ends the run."""
        if sign in RELATIONS:
            self.run.append(Token("r", RELATIONS[sign]))
        else:
            self.flush()

    def operator(self, sign: str, start: int) -> None:
        """Brackets, signs, delimiters, punctuation and line ends."""
        if sign in "([{":
            self.depth += 1
            self.run.append(SIGNS[sign])
        elif sign in ")]}":
            self.depth = max(0, self.depth - 1)
            if self.run:
                self.run.append(SIGNS[sign])
        elif sign in "-+*|" or (sign in "/^_" and self.run):
            self.run.append(SIGNS[sign])
        elif sign == "**" and self.run and self.text[start + 2 : start + 3].strip():
            self.run.append(Token("o", "^"))
        elif (sign == "," and self.depth) or (sign in "!'" and self._follows_operand(sign, start)):
            self.run.append(SIGNS[sign])
        elif sign in (TEXT_BEGINS, TEXT_ENDS):
            self.in_text = sign == TEXT_BEGINS
        elif sign == "$" and start in self.dollars:
            self.flush()
            self.math = not self.math
        elif sign == "\n":
            self.broken = self.broken or not self.math
        elif sign in ",;:.?" and not (self.depth and self.math):
            self.flush()

    def _follows_operand(self, sign: str, start: int) -> bool:
        """Whether ! is a factorial and ' a prime, and neither ends a sentence or a quotation."""
        if not self.run or self.last[1] != start or self.run[-1].kind not in "nvfo":
            return False
        if sign == "'":
            return self.math or self.text[start + 1 : start + 2] == "("
        return self.math or FACTORIAL.match(self.text, start) is not None
