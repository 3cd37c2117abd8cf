"""Similarity of two actions of agents, as what the environment would be asked to do (`calls`), not as text.

    call       name equal: 0.3 + 0.7 times the mean over the arguments of either; else 0.3 times Indel of the arguments
    argument   numbers, truth values: equal or not; strings: Indel; lists by place; a missing one: 0
    command    the program for a name, and its simple commands, aligned in order, for arguments (F1); up to 5 % less for
               other preparations (`cd`, `export`), and for other arguments of the tool than the command
    calls      F1 over the best one-to-one matching

So another tool never scores above 0.3, and the same one never below 0.27. Indel, not Ratcliff: symmetric and cheap.
A wrapper changes nothing. Leaves out what a command does: `ls a b` and `ls b a` differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from superrl.similarity.assignment import aligned, assigned
from superrl.similarity.calls import SHELL, Call, json_value, parse_calls
from superrl.similarity.sequence import indel
from superrl.similarity.shell import Script, Simple, files, read_script

NAME = 0.3
"""What the right name is worth, and the most that a call with a wrong one is."""

SETTING = 0.05
"""The share that a command's preparations have in its similarity."""

LARGEST = 4096
"""Comparisons of parts; a pair of actions that needs more is compared by Indel as text."""

_SHELLS = {SHELL, "execute_bash", "execute_command", "run_command", "run_shell_command", "shell", "terminal"}
_SOURCE = ("command", "cmd", "script")
_PATHS = (
    "path",
    "file",
    "file_path",
    "filepath",
    "filename",
    "file_name",
    "absolute_path",
    "relative_path",
)
_SCALAR = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?|true|false|[\[{].*", re.DOTALL)


class Compared(NamedTuple):
    """`value` in [0, 1]; `bounded`: Indel of the text for cost; `tool`, `file`: 1.0 if the expert's tool, or the first
    file it names, is the action's too; `file` is None where the expert names none."""

    value: float
    bounded: bool
    tool: float
    file: float | None


class Read(NamedTuple):
    """A call as it is compared: a shell's with its script and its further arguments."""

    name: str
    arguments: Mapping[str, Any]
    script: Script | None
    files: tuple[str, ...]

    @property
    def tool(self) -> str:
        """What a table by tool calls it: the function, or the program that is run."""
        return self.name if self.script is None else self.script.main


def tool_call(action: str, expert: str) -> float:
    """How alike two actions are as calls; symmetric, 1.0 for equal ones in whatever wrappers.

    >>> tool_call("cd /testbed && ls -l", '{"name": "bash", "arguments": {"command": "cd /testbed && ls -l"}}')
    1.0
    >>> round(tool_call("cd /testbed && python setup.py antlr", "cd /testbed && pip install -e ."), 3)
    0.097
    """
    return compare(action, expert).value


def compare(action: str, expert: str) -> Compared:
    """The similarity, and whether tool and file are the expert's."""
    ours, theirs = read_all(action), read_all(expert)
    tool = float(sorted(one.tool for one in ours) == sorted(one.tool for one in theirs))
    wanted = next((file for one in theirs for file in one.files), None)
    named = [file for one in ours for file in one.files]
    file = None if wanted is None else float(any(same_file(wanted, one) for one in named))
    if repr(ours) == repr(theirs):  # == takes True for 1
        return Compared(1.0, False, tool, file)
    if sum(_parts(one) for one in ours) * sum(_parts(one) for one in theirs) > LARGEST:
        return Compared(indel(*("\n".join(_text(one) for one in side) for side in (ours, theirs))), True, tool, file)
    table = [[_call(one, other) for other in theirs] for one in ours]
    return Compared(_f1(assigned(table), len(ours), len(theirs)), False, tool, file)


@lru_cache(maxsize=1024)
def read_all(text: str) -> tuple[Read, ...]:
    """The calls of a text; an expert's is asked for with every rollout of its group."""
    return tuple(read(call) for call in parse_calls(text))


def read(call: Call) -> Read:
    """A call taken apart; the tools of agents that run shell commands are one tool."""
    if call.name in _SHELLS:
        for key in _SOURCE:
            command = call.arguments.get(key)
            if isinstance(command, str):
                others = {name: value for name, value in call.arguments.items() if name != key}
                script = read_script(command)
                return Read(SHELL, others, script, files(script))
    paths = [call.arguments[key] for key in _PATHS if isinstance(call.arguments.get(key), str)]
    return Read(call.name, call.arguments, None, tuple(path.strip().removeprefix("./") for path in paths))


def same_file(one: str, other: str) -> bool:
    """Whether two paths may be one file: equal, or the one ends with the other (paths from the root, or after `cd`)."""
    return one == other or one.endswith("/" + other) or other.endswith("/" + one)


def _parts(one: Read) -> int:
    return 1 if one.script is None else max(1, len(one.script.commands))


def _call(one: Read, other: Read) -> float:
    """Two calls."""
    if one.script is not None and other.script is not None:
        further = _arguments(one.arguments, other.arguments)
        return _script(one.script, other.script) * (1.0 - SETTING + SETTING * further)
    if one.name == other.name:
        return NAME + (1.0 - NAME) * _arguments(one.arguments, other.arguments)
    return NAME * indel(_given(one), _given(other))


def _script(one: Script, other: Script) -> float:
    """Two shell commands."""
    if one.main != other.main:
        return NAME * indel(one.text, other.text)
    table = [[_simple(mine, theirs) for theirs in other.commands] for mine in one.commands]
    value = NAME + (1.0 - NAME) * _f1(aligned(table), len(one.commands), len(other.commands))
    return value * (1.0 - SETTING + SETTING * indel(one.setting, other.setting))


def _simple(one: Simple, other: Simple) -> float:
    """Two simple commands."""
    if one.program == other.program:
        return NAME + (1.0 - NAME) * indel(one.arguments, other.arguments)
    return NAME * indel(one.text, other.text)


def _arguments(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The mean over every argument that either has; two calls without any agree. Text that is a number or JSON counts
    as what it says, for XML has nothing but text."""
    return _mapped({key: _plain(value) for key, value in one.items()}, {k: _plain(value) for k, value in other.items()})


def _mapped(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    keys = {**one, **other}
    return sum(_value(one[key], other[key]) for key in keys if key in one and key in other) / len(keys) if keys else 1.0


def _value(one: Any, other: Any) -> float:
    """Two JSON values."""
    if isinstance(one, str) and isinstance(other, str):
        return indel(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return _mapped(one, other)
    if isinstance(one, list) and isinstance(other, list):
        most = max(len(one), len(other))
        return sum(map(_value, one, other)) / most if most else 1.0
    if isinstance(one, str | dict | list) or isinstance(other, str | dict | list):
        return NAME * indel(_dump(one), _dump(other))
    return float(one == other and isinstance(one, bool) == isinstance(other, bool))


def _plain(value: Any) -> Any:
    """A string that is a number, a truth value or a container in JSON as that; any other value as it is."""
    if isinstance(value, str) and _SCALAR.fullmatch(value.strip()):
        inside = json_value(value.strip())
        return value if inside is None else inside
    return value


def _text(one: Read) -> str:
    """A call as text, whatever it was wrapped in."""
    return f"{one.name}\n{_given(one)}"


def _given(one: Read) -> str:
    """A call's arguments as text."""
    script = [] if one.script is None else [one.script.setting, one.script.text]
    return "\n".join([*script, *(_dump(value) for value in one.arguments.values())])


def _dump(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _f1(matched: float, ours: int, theirs: int) -> float:
    """Twice what is matched over both counts; nothing against nothing is equal."""
    return 2.0 * matched / (ours + theirs) if ours + theirs else 1.0
