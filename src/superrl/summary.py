"""What a whole run came to: `summary.json`, from its own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from superrl.position import Position


def summarize(
    evaluations: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]], position: Position
) -> dict[str, Any]:
    """Marks at start and end of every test set, validation with its best step, steps, seconds, tokens, switch."""
    judged = [e for e in evaluations if e["split"] == "validation"]
    sets = {e["data"] for e in judged if e["step"] == judged[-1]["step"]}  # those of the last stage
    validation = _by_step([e for e in judged if e["data"] in sets])
    steps = sorted(validation)
    return {
        "test": _ends([e for e in evaluations if e["split"] == "test"]),
        "validation": {
            "start": validation[steps[0]] if steps else None,
            "final": validation[steps[-1]] if steps else None,
            "best": position.best,
            "best_step": position.best_step,
        },
        "steps": position.step,
        "wall_seconds": position.seconds,
        "tokens": {"generated": position.generated, "trained": position.trained},
        "switch": {
            "fallbacks": position.fallbacks,
            "fallback_rate": _first_last(metrics, "switch/fallback_rate"),
            "fallback_rate_demonstrated": _first_last(metrics, "switch/fallback_rate_demonstrated"),
            "solved_rate": _first_last(metrics, "switch/solved_rate"),
        },
    }


def mark(evaluation: Mapping[str, Any]) -> float:
    """What an evaluation counts for: its accuracy, or the mean reward where nothing is judged."""
    accuracy = evaluation["accuracy"]
    return float(evaluation["reward"] if accuracy is None else accuracy)


def _ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    ends: dict[str, dict[str, Any]] = {}
    for evaluation in rows:
        ends.setdefault(evaluation["data"], {"start": mark(evaluation)})["final"] = mark(evaluation)
    return ends


def _by_step(rows: Sequence[Mapping[str, Any]]) -> dict[int, float | None]:
    marks: dict[int, list[float]] = {}
    for evaluation in rows:
        marks.setdefault(evaluation["step"], []).append(mark(evaluation))
    return {step: sum(values) / len(values) for step, values in marks.items()}


def _first_last(metrics: Sequence[Mapping[str, Any]], key: str, window: int = 10) -> dict[str, float | None]:
    """The means over the first and the last `window` steps that have the key."""
    values = [float(row[key]) for row in metrics if row.get(key) is not None]
    if not values:
        return {"start": None, "final": None}
    first, last = values[:window], values[-window:]
    return {"start": sum(first) / len(first), "final": sum(last) / len(last)}
