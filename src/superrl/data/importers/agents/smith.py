"""SWE-smith's fine-tuning rows, and conversations like them: the action in XML, or in a block of backticks.

    xml      <function=bash><parameter=command>ls</parameter></function>
    ticks    the last top-level block of ``` in the message, whatever language it names

Their authors kept solved runs only, so a row without `resolved` counts as not known, not as unsolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import conversation, fields
from superrl.data.importers.agents.conversation import Talk
from superrl.data.importers.agents.task import task_of
from superrl.data.importers.agents.trajectory import Run, Turn, converter
from superrl.data.importers.base import Format

BACKTICKS = re.compile(r"^```(\S*)[ \t]*$", re.MULTILINE)
XML_ACTS = "<function="
SCAFFOLD = "SWE-agent"
ANSWERED = ("OBSERVATION:", "Observation:", "bash-$", "Your command ran successfully", "(Current directory:")


def reader(turn: Callable[[Talk], Turn]) -> Callable[[Row], Run]:
    """The reader of rows whose turns are read by `turn`."""

    def read(row: Row) -> Run:
        messages = conversation.talks(row)
        return Run(
            task=task_of(conversation.first_message(messages, "user")),
            turns=conversation.turns(messages, turn),
            scaffold=fields.text(row.values, "scaffold") or SCAFFOLD,
            model=fields.text(row.values, "model") or fields.text(row.values, "model_name"),
            instance=fields.text(row.values, "instance_id"),
            resolved=fields.resolved(row.values),
            finished=fields.finished(fields.text(row.values, "exit_status")),
        )

    return read


def xml_turn(talk: Talk) -> Turn:
    """The calls of a message, and what stands before the first."""
    before, _, _ = talk.text.partition(XML_ACTS)
    return Turn(conversation.thought_of(talk, before), calls=tool_calls.of_xml(talk.text))


def ticks_turn(talk: Talk) -> Turn:
    """The last block of a message, and what stands before it."""
    block = last_block(talk.text)
    if block is None:
        return Turn(conversation.thought_of(talk, talk.text))
    start, end = block
    body = talk.text[start:end].partition("\n")[2].strip("\n")
    return Turn(conversation.thought_of(talk, talk.text[:start]), command=body)


def last_block(text: str) -> tuple[int, int] | None:
    """Where the last top-level block of backticks begins and where its body ends.

    A line of backticks with a language always opens a block, a bare one closes the innermost open block or, if there is
    none, opens one. A block that never closes is none.
    """
    open_at: list[int] = []
    last: tuple[int, int] | None = None
    for fence in BACKTICKS.finditer(text):
        if fence[1] or not open_at:
            open_at.append(fence.start())
        else:
            start = open_at.pop()
            last = last if open_at else (start, fence.start())
    return last


def looks_like_xml(rows: Sequence[Row]) -> bool:
    """By a message of the assistant with a closed call in XML that is answered."""
    return any(_acts(row.values, lambda talk: bool(xml_turn(talk).calls)) for row in rows)


def looks_like_ticks(rows: Sequence[Row]) -> bool:
    """By a message of the assistant with a block of backticks, and answers as SWE-agent words them."""
    return any(
        _acts(row.values, lambda talk: last_block(talk.text) is not None)
        and any(mark in talk.text for talk in conversation.conversation(row.values)[2:] for mark in ANSWERED)
        for row in rows
    )


def _acts(values: Mapping[str, Any], acts: Callable[[Talk], bool]) -> bool:
    """Whether some turn of the agent acts and is not the end of the conversation."""
    return any(talk.role == "assistant" and acts(talk) for talk in conversation.conversation(values)[:-1])


XML = Format("swe-smith-xml", "messages with actions as <function=...>", looks_like_xml, converter(reader(xml_turn)))
TICKS = Format(
    "swe-smith-ticks", "messages with actions in a block of backticks", looks_like_ticks, converter(reader(ticks_turn))
)
