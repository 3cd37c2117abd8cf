"""OpenHands: rows of `output.jsonl`, with the stream of events in `history`.

An action is an event of the agent that came from a call of a function; its observation is the event whose `cause` it
is. Calls of one response are one turn. A call that was refused is an error without a cause: a turn that did nothing.
Older rows have pairs [action, observation] and no functions: the action's name and arguments are the call then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import fields, observations
from superrl.data.importers.agents.calls import Call
from superrl.data.importers.agents.task import task_of, with_folder
from superrl.data.importers.agents.trajectory import Run, Turn, Unusable, converter
from superrl.data.importers.base import Format

Event = Mapping[str, Any]
ACTS = frozenset({"run", "run_ipython", "read", "write", "edit", "browse", "browse_interactive", "finish", "think",
                  "delegate", "call_tool_mcp", "message"})  # fmt: skip
"""Actions of the agent; the others are its host's (`system`, `recall`, `change_agent_state`, ...)."""
ARGUMENTS = frozenset({"command", "code", "path", "content", "start", "end", "file_text", "old_str", "new_str",
                       "insert_line", "view_range", "url", "browser_actions", "agent", "inputs"})  # fmt: skip
"""What an action without a function keeps of its arguments: the rest is bookkeeping."""


def read(row: Row) -> Run:
    """One row of `output.jsonl` as a run."""
    values = row.values
    events = _events(values.get("history"))
    if not events:
        raise Unusable("malformed")
    instance, metadata = fields.mapping(values, "instance"), fields.mapping(values, "metadata")
    instruction = fields.text(values, "instruction") or _asked(events)
    statement = fields.text(instance, "problem_statement").replace("\r\n", "\n").strip()
    return Run(
        task=with_folder(statement, instruction) if statement else task_of(instruction),
        turns=_turns(events),
        scaffold="OpenHands",
        model=fields.text(fields.mapping(metadata, "llm_config"), "model"),
        instance=fields.text(values, "instance_id"),
        repo=fields.text(instance, "repo"),
        resolved=fields.resolved(values),
        finished=not values.get("error"),
    )


def looks_like(rows: Sequence[Row]) -> bool:
    """By a history of events, some of them the agent's actions."""
    return any(
        _acts(event) and isinstance(event.get("args"), Mapping)
        for row in rows
        for event in _events(row.values.get("history"))
    )


def _events(history: Any) -> list[Event]:
    """The events in order; pairs of older rows one after the other."""
    if not isinstance(history, list):
        return []
    flat = [event for item in history for event in (item if isinstance(item, list) else [item])]
    return [event for event in flat if isinstance(event, Mapping)]


def _asked(events: Sequence[Event]) -> str:
    """What the user wrote first."""
    messages = (event for event in events if event.get("source") == "user" and event.get("action") == "message")
    return next((fields.text(fields.mapping(event, "args"), "content") for event in messages), "")


def _turns(events: Sequence[Event]) -> list[Turn]:
    """One turn a response of the model, with the observations that its actions caused."""
    grouped: dict[Any, list[Event]] = {}
    answers: dict[Any, list[str]] = {}
    owner: dict[Any, Any] = {}
    latest: Any = None
    for place, event in enumerate(events):
        if _acts(event):
            latest = _response(event) or place
            grouped.setdefault(latest, []).append(event)
            owner[_plain(event.get("id"))] = latest
        elif isinstance(event.get("observation"), str) and event.get("source") != "environment":
            cause = _plain(event.get("cause"))
            if cause is None and event["observation"] == "error":
                grouped[place] = [event]
            elif (of := owner.get(cause, latest if cause is None else None)) is not None:
                answers.setdefault(of, []).append(_observation(event))
    return [_turn(group, answers.get(key, [])) for key, group in grouped.items()]


def _turn(group: Sequence[Event], answers: Sequence[str]) -> Turn:
    thoughts = dict.fromkeys(fields.text(fields.mapping(event, "args"), "thought").strip() for event in group)
    calls = tuple(call for event in group if (call := _call(event)) is not None)
    return Turn("\n\n".join(filter(None, thoughts)), "\n".join(filter(None, answers)), calls=calls)


def _call(event: Event) -> Call | None:
    """The call that an event came from; None for talk and for what was refused."""
    metadata = fields.mapping(event, "tool_call_metadata")
    for choice in _list(fields.mapping(metadata, "model_response").get("choices")):
        message = fields.mapping(choice, "message") if isinstance(choice, Mapping) else {}
        for item in _list(message.get("tool_calls")):
            if isinstance(item, Mapping) and item.get("id") == metadata.get("tool_call_id"):
                return next(iter(tool_calls.of_openai([item])), None)
    name = fields.text(event, "action")
    if not name or name == "message":
        return None
    arguments = {key: value for key, value in fields.mapping(event, "args").items() if key in ARGUMENTS and value}
    return Call(fields.text(metadata, "function_name") or name, arguments)


def _observation(event: Event) -> str:
    """What came back, with the exit status of a command that failed."""
    extras = fields.mapping(event, "extras")
    code = fields.mapping(extras, "metadata").get("exit_code", extras.get("exit_code", 0))
    text = observations.clean(fields.text(event, "content"))
    return observations.with_code(text, code) if isinstance(code, int) else text


def _acts(event: Event) -> bool:
    return event.get("source") == "agent" and isinstance(event.get("action"), str) and event["action"] in ACTS


def _response(event: Event) -> str:
    return fields.text(fields.mapping(fields.mapping(event, "tool_call_metadata"), "model_response"), "id")


def _plain(value: Any) -> int | str | None:
    """An event's number, as something to look it up by."""
    return value if isinstance(value, int | str) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


FORMAT = Format("openhands", "OpenHands: output.jsonl with its events", looks_like, converter(read))
