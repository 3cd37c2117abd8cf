"""Agents' trajectories: one file a format, all turned into the same thing (`trajectory`).

`AGENT_FORMATS` stand in the order in which they are asked whether a file is theirs: the particular before the general.
"""

from __future__ import annotations

from collections.abc import Sequence

from superrl.data.files import Row
from superrl.data.importers.agents import atif, conversation, mini, openai, openhands, smith, sweagent
from superrl.data.importers.base import Format

AGENT_FORMATS: tuple[Format, ...] = (
    atif.FORMAT,
    openhands.FORMAT,
    sweagent.FORMAT,
    mini.FORMAT,
    smith.XML,
    openai.FORMAT,
    smith.TICKS,
)


def whole(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of a file that is one conversation (a JSON array of messages, as some `.traj.json` are) as one row.

    Every other file's rows come back as they are.
    """
    if not rows or not all(conversation.is_message(row.values) for row in rows):
        return rows
    return [Row({"messages": [row.values for row in rows]}, rows[0].source, 1)]


__all__ = ["AGENT_FORMATS", "whole"]
