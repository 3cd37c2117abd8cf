"""A reward that is a Python function of the user's, with TRL's signature: f(prompts, completions, **columns) -> list.

Prompts and completions are strings, or message lists for problems that came as messages (`meta["conversational"]`).
Columns are the problems' `answer` and the other entries of their rows, one list each. The function runs in this
process, and whatever is wrong with it is a `UserError` that names it and the first row it went wrong at.

Leaves out async functions, and what TRL passes besides: token ids, the trainer's state and its logging callbacks.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, SupportsFloat

from pydantic import FiniteFloat

from superrl.errors import UserError, one_line
from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Fingerprint, Grader, digest, superrl_version

RESERVED = frozenset({"prompt", "prompts", "completion", "completions", "completion_ids", "conversational", "answer"})

RewardFunction = Callable[..., Any]


class FunctionOptions(BaseOptions):
    """`correct_at: null` is for shaped rewards, of which no value means "correct"."""

    correct_at: FiniteFloat | None = 1.0


class FunctionReward(Grader):
    """Scores with a function; it returns numbers, or `Score` objects when it knows more than a number."""

    Options = FunctionOptions

    def __init__(self, function: RewardFunction, options: FunctionOptions, name: str | None = None) -> None:
        super().__init__(options)
        self.function = function
        self.name = name or qualified_name(function)
        self.gives_correct = options.correct_at is not None

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        if not problems:
            return []
        arguments = call_arguments(problems, completions)
        self._check_signature(arguments)
        try:
            returned = self.function(**arguments)
        except Exception as error:
            kind, where = type(error).__name__, self._first_raising(problems, completions)
            raise UserError(
                f"reward {self.name!r} raised {kind} ({one_line(error)}) {where}; "
                "let it score what it cannot read as 0.0"
            ) from error
        values = self._as_list(returned, len(problems))
        return [self._one(value, index, problems[index]) for index, value in enumerate(values)]

    def decide(self, score: Score) -> Score:
        """A function that returned `correct` in a `Score` has decided; for numbers `correct_at` decides."""
        return score if score.correct is not None else super().decide(score)

    @property
    def fingerprint(self) -> Fingerprint | None:
        source = source_digest(self.function)
        if source is None:
            return None
        options = self.options.model_dump(mode="json", exclude={"weight"})
        return {"reward": self.name, "options": options, "superrl": superrl_version(), "code": source}

    def reads(self, problem: Problem) -> Any:
        return [problem.answer, [dict(message) for message in problem.messages], dict(problem.meta)]

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        return [None] * len(problems)

    def _check_signature(self, arguments: Mapping[str, Any]) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # a builtin or an extension: only calling it can tell
            return
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise UserError(
                f"reward {self.name!r} cannot be called with {', '.join(arguments)} ({one_line(error)}); "
                "declare it as f(prompts, completions, **columns) and name only columns of the data"
            ) from None

    def _first_raising(self, problems: Sequence[Problem], completions: Sequence[str]) -> str:
        """Where it raises when called with one row at a time, for the message."""
        for index, (problem, text) in enumerate(zip(problems, completions, strict=True)):
            try:
                self.function(**call_arguments([problem], [text]))
            except Exception:
                return f"at index {index} (problem {problem.id!r})"
        return f"on {len(problems)} completions together, and on none alone"

    def _as_list(self, returned: Any, count: int) -> list[Any]:
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            raise UserError(f"reward {self.name!r} is async; make it a plain function that returns a list")
        sized = isinstance(returned, Sized) and isinstance(returned, Iterable)
        if not sized or isinstance(returned, (str, bytes, Mapping)):
            kind = type(returned).__name__
            raise UserError(f"reward {self.name!r} returned {kind} instead of a list; return one number a completion")
        values = list(returned)
        if len(values) != count:
            at = min(len(values), count)
            raise UserError(
                f"reward {self.name!r} returned {len(values)} values for {count} completions, so from index {at} on "
                "they do not match; return one number a completion, 0.0 for one that earns nothing"
            )
        return values

    def _one(self, value: Any, index: int, problem: Problem) -> Score:
        if isinstance(value, Score):  # of numpy's numbers or a tensor's, perhaps: a score is written as JSON
            correct = None if value.correct is None else bool(value.correct)
            return Score(float(value.value), correct, {str(name): float(part) for name, part in value.parts.items()})
        where = f"reward {self.name!r} returned {one_line(repr(value), 60)} at index {index} (problem {problem.id!r})"
        if value is None:
            raise UserError(f"{where}; return 0.0 where it does not apply, or leave such rows out of the data")
        try:
            number = float(value) if isinstance(value, SupportsFloat) else None
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = None
        if number is None:
            raise UserError(f"{where}, which is not a number; return one float a completion")
        if not math.isfinite(number):
            raise UserError(f"{where}; return a finite number, for instance 0.0 where the value is not defined")
        return Score(number)


def call_arguments(problems: Sequence[Problem], completions: Sequence[str]) -> dict[str, Any]:
    """TRL's keyword arguments; a column that only some rows have is None in the others."""
    prompts: list[Any] = []
    replies: list[Any] = []
    for problem, text in zip(problems, completions, strict=True):
        as_messages = problem.meta.get("conversational") is True
        prompts.append([dict(message) for message in problem.messages] if as_messages else problem.prompt)
        replies.append([{"role": "assistant", "content": text}] if as_messages else text)
    names = dict.fromkeys(key for problem in problems for key in problem.meta if key not in RESERVED)
    columns = {name: [problem.meta.get(name) for problem in problems] for name in names}
    answers = [problem.answer for problem in problems]
    return {"prompts": prompts, "completions": replies, "answer": answers, **columns}


def qualified_name(function: RewardFunction) -> str:
    """`module.function`, and for an object with `__call__` its type's name."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def source_digest(function: RewardFunction) -> str | None:
    """A hash of the function's module and code; None where the source does not settle what it does.

    That is so for closures, objects with state, builtins and whatever was typed into a prompt.
    """
    function = inspect.unwrap(function)
    if not inspect.isfunction(function) or function.__closure__:
        return None
    try:
        source = Path(inspect.getsourcefile(function) or "").read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError):
        return None
    code = function.__code__
    plain = [value for value in code.co_consts if isinstance(value, (str, int, float, bytes, type(None)))]
    return digest([source, code.co_firstlineno, code.co_code.hex(), code.co_names, plain])
