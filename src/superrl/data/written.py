"""Problems as rows of a file that `superrl.data.rows` reads back as the same problems.

Leaves out formats other than JSON lines, and what a source brings besides problems (prompt, reward, limits).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from superrl.data.presets import PRESETS
from superrl.data.rows import OWN_COLUMNS
from superrl.data.steps_source import PREFIX
from superrl.errors import RunError, UserError
from superrl.records import Demonstration, Problem, Step

SUFFIX = ".jsonl"


def row_of(problem: Problem) -> dict[str, Any]:
    """The row that reads back as this problem; a value of its meta that is no JSON is written as text."""
    messages = problem.messages
    plain = len(messages) == 1 and messages[0]["role"] == "user" and not problem.meta.get("conversational")
    row: dict[str, Any] = {
        "id": problem.id,
        "prompt": messages[0]["content"] if plain else [dict(message) for message in messages],
    }
    if problem.opening:
        row["opening"] = problem.opening
    if problem.answer is not None:
        row["answer"] = problem.answer
    if problem.demonstrations:
        row["demonstrations"] = [_demonstration(one) for one in problem.demonstrations]
    taken = OWN_COLUMNS | {"conversational"}
    return row | {key: value for key, value in problem.meta.items() if key not in taken}


def check_out(out: Path, source: str, **others: Path | None) -> None:
    """Refuse, before any work, a file of rows that could not be written or would not be read again, and one that the
    `source` reads; `others` are further files to be written, by their options."""
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out} must end in {SUFFIX}: rows are written one JSON object a line")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out} must be a file in a folder that exists")
    taken = _files_of(source)
    for option, path in (("out", out), *others.items()):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UserError(f"--{option} {path} is a file that is read or written already: name another one")
        taken.add(path.resolve())


def _files_of(source: str) -> set[Path]:
    """What a source of data may read: its name as it stands, and without `steps:`, the preset and the query."""
    place = source.removeprefix(PREFIX).partition("?")[0]
    preset, _, file = place.partition(":")
    names = {source, place, *([file] if preset in PRESETS and file else [])}
    return {Path(name).expanduser().resolve() for name in names}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines, whole or not at all; how many there were."""
    partial = path.with_name(f"{path.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
        partial.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror or "no reason given"
        raise RunError(f"{path} was not written ({why}): mend that, then start again") from error
    finally:
        partial.unlink(missing_ok=True)  # gone already, if all went well
    return count


def _demonstration(one: Demonstration) -> str | dict[str, Any]:
    if not one.steps and not one.source:
        return one.text
    row: dict[str, Any] = {"text": one.text}
    if one.steps:
        row["steps"] = [_step(step) for step in one.steps]
    return row | ({"source": one.source} if one.source else {})


def _step(step: Step) -> str | dict[str, str]:
    named = {field.name: getattr(step, field.name) for field in fields(step)}
    row = {name: text for name, text in named.items() if text or name == "action"}
    return step.action if len(row) == 1 else row
