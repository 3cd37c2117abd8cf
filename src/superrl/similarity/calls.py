"""What an agent's action calls, whatever it is wrapped in: names and arguments, read from the text of one turn.

Read are, in this order: `<tool_call>` blocks; XML `<function=NAME><parameter=KEY>value</parameter></function>`
(SWE-smith, OpenHands, Qwen's coders); JSON `{"name", "arguments"}`, OpenAI's `{"function": {...}}` with arguments as a
JSON string, ATIF's `function_name`, a list of those or `{"tool_calls": [...]}`; the last fenced block; and else the
text itself as a shell command. Tags count where they begin a line, and before the first
here-document: a file that a command writes may hold anything.
Whatever is malformed is a shell command too: it will be like no call. Leaves out how calls are compared (`tools`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHELL = "bash"
"""The name of the call that a bare command is."""

NESTED = 64
"""JSON with more brackets open at once is taken for text."""

MOST = 64
"""Blocks of calls after which no more are read."""

_BLOCK = re.compile(r"^[ \t]*<tool_call>\s*", re.MULTILINE)
_FUNCTION = re.compile(r"^[ \t]*<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL | re.MULTILINE)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)(?:</parameter>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)(?:^\1`*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_DOCUMENT = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1")
_DECODER = json.JSONDecoder(parse_constant=str)
_LANGUAGES = {"", "sh", "shell", "console", "zsh", "terminal"}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and its arguments (JSON values)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def parse_calls(text: str) -> list[Call]:
    """The calls of one action, in order; none for a blank one. Never raises.

    >>> parse_calls('{"name": "view", "arguments": {"path": "a.py"}}')
    [Call(name='view', arguments={'path': 'a.py'})]
    >>> parse_calls("ls -l") == parse_calls("```bash\\nls -l\\n```")
    True
    """
    text = text.strip()
    if not text:
        return []
    return _blocks(text) or _functions(text) or _json_calls(text) or _fenced(text) or [command_call(text)]


def render_call(call: Call) -> str:
    """The call as text that `parse_calls` reads back: a bare command where it can be one, else JSON."""
    command = call.arguments.get("command")
    if isinstance(command, str) and parse_calls(command) == [call]:
        return command
    return json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)


def command_call(command: str) -> Call:
    """A bare command as a call."""
    return Call(SHELL, {"command": command})


def json_value(text: str, *, open_end: bool = False) -> Any:
    """The value that a text of JSON holds; None for anything else (and for `null`). NaN and infinities stay words.
    `open_end`: the value that the text begins with."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > NESTED:
        return None
    try:
        return _DECODER.raw_decode(text)[0] if open_end else _DECODER.decode(text)
    except ValueError:
        return None


def document_end(text: str, start: int, delimiter: str) -> int | None:
    """Where the line that ends a here-document is over, looked for from the line after `start`; None without one."""
    at = text.find("\n", start) + 1
    while at:
        following = text.find("\n", at) + 1
        if text[at : following or len(text)].strip() == delimiter:
            return following or len(text)
        at = following
    return None


def _blocks(text: str) -> list[Call]:
    """The calls inside `<tool_call>` tags. JSON says itself where it ends: a string in it may hold a closing tag."""
    found: list[Call] = []
    for tag in _BLOCK.finditer(text, 0, _commanded(text)):
        inside = text[tag.end() :]
        if inside[:1] in ("{", "["):
            found += _calls_of(json_value(inside, open_end=True))
        else:
            found += _functions(inside.partition("</tool_call>")[0])
        if len(found) > MOST:
            break
    return found


def _functions(text: str) -> list[Call]:
    """XML functions; one line break after a parameter's tag and one before its end are the template's."""
    found = []
    until = _commanded(text)
    for function in _FUNCTION.finditer(text):
        if function.start() >= until:
            break
        pairs = _PARAMETER.findall(function[2])
        found.append(Call(function[1], {key: value.removeprefix("\n").removesuffix("\n") for key, value in pairs}))
    return found


def _json_calls(text: str) -> list[Call]:
    """Calls written as JSON, or none if it is no JSON, or any part of it no call."""
    return _calls_of(json_value(text)) if text[:1] in ("{", "[") else []


def _calls_of(value: Any) -> list[Call]:
    """The calls that a JSON value is."""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    calls = [_json_call(item) for item in (value if isinstance(value, list) else [value])]
    known = [call for call in calls if call is not None]
    return known if len(known) == len(calls) else []


def _json_call(value: Any) -> Call | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = value.get("name", value.get("function_name"))
    keys = [key for key in ("arguments", "parameters", "input") if key in value]
    arguments = value[keys[0]] if keys else {}
    if isinstance(arguments, str):
        inside = json_value(arguments)
        arguments = inside if isinstance(inside, dict) else {"": arguments}
    if not isinstance(name, str) or not name or not isinstance(arguments, dict | None):
        return None
    return Call(name, arguments or {})


def _fenced(text: str) -> list[Call]:
    """The last fenced block: a command, calls in JSON, or the source of another language."""
    first = _FENCE.search(text)
    if first is None or first.start() >= _commanded(text):
        return []
    *_, (_, info, body) = _FENCE.findall(text)
    end = text.rfind("\n" + first[1])
    if end > first.start(3) and _unfinished(first[3]):
        info, body = first[2], text[first.start(3) : end]  # the fences between are inside its here-document
    language, body = info.strip().lower(), body.strip()
    if not body:
        return []
    if language in _LANGUAGES or "bash" in language:
        return _json_calls(body) or [command_call(body)]
    return _json_calls(body) or [Call(language, {"code": body})]


def _commanded(text: str) -> int:
    """Where the first here-document begins: nothing behind it is a wrapper."""
    document = _DOCUMENT.search(text)
    return document.start() if document else len(text)


def _unfinished(body: str) -> bool:
    """Whether the last here-document that begins in it, outside others, does not end in it."""
    at = 0
    while document := _DOCUMENT.search(body, at):
        end = document_end(body, document.end(), document[2])
        if end is None:
            return True
        at = end
    return False
