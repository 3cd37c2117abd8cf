"""ATIF, the Agent Trajectory Interchange Format of the Harbor project (versions 1.x).

    {"schema_version": "ATIF-v1.7", "agent": {"name", "version", "model_name"}, "steps": [
        {"source": "user", "message": "..."},
        {"source": "agent", "message": "...", "reasoning_content": "...",
         "tool_calls": [{"tool_call_id", "function_name", "arguments": {...}}],
         "observation": {"results": [{"source_call_id", "content"}]}}]}

Steps copied from an earlier file (`is_copied_context`) were not taken here and are left out, as are runs of subagents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from superrl.data.files import Row
from superrl.data.importers.agents import calls as tool_calls
from superrl.data.importers.agents import fields, observations
from superrl.data.importers.agents.conversation import text_of
from superrl.data.importers.agents.task import task_of
from superrl.data.importers.agents.trajectory import Run, Turn, Unusable, converter
from superrl.data.importers.base import Format

SOURCES = {"system", "user", "agent"}


def read(row: Row) -> Run:
    """One trajectory as a run."""
    steps = row.values.get("steps")
    if not isinstance(steps, list) or not any(isinstance(step, Mapping) for step in steps):
        raise Unusable("malformed")
    known = [step for step in steps if isinstance(step, Mapping)]
    agent = fields.mapping(row.values, "agent")
    asked = next((text_of(step.get("message")) for step in known if step.get("source") == "user"), "")
    return Run(
        task=task_of(asked),
        turns=[_turn(step) for step in known if step.get("source") == "agent" and not step.get("is_copied_context")],
        scaffold=" ".join(filter(None, (fields.text(agent, "name"), fields.text(agent, "version")))),
        model=fields.text(agent, "model_name"),
        instance=fields.text(row.values, "instance_id") or fields.text(row.values, "task_id"),
        resolved=fields.resolved(row.values),
    )


def looks_like(rows: Sequence[Row]) -> bool:
    """By its version, or by steps with one of its three sources."""
    return any(_is_ours(row.values) for row in rows)


def _is_ours(values: Mapping[str, Any]) -> bool:
    if fields.text(values, "schema_version").startswith("ATIF-v1."):
        return True
    steps = values.get("steps")
    if not isinstance(steps, list) or "agent" not in values:
        return False
    return any(isinstance(step, Mapping) and fields.text(step, "source") in SOURCES for step in steps)


def _turn(step: Mapping[str, Any]) -> Turn:
    results = fields.mapping(step, "observation").get("results")
    answers = [
        observations.clean(text_of(result.get("content")))
        for result in (results if isinstance(results, list) else [])
        if isinstance(result, Mapping)
    ]
    thought = "\n\n".join(text for key in ("reasoning_content", "message") if (text := text_of(step.get(key)).strip()))
    return Turn(thought, "\n".join(filter(None, answers)), calls=tool_calls.of_openai(step.get("tool_calls")))


FORMAT = Format("atif", "ATIF v1.x of the Harbor project", looks_like, converter(read))
