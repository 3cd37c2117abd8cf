"""The reward `qa`: exact match and F1 of short answers, as SQuAD and HotpotQA define them.

Leaves out supporting facts and unanswerable questions.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Grader

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLE = re.compile(r"\b(a|an|the)\b")
CLOSED = frozenset({"yes", "no", "noanswer"})


class QaOptions(BaseOptions):
    """`metric`: what the value is; `after`: the marker before the answer, "" for the whole completion."""

    metric: Literal["em", "f1"] = "f1"
    after: str = "Answer:"


class QaReward(Grader):
    """The answer is the first line after the last marker, or the last line when there is no marker.

    The gold answers are `answer` and, where a row has it, the list `answers`: the best match counts. `correct` is the
    exact match whatever the metric.
    """

    name = "qa"
    Options = QaOptions
    options: QaOptions

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        return [
            qa_score(answer_line(text, self.options.after), gold_answers(problem), self.options.metric)
            for problem, text in zip(problems, completions, strict=True)
        ]

    def reads(self, problem: Problem) -> Any:
        return gold_answers(problem)

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        return [
            None
            if any(normalise(gold) for gold in gold_answers(problem))
            else f"problem {problem.id!r}: nothing is left of the gold answer {str(problem.answer)[:80]!r} without "
            "articles and punctuation; grade it with the reward 'exact'"
            for problem in problems
        ]


def qa_score(prediction: str, golds: Sequence[str], metric: Literal["em", "f1"]) -> Score:
    """The score of one answer against all gold answers."""
    em = max((exact_match(prediction, gold) for gold in golds), default=0.0)
    f1 = max((token_f1(prediction, gold) for gold in golds), default=0.0)
    parts = {"answered": float(bool(prediction.strip())), "em": em, "f1": f1}
    return Score(em if metric == "em" else f1, em == 1.0, parts)


def gold_answers(problem: Problem) -> list[str]:
    """`answer` and the list `answers` of the row, without repeats."""
    more = problem.meta.get("answers") or ()
    listed = [more] if isinstance(more, str) else [str(answer) for answer in more]
    return list(dict.fromkeys([*([problem.answer] if problem.answer else []), *listed]))


def answer_line(text: str, after: str) -> str:
    """The first line with something on it after the last marker; without the marker, the last such line of all."""
    if not after:
        return text.strip()
    marked = after in text
    lines = [line.strip() for line in text.rpartition(after)[2].splitlines() if line.strip()]
    return "" if not lines else lines[0] if marked else lines[-1]


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's evaluation script, in that order."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 iff the normalised texts are equal; an answer of which nothing is left is wrong."""
    normal = normalise(prediction)
    return float(bool(normal) and normal == normalise(gold))


def token_f1(prediction: str, gold: str) -> float:
    """F1 over the bags of words. HotpotQA's rule: with yes or no on one side only the very same word counts."""
    left, right = normalise(prediction), normalise(gold)
    if (left in CLOSED or right in CLOSED) and left != right:
        return 0.0
    words, wanted = left.split(), right.split()
    common = (Counter(words) & Counter(wanted)).total()
    return 2 * common / (len(words) + len(wanted)) if common else 0.0
