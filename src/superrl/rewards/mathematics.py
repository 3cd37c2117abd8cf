"""The reward `math`: 1.0 iff the completion's final answer equals the gold answer, as mathematics.

Equal text and plain numbers are decided here; everything else by math-verify in worker processes (`math_worker.py`).
math-verify's own time limit is an alarm signal, which only works in the main thread: it is off, and a worker that works
for more than `timeout` seconds on one answer is ended; that answer scores 0 and counts in the part `timeout`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import PositiveFloat

from superrl.errors import UserError
from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Fingerprint, Grader, no_answer
from superrl.rewards.extract import Answer, find_answer, gold_text, plain_number, quick_verdict
from superrl.rewards.workers import Pool

LONGEST_ANSWER = 2000
REMEMBERED = 20_000
WORKER = Path(__file__).with_name("math_worker.py")

Pair = tuple[str, Answer | None]
"""The gold answer and the completion's."""

Verdict = tuple[bool, str]
"""Whether the answers are equal, and how that was found: ok, timeout or crash."""


class MathOptions(BaseOptions):
    r"""`timeout`: seconds of processor time for one answer; `boxed_only`: nothing but `\boxed{}` is an answer."""

    timeout: PositiveFloat = 5.0
    boxed_only: bool = False


class MathReward(Grader):
    r"""Reads the last `\boxed{}`, else a `#### n` line, else what follows "answer is", else the end of the text."""

    name = "math"
    Options = MathOptions
    options: MathOptions

    def __init__(self, options: MathOptions, processes: int | None = None) -> None:
        super().__init__(options)
        if find_spec("math_verify") is None:
            raise UserError("the reward 'math' needs the package math-verify; pip install math-verify")
        self._pool = Pool(WORKER, processes)
        self._known: OrderedDict[Pair, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        golds = [gold_text(problem.answer or "") for problem in problems]
        answers = [find_answer(text, boxed_only=self.options.boxed_only) for text in completions]
        with self._lock:
            verdicts = self._verdicts(list(zip(golds, answers, strict=True)))
        return [math_score(answer, verdict) for answer, verdict in zip(answers, verdicts, strict=True)]

    def _verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Each distinct pair is decided once; what is remembered includes time-outs, which cost the most."""
        verdicts = {pair: self._known.get(pair) or in_process(*pair) for pair in pairs}
        asked = [pair for pair, verdict in verdicts.items() if verdict is None]
        replies = self._pool.ask([request_of(*pair) for pair in asked], self.options.timeout)
        verdicts |= {pair: (bool(reply.value), reply.status) for pair, reply in zip(asked, replies, strict=True)}
        for pair in verdicts:
            self._remember(pair, verdicts[pair])
        return [known for pair in pairs if (known := verdicts[pair]) is not None]

    def _remember(self, pair: Pair, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._known[pair] = verdict
            self._known.move_to_end(pair)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    @property
    def fingerprint(self) -> Fingerprint | None:
        packages = {name: version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy")}
        return {**(super().fingerprint or {}), "packages": packages}

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        """A gold answer is readable if it is a plain number or the parser makes an expression of it."""
        why: list[str | None] = [None if (problem.answer or "").strip() else no_answer(problem) for problem in problems]
        golds = [gold_text(problem.answer or "") for problem in problems]
        asked = [index for index, gold in enumerate(golds) if why[index] is None and plain_number(gold) is None]
        replies = self._pool.ask([{"gold": golds[index]} for index in asked], self.options.timeout)
        for index, reply in zip(asked, replies, strict=True):
            if not reply.value:
                why[index] = (
                    f"problem {problems[index].id!r}: no parser reads the gold answer {golds[index][:80]!r}; "
                    "write a number or LaTeX, or grade it with the reward 'exact'"
                )
        return why

    def close(self) -> None:
        self._pool.close()


def in_process(gold: str, answer: Answer | None) -> Verdict | None:
    """The verdicts that need no worker: no answer, no gold, an essay for an answer, equal text, plain numbers."""
    if answer is None or not gold.strip():
        return False, "ok"
    quick = quick_verdict(gold, answer)
    if quick is None and len(answer.text) > LONGEST_ANSWER:
        return False, "ok"
    return None if quick is None else (quick, "ok")


def request_of(gold: str, answer: Answer | None) -> dict[str, object]:
    """What the worker is asked."""
    assert answer is not None, "no answer is settled in this process"
    text = f"answer: {answer.text}" if answer.kind == "phrase" else answer.text  # what the parser looks for
    return {"gold": gold, "prediction": text, "bare": answer.kind == "bare"}


def math_score(answer: Answer | None, verdict: Verdict) -> Score:
    """1.0 or 0.0; `answered`: it said what its answer is, `timeout` and `crash`: no verdict was reached."""
    correct, status = verdict
    parts = {"answered": float(answer is not None and answer.kind != "tail"), "timeout": float(status == "timeout")}
    return Score(float(correct), correct, parts | ({"crash": 1.0} if status == "crash" else {}))
