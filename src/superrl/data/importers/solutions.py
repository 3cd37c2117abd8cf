"""Written solutions of the kinds people have: each row a problem with one demonstration, cut into steps.

Solutions that are whole texts are cut by a parser (`superrl.steps.parse`), and the format that it found stands in the
column `format`; where a file lists its steps, a step is a line. Only right solutions are taken where a file says which
are right: a column `correct`, `is_correct`, `resolved` or `verdict`, or one named at the format.

Leaves out agents' trajectories (`agents/`) and which format a file has (`superrl.data.importers`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from superrl.data import presets
from superrl.data.files import Row
from superrl.data.importers.base import Drop, Format, ImportOptions, Parser
from superrl.data.rows import EXPERT_COLUMNS, answer_text, problems_of
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Step
from superrl.rewards.extract import last_boxed
from superrl.steps.parse import HEADERS, Solution, parse

Found = Iterable[Problem | Drop]
Read = Callable[[Row, ImportOptions], Found]

VERDICTS = ("correct", "is_correct", "resolved", "verdict")
WRONG = frozenset({"no", "false", "incorrect", "wrong", "unresolved", "failed", "fail", "0", "0.0"})
SHORT = 200
"""A gold solution of one line and at most so many characters is an answer."""


def is_wrong(values: Mapping[str, Any], columns: Sequence[str] = VERDICTS) -> bool:
    """Whether a row says that its solution is wrong; one that says nothing is taken at its word."""
    return any(str(values[key]).strip().lower() in WRONG for key in columns if values.get(key) is not None)


def cut(problem: Problem, demonstration: Demonstration, parser: Parser) -> Problem | str:
    """The problem with this demonstration alone, in steps; or why it has none.

    Steps that come with the demonstration stay. If they are plain texts that a parser would have cut just so, their
    headers become leads and titles.
    """
    steps, form = demonstration.steps, {}
    if not steps or all(step == Step(step.action) for step in steps):
        found = parse(demonstration.text, "auto" if steps else parser)
        if isinstance(found, Solution) and (not steps or _is_headed(found, steps)):
            steps, form = found.steps, {"format": found.format}
        elif not steps:
            return str(found)
    demonstrations = (replace(demonstration, steps=steps),)
    return replace(problem, demonstrations=demonstrations, meta={**problem.meta, **form})


def _is_headed(found: Solution, steps: Sequence[Step]) -> bool:
    """Whether a parser found headers at these very steps."""
    texts = [[step.text.strip() for step in given] for given in (found.steps, steps)]
    return found.format in HEADERS and texts[0] == texts[1]


def _guarded(read: Read, columns: Sequence[str] = VERDICTS) -> Read:
    """`read` for the rows whose solution is not known to be wrong; what it refuses is dropped as malformed."""

    def convert(row: Row, options: ImportOptions) -> Iterator[Problem | Drop]:
        if not options.unresolved and is_wrong(row.values, columns):
            yield Drop(row.where, "unresolved")
            return
        try:
            yield from list(read(row, options))
        except UserError:
            yield Drop(row.where, "malformed")

    return convert


def _written(problem: Problem, text: str, source: str, row: Row, options: ImportOptions) -> Found:
    """A problem whose solution is one text."""
    found = cut(problem, Demonstration(text, source=source), options.parser)
    return [Drop(row.where, found) if isinstance(found, str) else found]


def _listed(problem: Problem, lines: Sequence[str], source: str, row: Row, before: str = "") -> Found:
    """A problem whose solution is a list of steps, a line each, after a line without a step."""
    steps = [" ".join(line.split()) for line in lines if line.strip()]
    if len(steps) < 2:
        return [Drop(row.where, "one_step" if steps else "no_steps")]
    text = "\n".join(filter(None, [before, *steps]))
    demonstration = Demonstration(text, tuple(map(Step, steps)), source)
    return [replace(problem, demonstrations=(demonstration,), meta={**problem.meta, "format": "lines"})]


def _problem(row: Row, question: str, answer: str | None, used: set[str]) -> Problem:
    """The column `question` as a prompt; the columns not used go to `meta`."""
    problem = presets.problem(row, presets.text_of(row, question), answer or "", None, {question, *used})
    return problem if answer else replace(problem, answer=None)


def _rows(row: Row, options: ImportOptions) -> Found:
    """Every demonstration a trajectory of its own. A row that is one step already is cut no further."""
    if {"trajectory", "step", "steps"} <= set(row.values):
        return [Drop(row.where, "is_step")]
    dropped: Counter[str] = Counter()
    (problem,) = problems_of([row], dropped)
    if not problem.demonstrations:
        return [Drop(row.where, "empty" if dropped["empty"] else "no_demonstration")]
    found = [cut(problem, demonstration, options.parser) for demonstration in problem.demonstrations]
    return [Drop(row.where, one) if isinstance(one, str) else one for one in found]


def _s1k(row: Row, options: ImportOptions) -> Found:
    """The final answer of DeepSeek-R1; its thinking is of the whole and goes to the meta."""
    text, gold = presets.text_of(row, "deepseek_attempt"), presets.text_of(row, "solution").strip()
    answer = last_boxed(gold)
    if answer is None:
        answer = gold if "\n" not in gold and len(gold) <= SHORT else last_boxed(text)
    problem = _problem(row, "question", answer, {*row.values} - {"cot_type", "source_type"})
    thinking = row.values.get("deepseek_thinking_trajectory") or ""
    problem = replace(problem, meta={**problem.meta, "thinking": thinking})
    return _written(problem, text, "deepseek-r1", row, options)


def _planning(row: Row, options: ImportOptions) -> Found:
    """Numbered anew in every domain."""
    answer = presets.text_of(row, "ground_truth_plan")
    problem = _problem(row, "query", answer, {"ground_truth_plan", "attempt", "think", "plan"})
    domain, number = row.values.get("domain") or "planning", row.values.get("id")
    name = problem.id if number is None else f"{domain}-{number}"
    problem = replace(problem, id=name, meta={**problem.meta, "thinking": row.values.get("think") or ""})
    return _written(problem, presets.text_of(row, "attempt"), "deepseek-r1", row, options)


def _reasoning_gym(row: Row, options: ImportOptions) -> Found:
    problem = _problem(row, "question", answer_text(row), {"answer", "response", "numbered_steps", "titled"})
    return _written(problem, presets.text_of(row, "response"), str(row.values.get("model") or ""), row, options)


def _gsm8k(row: Row, options: ImportOptions) -> Found:
    problem = presets.gsm8k(row, {})
    return _listed(problem, [step.text for step in problem.demonstrations[0].steps], "gsm8k", row)


def _math(row: Row, options: ImportOptions) -> Found:
    problem = presets.math(row, {})
    texts = [demonstration.text for demonstration in problem.demonstrations]
    return _written(problem, texts[0], "math", row, options) if texts else [Drop(row.where, "no_demonstration")]


def _champ(row: Row, options: ImportOptions) -> Found:
    problem = _problem(row, "problem", answer_text(row), {"answer", "steps"})
    return _listed(problem, _list(row, "steps"), "champ", row)


def _knights(row: Row, options: ImportOptions) -> Found:
    """The last step says that it works out, and the answer: who is what, in one line."""
    names = _list(row, "names")
    kinds = ["knight" if one else "knave" for one in _list(row, "solution", bool)]
    if len(names) != len(kinds):
        raise UserError(f"{row.where}: `names` and `solution` differ in length: repair the row")
    answer = ", ".join(f"{name} is a {kind}" for name, kind in zip(names, kinds, strict=True))
    used = {"names", "solution", "solution_text", "cot_head", "cot_foot", "steps", "statements"}
    problem = _problem(row, "quiz", answer, used)
    closing = f"{row.values.get('cot_foot') or ''} {answer}."
    head = " ".join(str(row.values.get("cot_head") or "").split())
    return _listed(problem, [*_list(row, "steps"), closing], "knights-and-knaves", row, head)


def _list(row: Row, column: str, kind: type = str) -> list[Any]:
    """A column that holds a list, or the text of one as Python writes it."""
    value = row.values.get(column)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
        raise UserError(f"{row.where}: `{column}` is no list of {kind.__name__}: repair the row")
    return list(value)


def _has(*columns: str) -> Callable[[Sequence[Row]], bool]:
    return lambda rows: bool(rows) and all(set(columns) <= set(row.values) for row in rows)


def _is_gsm8k(rows: Sequence[Row]) -> bool:
    return _has("question", "answer")(rows) and all("####" in str(row.values["answer"]) for row in rows)


def _is_messages(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(isinstance(row.values.get("messages"), list) for row in rows)


def _is_ours(rows: Sequence[Row]) -> bool:
    prompted = _has("prompt")(rows)
    return prompted and any(row.values.get(column) is not None for row in rows for column in EXPERT_COLUMNS)


OWN = Format("rows", "rows of ours: prompt and demonstrations (or completion)", _is_ours, _guarded(_rows))
MESSAGES = Format("messages", "chats whose last message is a written solution", _is_messages, _guarded(_rows))
SOLUTION_FORMATS: tuple[Format, ...] = (
    Format(
        "s1k",
        "s1K-1.1: question, solution, deepseek_attempt",
        _has("question", "solution", "deepseek_attempt"),
        _guarded(_s1k, ("deepseek_grade",)),
    ),
    Format(
        "planning",
        "DeepSeek-R1 on planning: query, attempt, plan",
        _has("query", "attempt", "plan"),
        _guarded(_planning),
    ),
    Format(
        "knights-and-knaves",
        "Knights & Knaves: quiz, names, solution, steps",
        _has("quiz", "names", "solution", "steps"),
        _guarded(_knights),
    ),
    Format("champ", "CHAMP: problem, answer, a list of steps", _has("problem", "answer", "steps"), _guarded(_champ)),
    Format(
        "reasoning-gym",
        "answers to reasoning-gym tasks: question, answer, response, task",
        _has("question", "answer", "response", "task"),
        _guarded(_reasoning_gym),
    ),
    Format("gsm8k", "GSM8K: question, answer with a line `#### n`", _is_gsm8k, _guarded(_gsm8k)),
    Format("math", "MATH: problem, solution", _has("problem", "solution"), _guarded(_math)),
)
"""Written solutions; the particular before the general."""
