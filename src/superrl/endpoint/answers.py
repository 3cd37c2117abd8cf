"""What an endpoint answered, kept on disk by the digest of what it was asked.

JSON lines, each appended in one write: a reader sees a line whole or not at all. What a crash cut short is skipped,
and the next line begins anew. Leaves out forgetting: the file is the user's to remove.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from superrl.errors import RunError, UserError


class Answers:
    """The answers in a file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            held = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"the answers kept in {path} cannot be read ({error.strerror}): mend or move it") from None
        self._torn = bool(held) and not held.endswith(b"\n")
        self._known = dict(pair for line in held.splitlines() if (pair := _parsed(line)) is not None)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        """The answer; None if there is none."""
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep an answer (JSON, not null); the file has it when this returns."""
        line = json.dumps({"key": key, "value": value}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(("\n" * self._torn + line).encode())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written ({error.strerror}): mend that, then start again") from error
        self._torn = False
        self._known[key] = value


def _parsed(line: bytes) -> tuple[str, Any] | None:
    """Key and answer of a line; None for one that is no whole one of ours."""
    try:
        row = json.loads(line)
        return str(row["key"]), row["value"]
    except (ValueError, KeyError, TypeError):
        return None
