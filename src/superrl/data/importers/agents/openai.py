"""Chat messages with tool calls, as OpenAI's interface has them: {"role": "assistant", "tool_calls": [...]}.

The system message stays, for here it may be part of the task (a policy, a role); the first user message is the task.
Calls written as `<tool_call>{...}</tool_call>` count as well. A turn of the agent that only talks is no action: it and
the reply to it are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import conversation, fields
from superrl.data.importers.agents.conversation import Talk
from superrl.data.importers.agents.task import task_of
from superrl.data.importers.agents.trajectory import Run, Turn, converter
from superrl.data.importers.base import Format

TAG = "<tool_call>"


def read(row: Row) -> Run:
    """One row of messages as a run."""
    messages = conversation.talks(row)
    values = row.values
    return Run(
        task=task_of(conversation.first_message(messages, "user")),
        system=conversation.first_message(messages, "system"),
        turns=conversation.turns(messages, turn),
        scaffold=fields.text(values, "scaffold"),
        model=fields.text(values, "model"),
        instance=fields.text(values, "instance_id"),
        repo=fields.text(values, "repo"),
        resolved=fields.resolved(values),
        finished=fields.finished(fields.text(values, "exit_status")),
    )


def turn(talk: Talk) -> Turn:
    """The calls of a message, from its field or from its text."""
    if talk.raw.get("tool_calls"):
        return Turn(conversation.thought_of(talk, talk.text), calls=tool_calls.of_openai(talk.raw["tool_calls"]))
    before, _, _ = talk.text.partition(TAG)
    return Turn(conversation.thought_of(talk, before), calls=tool_calls.of_tags(talk.text))


def looks_like(rows: Sequence[Row]) -> bool:
    """By a message of the assistant that calls a tool."""
    return any(
        talk.role == "assistant" and bool(turn(talk).calls)
        for row in rows
        for talk in conversation.conversation(row.values)
    )


FORMAT = Format("openai-messages", "chat messages with tool calls", looks_like, converter(read))
