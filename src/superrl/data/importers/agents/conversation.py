"""Conversations as files hold them: messages made uniform, and an agent's turns with what was answered to each.

Understands a column `messages`, `trajectory` or `history`, also as JSON text (as tables that cannot nest hold it);
content as text or as a list of parts; the role `ai`; OpenAI's Responses items beside chat messages.

What stands between one turn of the agent and the next is the observation of the first. Leaves out images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import observations
from superrl.data.importers.agents.trajectory import Turn, Unusable

COLUMNS = ("messages", "trajectory", "history")
ASSISTANT = {"assistant", "ai"}


class Talk(NamedTuple):
    """One message: its role, its text (reasoning not included), and all that the file has about it."""

    role: str
    text: str
    raw: Mapping[str, Any]


def talks(row: Row) -> list[Talk]:
    """The messages of a row; `malformed` if there are none."""
    found = conversation(row.values)
    if not found:
        raise Unusable("malformed")
    return found


def conversation(values: Mapping[str, Any]) -> list[Talk]:
    """The messages in the first column that holds any; []: there is no conversation here."""
    for column in COLUMNS:
        value = values.get(column)
        items = tool_calls.parsed(value) if isinstance(value, str) else value
        if isinstance(items, list) and items and all(is_message(item) for item in items):
            return [_talk(item) for item in items]
    return []


def is_message(value: Any) -> bool:
    """Whether a value is one message of a conversation."""
    if not isinstance(value, Mapping):
        return False
    spoken = isinstance(value.get("role"), str) and not {"content", "text", "tool_calls"}.isdisjoint(value)
    return spoken or value.get("object") == "response" or value.get("type") == "function_call_output"


def first_message(messages: Sequence[Talk], role: str) -> str:
    """The text of the first message of that role; ""."""
    return next((talk.text for talk in messages if talk.role == role), "")


def turns(messages: Sequence[Talk], read: Callable[[Talk], Turn]) -> list[Turn]:
    """Every message of the agent, read by `read`, with what follows it up to the next one."""
    spoken: list[tuple[Talk, list[str]]] = []
    for talk in messages:
        if talk.role == "assistant":
            spoken.append((talk, []))
        elif talk.role != "system" and spoken:
            spoken[-1][1].append(observations.clean(talk.text))
    return [read(talk)._replace(observation="\n".join(filter(None, answers))) for talk, answers in spoken]


def thought_of(talk: Talk, spoken: str) -> str:
    """What the agent thought: its hidden reasoning where the file has it, then what it said before acting."""
    reasoning = next(
        (
            text
            for key in ("reasoning_content", "reasoning", "thinking")
            if (text := talk.raw.get(key)) and text_of(text)
        ),
        "",
    )
    return "\n\n".join(part for text in (reasoning, spoken) if (part := text_of(text).strip()))


def text_of(content: Any) -> str:
    """Text, or the text parts of a list of parts; everything else is ""."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_parts(content))


def _parts(content: list[Any]) -> Iterator[str]:
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text


def _talk(item: Mapping[str, Any]) -> Talk:
    if item.get("object") == "response":
        output = item.get("output")
        spoken = (
            [part.get("content") for part in output if isinstance(part, Mapping)] if isinstance(output, list) else []
        )
        return Talk("assistant", "\n".join(filter(None, map(text_of, spoken))), item)
    if item.get("type") == "function_call_output":
        return Talk("tool", text_of(item.get("output")), item)
    role = "assistant" if item["role"] in ASSISTANT else item["role"]
    content = item.get("content")
    return Talk(role, text_of(item.get("text") if content is None else content), item)
