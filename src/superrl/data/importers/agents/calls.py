"""Tool calls as agents' files write them, and the one form in which a step's action holds them.

    {"name": "open", "arguments": {"path": "a.py"}}      one call; several calls of one turn are a list of these

Arguments stand in the expert's own order; one that is null counts as not given (tables fill their gaps with nulls).
Leaves out: whether a tool of that name exists, and what it would do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SHELL_TOOLS = frozenset({"bash", "bash_command", "execute_bash", "shell", "terminal", "run_command", "run"})
CLOSING_TOOLS = frozenset({"submit", "finish", "task_complete", "mark_task_complete"})
THINKING_TOOLS = frozenset({"think"})
TEXT_PARAMETERS = frozenset(
    {"command", "code", "content", "file_text", "new_str", "old_str", "message", "replace", "search", "text", "thought"}
)

XML_CALL = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
XML_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
JSON_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
NOT_TEXT = re.compile(r"\s*(-?\d{1,15}|\[.*\])\s*", re.DOTALL)


class Call(NamedTuple):
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def command(self) -> str | None:
        """The bare command, if this is a shell tool that takes nothing else."""
        command = self.arguments.get("command")
        return command if self.name in SHELL_TOOLS and len(self.arguments) == 1 and isinstance(command, str) else None


def render(calls: Sequence[Call]) -> str:
    """The canonical action: one JSON object, or a list of them.

    >>> render([Call("submit", {})])
    '{"name": "submit", "arguments": {}}'
    """
    items = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    return json.dumps(items[0] if len(items) == 1 else items, ensure_ascii=False, default=str)


def of_openai(items: Any) -> tuple[Call, ...]:
    """The calls of an assistant's `tool_calls`, or () if one of them is none: the environment refused such a turn."""
    if not isinstance(items, list):
        return ()
    calls = [_of_object(item) for item in items]
    known = tuple(call for call in calls if call is not None)
    return known if len(known) == len(calls) else ()


def of_xml(text: str) -> tuple[Call, ...]:
    """Every closed `<function=name><parameter=key>value</parameter></function>` of a message.

    One line break at either end of a value is markup. Values are text, but whole numbers and lists are read as such
    where a parameter is no text by its name, so that the same call is the same action in XML and in JSON.
    """
    return tuple(
        Call(name.strip(), {key.strip(): _value(key.strip(), value) for key, value in XML_PARAMETER.findall(body)})
        for name, body in XML_CALL.findall(text)
    )


def of_tags(text: str) -> tuple[Call, ...]:
    """Every `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` of a message; () if one of them is not JSON."""
    items = [parsed(found) for found in JSON_CALL.findall(text)]
    return of_openai(items)


def parsed(text: str) -> Any:
    """What JSON text holds, or None: half a file is as good as none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_object(item: Any) -> Call | None:
    """{"function": {"name", "arguments"}}, {"name", "arguments"} or ATIF's {"function_name", "arguments"}."""
    if not isinstance(item, Mapping):
        return None
    inner = item["function"] if isinstance(item.get("function"), Mapping) else item
    name = inner.get("name", inner.get("function_name"))
    arguments = inner.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    elif isinstance(arguments, str):
        arguments = parsed(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        return None
    return Call(name, {key: value for key, value in arguments.items() if value is not None})


def _value(key: str, text: str) -> Any:
    """A parameter's value between its tags."""
    if key not in TEXT_PARAMETERS and NOT_TEXT.fullmatch(text):
        value = parsed(text)
        return text if value is None else value
    return text.removeprefix("\n").removesuffix("\n")
