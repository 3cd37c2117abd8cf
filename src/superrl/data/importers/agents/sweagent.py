"""SWE-agent: the `.traj` it writes, with function calling or with the older text of thought and action.

The `history` is read where there is one: it has the calls, and the observations with the open file and the directory.
Else the list `trajectory` of (thought, action, observation). Demonstrations that begin a history are not the agent's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import conversation, fields, observations
from superrl.data.importers.agents.conversation import Talk
from superrl.data.importers.agents.task import task_of, with_folder
from superrl.data.importers.agents.trajectory import Run, Turn, Unusable, converter
from superrl.data.importers.base import Format


def read(row: Row) -> Run:
    """One `.traj` as a run."""
    values = row.values
    config = fields.mapping(values, "replay_config")
    statement = fields.mapping(config, "problem_statement")
    agent = fields.mapping(fields.mapping(config, "agent"), "model")
    history = _history(values)
    task = fields.text(statement, "text").replace("\r\n", "\n").strip()
    first = conversation.first_message(history, "user")
    return Run(
        task=with_folder(task, first) if task else task_of(first),
        turns=conversation.turns(history, turn) if history else _listed(values.get("trajectory")),
        scaffold="SWE-agent",
        model=fields.text(agent, "name") or fields.text(values, "model"),
        instance=fields.text(statement, "id") or fields.text(values, "instance_id") or _stem(row),
        resolved=fields.resolved(values),
        finished=fields.finished(fields.text(fields.mapping(values, "info"), "exit_status")),
    )


def turn(talk: Talk) -> Turn:
    """The calls of a message of the history, or its `action`."""
    thought = conversation.thought_of(talk, fields.text(talk.raw, "thought") or talk.text)
    if talk.raw.get("tool_calls"):
        return Turn(thought, calls=tool_calls.of_openai(talk.raw["tool_calls"]))
    return Turn(thought, command=fields.text(talk.raw, "action"))


def looks_like(rows: Sequence[Row]) -> bool:
    """By a history whose messages name their agent or action, or by a trajectory of actions with observations."""
    return any(_is_ours(row.values) for row in rows)


def _is_ours(values: Mapping[str, Any]) -> bool:
    history = values.get("history")
    if isinstance(history, list) and any(
        conversation.is_message(item) and not {"agent", "action", "message_type"}.isdisjoint(item) for item in history
    ):
        return True
    listed = values.get("trajectory")
    return isinstance(listed, list) and any(
        isinstance(item, Mapping) and {"action", "observation"} <= set(item) for item in listed
    )


def _history(values: Mapping[str, Any]) -> list[Talk]:
    messages = conversation.conversation({"history": values.get("history")})
    return [
        talk for talk in messages if talk.raw.get("is_demo") is not True and "--- DEMONSTRATION ---" not in talk.text
    ]


def _listed(items: Any) -> list[Turn]:
    if not isinstance(items, list):
        raise Unusable("malformed")
    return [
        Turn(
            fields.text(item, "thought"),
            observations.clean(fields.text(item, "observation")),
            command=fields.text(item, "action"),
        )
        for item in items
        if isinstance(item, Mapping)
    ]


def _stem(row: Row) -> str:
    """The file's name, if it is an instance's: SWE-agent calls its files after them."""
    stem = PurePath(row.source).name.split(".traj")[0]
    return stem if "__" in stem else ""


FORMAT = Format("swe-agent", "SWE-agent: .traj, function calling or thought and action", looks_like, converter(read))
