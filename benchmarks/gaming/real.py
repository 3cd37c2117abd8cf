"""Pairs from real steps of MATH and of reasoning-gym; rules that know nothing of the similarity make the twins.

Needs the data folder (`SUPERRL_DATA`). A wrong twin has one digit, sign, exponent or variable of a formula changed; a
right twin other words, another LaTeX form, or an equation read from right to left. Leaves out: true paraphrases, which
no rule can write.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gaming.item import Item

SYNONYMS = (
    ("Since", "As"), ("Therefore", "Thus"), ("Thus", "Hence"), ("Then", "After that"), ("so", "and thus"),
    ("we get", "we obtain"), ("we have", "it holds that"), ("find", "determine"), ("Calculate", "Work out"),
    ("gives", "yields"), ("Now", "Next"), ("Let's", "Let us"), ("Note that", "Observe that"), ("need to", "have to"),
    ("First", "To begin with"), ("Simplify", "Reduce"), ("The", "Our"), ("the", "this"), ("must be", "has to be"),
)  # fmt: skip
NOTATION = (
    (re.compile(r"\\cdot(?![A-Za-z])"), r"\\times"),
    (re.compile(r"\\times(?![A-Za-z])"), r"\\cdot"),
    (re.compile(r"\\frac(?=\{)"), r"\\dfrac"),
    (re.compile(r"\\le(?![A-Za-z])"), r"\\leq"),
    (re.compile(r"\\ge(?![A-Za-z])"), r"\\geq"),
    (re.compile(r"\^([0-9a-z])(?![0-9a-z])"), r"^{\1}"),
    (re.compile(r"(?<=[0-9a-z)]) ([-+=]) (?=[0-9a-z(])"), r"\1"),
    (re.compile(r"(?<!\$)\$([^$]+)\$(?!\$)"), r"\\(\1\\)"),
    (re.compile("×"), "*"),
)
EQUATION = re.compile(
    r"\$([^$=<>]+?)\s?=\s?([^$=<>,.]+?)\$|(?<=[:\n-] )([0-9a-z(][0-9a-z +*/()-]*) = (-?[0-9]+)(?=\n|$)"
)
DIGIT = re.compile(r"(?<!x)[0-9](?![0-9]*[.)] )")
SIGN = re.compile(r"(?<=[0-9)}] )[-+](?= [0-9a-z(\\]\b)|(?<=\b[0-9a-z)}])[-+](?=[0-9a-z(\\](?![a-z]))")
EXPONENT = re.compile(r"(?<=\^)[2-9]")
VARIABLE = re.compile(r"(?<=\$)[a-z](?= ?[=+^<>-])|(?<=[0-9])[xyzabn](?![A-Za-z])")
FORMULA = re.compile(r"[0-9)}]\s?[-+=*×^/]\s?[0-9a-z({\\$]")
UNREAD = re.compile(r"asy|0x|[`#|_\[]|<(?!answer)")
"""Code, tables, hexadecimal numbers and grids are no mathematical steps."""


def items(data: Path, count: int) -> list[Item]:
    """`count` steps with their twins, half from each source, the same in every run."""
    rng = random.Random("real")
    found: list[Item] = []
    for steps in (_competition(data), _expert(data)):
        texts = sorted(
            {step for step in steps if 60 <= len(step) <= 500 and FORMULA.search(step) and not UNREAD.search(step)}
        )
        rng.shuffle(texts)
        made = (item for item in (_item(text, rng) for text in texts) if item is not None)
        found += [item for item, _ in zip(made, range(count // 2), strict=False)]
    return found


def _competition(data: Path) -> Iterator[str]:
    """Sentences of solutions to MATH."""
    with gzip.open(data / "math" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield from (part.strip() for part in re.split(r"(?<=[a-z$\]]\.)\s+", json.loads(line)["solution"]))


def _expert(data: Path) -> Iterator[str]:
    """Numbered steps of solutions to reasoning-gym's tasks."""
    with gzip.open(data / "steps" / "reasoning_gym_expert_steps.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield from (part.strip() for part in re.split(r"\n(?=\d+\. )", json.loads(line)["response"]))


def _item(text: str, rng: random.Random) -> Item | None:
    """The step with its twins, or None where no rule applies."""
    words = notation = text
    for old, new in SYNONYMS:
        words = re.sub(rf"\b{old}\b", new, words, count=1)
    for pattern, instead in (rng.choice(NOTATION[:5]), *NOTATION[5:]):
        notation = pattern.sub(instead, notation)
    right = {"words": words, "notation": notation, "flipped": EQUATION.sub(_flip, text, count=1)}
    wrong = {
        "digit": _change(text, DIGIT, rng, lambda d: str((int(d) + rng.randint(1, 9)) % 10)),
        "sign": _change(text, SIGN, rng, lambda s: "-" if s == "+" else "+"),
        "exponent": _change(text, EXPONENT, rng, lambda e: str(int(e) + 1)),
        "variable": _change(text, VARIABLE, rng, lambda v: rng.choice([w for w in "xyzabn" if w != v])),
    }
    right = {kind: twin for kind, twin in right.items() if twin != text}
    wrong = {kind: twin for kind, twin in wrong.items() if twin != text}
    if not right or not wrong or len({*right.values(), *wrong.values()}) != len(right) + len(wrong):
        return None
    return Item(text, right, wrong, {})


def _flip(match: re.Match[str]) -> str:
    left, right = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    return f"${right} = {left}$" if match[1] is not None else f"{right} = {left}"


def _change(text: str, pattern: re.Pattern[str], rng: random.Random, change: Callable[[str], str]) -> str:
    """The text with one of the pattern's matches changed; the text itself where there is none."""
    places = list(pattern.finditer(text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + change(place.group()) + text[place.end() :]
