"""What every reward is: problems and completions in, one `Score` each out.

`Grader` is one named reward with typed options; `Weighted` is a sum of rewards. A reward never raises on model text: a
completion it cannot read is a wrong answer. What it may raise is a `UserError`, when the recipe or the user's own
function is at fault.

Leaves out models, and anything else that needs a network or a device.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from superrl.errors import UserError, nearest
from superrl.records import Problem, Score, Trajectory

Fingerprint = Mapping[str, Any]
"""JSON that changes whenever the scores might: name, options, versions, and the source of the code that scores."""


class BaseOptions(BaseModel):
    """Options every reward takes: its weight in a sum, and the value from which an answer counts as correct."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weight: FiniteFloat = 1.0
    correct_at: FiniteFloat | None = None


AnyOptions = TypeVar("AnyOptions", bound=BaseOptions)


class Reward(ABC):
    """The interface. `gives_correct` says before a run starts whether scores carry `correct`, which gates read."""

    gives_correct: bool

    @abstractmethod
    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        """One score a completion, in order; `problems[i]` is the problem of `completions[i]`."""

    def score_rollouts(self, problems: Sequence[Problem], trajectories: Sequence[Trajectory]) -> list[Score]:
        """As `score`, of rollouts: for a reward that reads more of one than its text (how it ended, say)."""
        return self.score(problems, [trajectory.text for trajectory in trajectories])

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint | None:
        """What scores depend on besides the problem and the text; None when that cannot be known (then: no cache)."""

    @property
    def awaits(self) -> frozenset[str]:
        """The folders of its run that it needs and that a stage writes at its end: before that it scores nothing."""
        return frozenset()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Parts that not every score has: a step in which none does has them as null in its metrics."""
        return ()

    def reads(self, problem: Problem) -> Any:
        """The part of the problem that its scores depend on, as JSON: with the text it is the key of the cache."""
        return problem.answer

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        """For each problem: None if its gold answer can be graded, else one sentence that says why not."""
        return [None] * len(problems)

    def unreadable(self, problem: Problem) -> str | None:
        """`unreadable_all` for one problem."""
        return self.unreadable_all([problem])[0]

    def open(self) -> None:  # noqa: B027  (most rewards hold nothing)
        """Load now what must not be loaded in another thread, which it may be asked from next."""

    def close(self) -> None:  # noqa: B027
        """Ends worker processes, if there are any; the reward may be used again and starts new ones."""

    def __enter__(self) -> Reward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class Grader(Reward):
    """One named reward. Subclasses write `grade`, and `unreadable_all` when not every gold answer will do."""

    name: str
    Options: ClassVar[type[BaseOptions]] = BaseOptions

    def __init__(self, options: BaseOptions) -> None:
        self.options = options
        self.gives_correct = True

    @abstractmethod
    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        """The scores before `correct_at`."""

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        assert len(problems) == len(completions), f"{len(problems)} problems for {len(completions)} completions"
        return [self.decide(score) for score in self.grade(problems, completions)]

    def decide(self, score: Score) -> Score:
        """`correct_at`, where the recipe sets it, replaces the grader's own opinion of what is correct."""
        at = self.options.correct_at
        return score if at is None else replace(score, correct=score.value >= at)

    @property
    def fingerprint(self) -> Fingerprint | None:
        options = self.options.model_dump(mode="json", exclude={"weight"})
        return {"reward": self.name, "options": options, "superrl": superrl_version(), "code": own_code()}

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        return [None if (problem.answer or "").strip() else no_answer(problem) for problem in problems]


class Weighted(Reward):
    """value = sum of weight * value; correct = all rewards that say correct agree; parts = `name` and `name/part`."""

    def __init__(self, parts: Sequence[tuple[str, float, Reward]]) -> None:
        self.parts = tuple(parts)
        self.gives_correct = any(reward.gives_correct for _, _, reward in self.parts)

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        columns = [reward.score(problems, completions) for _, _, reward in self.parts]
        return [self._sum(row) for row in zip(*columns, strict=True)]

    def score_rollouts(self, problems: Sequence[Problem], trajectories: Sequence[Trajectory]) -> list[Score]:
        columns = [reward.score_rollouts(problems, trajectories) for _, _, reward in self.parts]
        return [self._sum(row) for row in zip(*columns, strict=True)]

    def _sum(self, row: Sequence[Score]) -> Score:
        total, parts = 0.0, {}
        for (name, weight, _), score in zip(self.parts, row, strict=True):
            total += weight * score.value
            parts[name] = score.value
            parts |= {f"{name}/{part}": value for part, value in score.parts.items()}
        opinions = [score.correct for score in row if score.correct is not None]
        return Score(total, all(opinions) if opinions else None, parts)

    @property
    def fingerprint(self) -> Fingerprint | None:
        inner = [(weight, reward.fingerprint) for _, weight, reward in self.parts]
        if any(fingerprint is None for _, fingerprint in inner):
            return None
        return {"sum": [{"weight": weight, "of": fingerprint} for weight, fingerprint in inner]}

    @property
    def awaits(self) -> frozenset[str]:
        return frozenset().union(*(reward.awaits for _, _, reward in self.parts))

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(f"{name}/{part}" for name, _, reward in self.parts for part in reward.part_names)

    def reads(self, problem: Problem) -> Any:
        return [reward.reads(problem) for _, _, reward in self.parts]

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        columns = [reward.unreadable_all(problems) for _, _, reward in self.parts]
        return [next((why for why in row if why), None) for row in zip(*columns, strict=True)]

    def open(self) -> None:
        for _, _, reward in self.parts:
            reward.open()

    def close(self) -> None:
        for _, _, reward in self.parts:
            reward.close()


def no_answer(problem: Problem) -> str:
    """The sentence for a problem whose gold answer is missing or blank."""
    return f"problem {problem.id!r} has no gold answer; add an 'answer' to its row"


def parse_options(kind: type[AnyOptions], options: Mapping[str, Any], name: str) -> AnyOptions:
    """Typed options from a recipe's mapping; an unknown or ill-typed one is a `UserError` that names it."""
    if unknown := [key for key in options if key not in kind.model_fields]:
        hint = nearest(str(unknown[0]), {"name", *kind.model_fields})
        raise UserError(f"reward {name!r} has no option {unknown[0]!r}; {hint}")
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "options"
        raise UserError(f"reward {name!r}, option {where!r}: {first['msg']}, got {first['input']!r}") from None


def superrl_version() -> str:
    """The installed version, or `source` for a checkout that is only on the path."""
    try:
        return version("superrl")
    except PackageNotFoundError:
        return "source"


@lru_cache(maxsize=1)
def own_code() -> str:
    """A digest of this package's source: a cached score must not outlive the code that gave it."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest([file.read_text(encoding="utf-8") for file in files])


def digest(value: Any) -> str:
    """A short, stable hash of a JSON-able value; other objects count by their `repr`."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
