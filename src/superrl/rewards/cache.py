"""Verdicts on demonstrations and gold answers, kept on disk: those of a data set are found once, not at every start.

One JSON-lines file a reward (its fingerprint), appended to in one write a chunk. A line that a crash cut short is
skipped, and a folder that cannot be written means no cache, never a failure. Time-outs and unreadable gold answers are
not kept: the machine may have been busy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from superrl.home import cache_folder
from superrl.records import Problem, Score
from superrl.rewards.base import Reward, digest

CHUNK = 512

Row = Mapping[str, Any]


class CachedScores:
    """A reward's `score` and `unreadable_all` through the file. A reward without a fingerprint is just called."""

    def __init__(self, reward: Reward, folder: Path | None = None) -> None:
        self.reward = reward
        fingerprint = reward.fingerprint
        root = cache_folder() if folder is None else folder
        self.path = None if fingerprint is None else root / "scores" / f"{digest(fingerprint)}.jsonl"
        self._known = read_rows(self.path) if self.path else {}

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        """As the reward's. In chunks: a load that is interrupted keeps what it has graded."""
        assert len(problems) == len(completions), f"{len(problems)} problems for {len(completions)} completions"
        keys = [digest([self.reward.reads(p), text]) for p, text in zip(problems, completions, strict=True)]

        def grade(wanted: Sequence[int]) -> list[Row]:
            scores = self.reward.score([problems[i] for i in wanted], [completions[i] for i in wanted])
            return [{"value": s.value, "correct": s.correct, "parts": dict(s.parts)} for s in scores]

        return [Score(row["value"], row["correct"], row["parts"]) for row in self._rows(keys, grade)]

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        """As the reward's."""
        keys = [digest(["gold", problem.id, self.reward.reads(problem)]) for problem in problems]

        def check(wanted: Sequence[int]) -> list[Row]:
            return [{"why": why} for why in self.reward.unreadable_all([problems[i] for i in wanted])]

        return [row["why"] for row in self._rows(keys, check)]

    def _rows(self, keys: Sequence[str], find: Callable[[Sequence[int]], list[Row]]) -> list[Row]:
        """One row a key, in order: known, or found and then kept."""
        rows: dict[int, Row] = {i: self._known[key] for i, key in enumerate(keys) if key in self._known}
        missing = [i for i in range(len(keys)) if i not in rows]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            found = dict(zip(chunk, find(chunk), strict=True))
            rows |= found
            if self.path:
                kept = {keys[i]: row for i, row in found.items() if final(row)}
                self._known |= kept
                append_rows(self.path, kept)
        return [rows[i] for i in range(len(keys))]


def final(row: Row) -> bool:
    """Whether the same would be found again: not if grading was given up, by this reward or by one in its sum."""
    if "why" in row:
        return row["why"] is None
    return not any(value and name.rpartition("/")[2] in ("timeout", "crash") for name, value in row["parts"].items())


def read_rows(path: Path) -> dict[str, Row]:
    """What the file holds; lines that are not what this module writes are skipped."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return dict(keyed_row for line in lines if (keyed_row := parse_row(line)) is not None)


def parse_row(line: str) -> tuple[str, Row] | None:
    """The key and the row of one line."""
    try:
        row = json.loads(line)
        if "why" in row:
            return str(row["key"]), {"why": row["why"]}
        score = Score(row["value"], row["correct"], row["parts"])
        return str(row["key"]), {"value": score.value, "correct": score.correct, "parts": dict(score.parts)}
    except (ValueError, KeyError, TypeError):
        return None


def append_rows(path: Path, rows: Mapping[str, Row]) -> None:
    """One write at the end of the file, on a line of its own; a folder that cannot be written is let be."""
    if rows:
        append(path, "".join(json.dumps({"key": key, **row}) + "\n" for key, row in rows.items()))


def append(path: Path, text: str) -> None:
    """Adds text to a file, after a line break if a crash left the last line without one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
    except OSError:
        return
