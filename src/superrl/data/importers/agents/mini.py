"""mini-swe-agent: its `.traj.json`, and tables with one conversation a row (`messages`, `resolved`, `instance_id`).

The tool takes exactly one action a turn: a block of backticks named `bash` (later `mswea_bash_command`), or a tag of
that name. With none or several it answers with a complaint, so such a turn did nothing and is dropped. Newer versions
call a tool `bash`, several times a turn if they like; of OpenAI's Responses, what was run stands in `extra.actions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import conversation, fields
from superrl.data.importers.agents.calls import Call
from superrl.data.importers.agents.conversation import Talk
from superrl.data.importers.agents.task import task_of
from superrl.data.importers.agents.trajectory import Run, Turn, converter
from superrl.data.importers.base import Format

FENCE = re.compile(r"```(?:bash|mswea_bash_command)\s*\n(.*?)\n```", re.DOTALL)
TAG = re.compile(r"<mswea_bash_command>(.*?)</mswea_bash_command>", re.DOTALL)
NAME = "mini-swe-agent"


def read(row: Row) -> Run:
    """One row, or one `.traj.json`, as a run."""
    messages = conversation.talks(row)
    values, info = row.values, fields.mapping(row.values, "info")
    config = fields.mapping(fields.mapping(info, "config"), "model")
    return Run(
        task=task_of(conversation.first_message(messages, "user")),
        turns=conversation.turns(messages, turn),
        scaffold=fields.text(values, "scaffold") or " ".join(filter(None, (NAME, fields.text(info, "mini_version")))),
        model=fields.text(values, "model") or fields.text(config, "model_name"),
        instance=fields.text(values, "instance_id"),
        resolved=fields.resolved(values),
        finished=fields.finished(fields.text(info, "exit_status")),
    )


def turn(talk: Talk) -> Turn:
    """The one command of a message, or the calls that were run."""
    if run := _run(talk.raw):
        return Turn(conversation.thought_of(talk, talk.text), calls=run)
    found = [*FENCE.finditer(talk.text), *TAG.finditer(talk.text)]
    if len(found) != 1:
        return Turn(conversation.thought_of(talk, talk.text))
    return Turn(conversation.thought_of(talk, talk.text[: found[0].start()]), command=found[0][1])


def looks_like(rows: Sequence[Row]) -> bool:
    """By its name, or by a turn with one fenced command among turns that are answered with a return code."""
    return any(_is_ours(row.values) for row in rows)


def _is_ours(values: Mapping[str, Any]) -> bool:
    if NAME in f"{fields.text(values, 'scaffold')} {fields.text(values, 'trajectory_format')}":
        return True
    messages = conversation.conversation(values)
    answered = any("<returncode>" in talk.text for talk in messages if talk.role in ("user", "tool"))
    acts = any(turn(talk).command is not None for talk in messages if talk.role == "assistant")
    return acts and (answered or any("mswea_bash_command" in talk.text for talk in messages))


def _run(raw: Mapping[str, Any]) -> tuple[Call, ...]:
    """The calls of a turn of the newer versions."""
    if calls := tool_calls.of_openai(raw.get("tool_calls")):
        return calls
    actions = fields.mapping(raw, "extra").get("actions")
    if raw.get("object") != "response" or not isinstance(actions, list):
        return ()
    commands = [fields.text(action, "command") for action in actions if isinstance(action, Mapping)]
    return tuple(Call("bash", {"command": command}) for command in commands if command)


FORMAT = Format(NAME, "mini-swe-agent: .traj.json, or rows of messages", looks_like, converter(read))
