"""An agent's run as a problem with one demonstration cut into steps: what all the formats here are turned into.

**The action is what the environment consumes**: a bare shell command where the scaffold has only a shell, the tool call
as canonical JSON (`calls.render`) where it has tools. Thought and observation stand beside it, never in it. A turn
without an action is dropped and counted, and so is the scaffold's complaint about it.

Leaves out contexts and clipping (`superrl.data.instances`) and how the formats are read (the files beside this one).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents.calls import Call
from superrl.data.importers.base import Drop, ImportOptions
from superrl.data.rows import row_id
from superrl.records import Demonstration, Message, Problem, Step
from superrl.steps.commands import program

LABEL = re.compile(r"\A\s*(?:THOUGHT|DISCUSSION|Thought|Discussion)(?::|[ \t]*\n)\s*")
NAMES = ("id", "traj_id", "trajectory_id")
"""Columns that name a run of their own accord."""
INSTANCE = re.compile(r"([\w.-]+?)__([\w.-]+?)(?:-\d+|\.[0-9a-f]{8}(?:\..*)?)?", re.DOTALL)


class Unusable(Exception):
    """A row of which no trajectory can be made; its reason is a drop's. Raised and caught in this package only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Turn(NamedTuple):
    """One turn of the agent: `command` or `calls` (neither: it did not act), what it thought, what came back."""

    thought: str
    observation: str = ""
    command: str | None = None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What a reader finds in one row. `resolved` is None where the file does not say; `finished` False where it says
    that the run broke off. `system`: kept only where it is part of the task and no scaffold's boilerplate."""

    task: str
    turns: Sequence[Turn]
    scaffold: str
    model: str = ""
    instance: str = ""
    repo: str = ""
    resolved: bool | None = None
    finished: bool = True
    system: str = ""


def converter(read: Callable[[Row], Run]) -> Callable[[Row, ImportOptions], Iterable[Problem | Drop]]:
    """A format's `convert`, from the function that reads one of its rows."""

    def convert(row: Row, options: ImportOptions) -> Iterator[Problem | Drop]:
        try:
            yield from _assembled(read(row), row, options)
        except Unusable as unusable:
            yield Drop(row.where, unusable.reason)

    return convert


def _assembled(run: Run, row: Row, options: ImportOptions) -> Iterator[Problem | Drop]:
    if not options.unresolved and run.resolved is False:
        raise Unusable("unresolved")
    if not options.unresolved and run.resolved is None and not run.finished:
        raise Unusable("unfinished")
    if not run.task.strip():
        raise Unusable("no_task")
    steps: list[Step] = []
    drops: list[Drop] = []
    carried = ""
    only_shell = all(call.command is not None for turn in run.turns for call in _acting(turn.calls))
    for number, turn in enumerate(run.turns, start=1):
        thought = "\n\n".join(filter(None, dict.fromkeys((carried, turn.thought, *_thoughts(turn.calls)))))
        carried = thought if _only_thinks(turn) else ""
        if carried:
            continue
        step = _step(turn._replace(thought=thought), only_shell)
        if step is None:
            drops.append(Drop(f"{row.where}, turn {number}", "no_action"))
        elif step.tool in tool_calls.CLOSING_TOOLS and not options.submit:
            drops.append(Drop(f"{row.where}, turn {number}", "submit"))
        else:
            steps.append(step)
    if not steps:
        raise Unusable("no_steps")
    problem = _problem(run, row, tuple(steps))
    yield from drops
    yield problem


def _problem(run: Run, row: Row, steps: tuple[Step, ...]) -> Problem:
    source = "/".join(filter(None, (run.scaffold, run.model)))
    demonstration = Demonstration("\n".join(step.action for step in steps), steps, source)
    system: tuple[Message, ...] = ({"role": "system", "content": run.system},) if run.system.strip() else ()
    messages: tuple[Message, ...] = (*system, {"role": "user", "content": run.task})
    meta = {
        "repo": run.repo or repository(run.instance),
        "instance_id": run.instance,
        "resolved": run.resolved,
        "scaffold": run.scaffold,
    }
    name = f"{run.instance}:{row.number}" if run.instance else row_id(row)
    own = next((row.values[key] for key in NAMES if _is_name(row.values.get(key))), None)
    problem = Problem(name if own is None else str(own), messages, None, (demonstration,), meta)
    if not _writable(problem):
        raise Unusable("malformed")
    return problem


def _step(turn: Turn, only_shell: bool) -> Step | None:
    """The step of a turn, or None if it does not act."""
    if turn.command is not None:
        command = turn.command.strip()
        action, tool = command, program(command)
    else:
        acting = _acting(turn.calls, closing=True)
        if only_shell and len(acting) == 1 and acting[0].command is not None:
            action = acting[0].command.strip()
            tool = program(action)
        else:
            action = tool_calls.render(acting) if acting else ""
            tool = "+".join(dict.fromkeys(_tool(call, only_shell) for call in acting))
    if not action:
        return None
    thought = LABEL.sub("", turn.thought).strip()
    return Step(action, thought=thought, observation=turn.observation, tool=tool or action.split()[0])


def _tool(call: Call, only_shell: bool) -> str:
    """What a call counts as in a table by tool."""
    return program(call.command) or call.name if only_shell and call.command is not None else call.name


def _acting(calls: Sequence[Call], *, closing: bool = False) -> list[Call]:
    """The calls that do something: no bare thinking; the closing ones only if asked for."""
    left_out = tool_calls.THINKING_TOOLS | (frozenset() if closing else tool_calls.CLOSING_TOOLS)
    return [call for call in calls if call.name not in left_out]


def _thoughts(calls: Sequence[Call]) -> Iterator[str]:
    """What was thought aloud by calling a tool for it."""
    for call in calls:
        thought = call.arguments.get("thought")
        if call.name in tool_calls.THINKING_TOOLS and isinstance(thought, str):
            yield thought


def _only_thinks(turn: Turn) -> bool:
    """Whether all its calls are of a tool for thinking: such a turn is the thought of the next."""
    return bool(turn.calls) and not _acting(turn.calls, closing=True)


def repository(instance: str) -> str:
    """`owner/name` out of a SWE-bench or SWE-smith instance's name, or "".

    >>> repository("django__django-12143"), repository("pandas-dev__pandas.95280573.pr_53652")
    ('django/django', 'pandas-dev/pandas')
    """
    found = INSTANCE.fullmatch(instance)
    return f"{found[1]}/{found[2]}" if found else ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() != ""


def _writable(problem: Problem) -> bool:
    """Whether all of its text is UTF-8: half a surrogate pair would stop the tokenizer much later."""
    steps = (step for demonstration in problem.demonstrations for step in demonstration.steps)
    texts = [message["content"] for message in problem.messages]
    texts += [part for step in steps for part in (step.action, step.thought, step.observation, step.tool)]
    texts += [value for value in problem.meta.values() if isinstance(value, str)]
    texts += [demonstration.source for demonstration in problem.demonstrations]
    try:
        "".join([problem.id, *texts]).encode()
    except UnicodeEncodeError:
        return False
    return True
