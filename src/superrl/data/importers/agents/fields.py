"""Fields of rows that somebody else wrote: each as the type that is wanted, or empty.

And the two questions every format answers differently: was the task solved, and did the run come to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from superrl.data.importers.agents import calls as tool_calls


def text(values: Mapping[str, Any], key: str) -> str:
    """A text, or ""."""
    value = values.get(key)
    return value if isinstance(value, str) else ""


def mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object, also one that stands there as JSON text, or {}."""
    value = values.get(key)
    value = tool_calls.parsed(value) if isinstance(value, str) else value
    return value if isinstance(value, Mapping) else {}


def resolved(values: Mapping[str, Any]) -> bool | None:
    """Whether the task was solved, where a file says it: `resolved` or `target`, in the row or in `info`, `report`,
    `test_result.report` or `extra`; None where it does not."""
    places = (
        values,
        mapping(values, "info"),
        mapping(values, "report"),
        mapping(mapping(values, "test_result"), "report"),
        mapping(values, "extra"),
    )
    verdicts = (place.get(key) for place in places for key in ("resolved", "target"))
    return next((verdict for verdict in verdicts if isinstance(verdict, bool)), None)


def finished(exit_status: str) -> bool:
    """Whether a run handed its work in of itself; true where its exit status is not recorded."""
    return exit_status.strip().lower() in ("", "submitted")
