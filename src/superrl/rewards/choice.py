"""The reward `choice`: 1.0 iff the completion picks the gold letter of a multiple-choice question.

Leaves out the text of the choices: an answer that repeats the choice's words without its letter is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pydantic import field_validator

from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Grader
from superrl.rewards.extract import TEXT_MACRO, last_boxed, last_match

ARTICLES = "AI"


class ChoiceOptions(BaseOptions):
    """`letters`: the letters that name choices, in capitals."""

    letters: str = "ABCDE"

    @field_validator("letters")
    @classmethod
    def _capitals(cls, letters: str) -> str:
        if not letters or not re.fullmatch("[A-Z]+", letters):
            raise ValueError("write the letters in capitals and without separators, as in ABCD")
        return letters


class ChoiceReward(Grader):
    r"""The first of these rules that finds something decides.

    1. The last `\boxed{...}`: a letter, perhaps as `(C)`, `\text{C}` or `C. Paris`. Anything else in it is wrong.
    2. The last "answer is C", "answer: (C)", "Answer: **C**", "answer is option C", in either case.
    3. The last capital letter that stands alone: `(C)`, `C.`, `C)`, `option C`. `A` and `I` before a small letter are
       words of a sentence ("A man ran") and do not count.
    """

    name = "choice"
    Options = ChoiceOptions
    options: ChoiceOptions

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        letters = self.options.letters
        return [
            choice_score(chosen_letter(text, letters), letter_of(problem.answer or "", letters))
            for problem, text in zip(problems, completions, strict=True)
        ]

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        return [
            None
            if letter_of(problem.answer or "", self.options.letters)
            else f"problem {problem.id!r}: the gold answer {str(problem.answer)[:80]!r} is none of the letters "
            f"{self.options.letters}; mend the row or set the reward's option 'letters'"
            for problem in problems
        ]


def choice_score(chosen: str | None, gold: str | None) -> Score:
    """The score of one completion's letter."""
    correct = chosen is not None and chosen == gold
    return Score(float(correct), correct, {"answered": float(chosen is not None)})


def chosen_letter(text: str, letters: str) -> str | None:
    """The letter a completion picks, by the rules of `ChoiceReward`; None if it picks none."""
    if (boxed := last_boxed(text)) is not None:
        return letter_of(boxed, letters)
    found = next((last for pattern in patterns(letters) if (last := last_match(pattern, text))), None)
    return found.group(1).upper() if found else None


def letter_of(answer: str, letters: str) -> str | None:
    """`C`, `(c)`, `C.`, `C) Paris` -> `C`; None for anything that does not begin with one letter of its own."""
    plain = TEXT_MACRO.sub(r"\1", answer).strip()
    found = re.match(rf"[\s$({{\[*]*([{letters}])\s*(?:[)}}\].:*$]|\Z)", plain, re.IGNORECASE)
    return found.group(1).upper() if found else None


@lru_cache(maxsize=32)
def patterns(letters: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Rule 2 and rule 3 for an alphabet."""
    words = "".join(letter + letter.lower() for letter in letters if letter in ARTICLES)
    ends = r"(?![A-Za-z0-9'\u2019])" + (rf"(?!(?<=[{words}])\s+[a-z])" if words else "")
    lead = r"(?i:\banswer\s*(?:is\b|[:=])[\s:=]*(?:(?:option|choice)\s+)?)[*$(\[{]*"
    phrase = rf"{lead}([{letters}{letters.lower()}]){ends}"
    alone = rf"(?<![A-Za-z0-9'\u2019\\])([{letters}]){ends}"
    return re.compile(phrase), re.compile(alone)
