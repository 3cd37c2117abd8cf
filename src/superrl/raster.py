"""The switch raster: problems x visits, what became of every visit, and how long a problem needed after its fallback.

Read from the rows of visits.jsonl and nothing else. A visit's kind says how its rollouts fared; whether the problem's
demonstration was learnt from is kept apart (`taught`), since a relapse may be caught by it and a yoked switch teaches
solved problems. Visits whose reward does not say what is correct are `unjudged`: nothing is guessed from their values.
Leaves out drawing (`page.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from superrl.visits import CARRIED

Row = Mapping[str, Any]

KINDS = {
    "solved": "all rollouts correct",
    "mixed": "some rollouts correct",
    "relapsed": "none correct, although an earlier visit had a correct one",
    "fallback": "none correct, learnt from the demonstration alone",
    "failed": "none correct, the demonstration not used",
    "no demonstration": "none correct, nothing to fall back on",
    "imitated": "nothing rolled out, learnt from the demonstration",
    "unjudged": "the reward does not say what is correct",
}
"""Every kind of visit, and what it means."""
TAUGHT = ("sft", "both")


@dataclass(frozen=True, slots=True)
class Visit:
    """One cell: its kind, whether the demonstration was learnt from, and the row it was read from."""

    kind: str
    taught: bool
    row: Row


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of the problems that ever fell back before a success of their own: how many later succeeded, and when.

    `median` counts visits from the first fallback to the first correct rollout (1: the very next visit), over
    `succeeded` and `never` together, those that never succeeded counting as later than all others: None where it falls
    on one of them, or where there is no problem to count. `unvisited` were not seen again and count nowhere; `before`
    had a correct rollout before, or in, their first fallback.
    """

    succeeded: int
    never: int
    unvisited: int
    before: int
    median: float | None


def raster(rows: Iterable[Row]) -> dict[str, list[Visit]]:
    """Problem id -> its visits in the order of the steps; problems in the order of their first visit."""
    found: dict[str, list[Visit]] = {}
    for row in settled(rows):
        before = found.setdefault(str(row["problem_id"]), [])
        row_kind = kind(row, any(succeeded(visit) for visit in before))
        before.append(Visit(row_kind, row["decision"] in TAUGHT, row))
    return found


def settled(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of carried-over groups that have a second row, with what was decided in the end."""
    listed = list(rows)
    later = Counter((row["problem_id"], row["drawn"]) for row in listed if row["step"] > row["drawn"])
    kept = []
    for row in listed:
        if row["decision"] == CARRIED and later[row["problem_id"], row["drawn"]]:
            later[row["problem_id"], row["drawn"]] -= 1
        else:
            kept.append(row)
    return kept


def kind(row: Row, succeeded_before: bool) -> str:
    """Which of KINDS a visit is, given whether an earlier visit of the problem had a correct rollout."""
    n, correct = row["n"], row["correct"]
    if n == 0:
        return "unjudged" if row.get("assisted") else "imitated"
    if correct is None:
        return "unjudged"
    if correct > 0:
        return "solved" if correct == n else "mixed"
    if succeeded_before:
        return "relapsed"
    if row["decision"] in TAUGHT:
        return "fallback"
    return "failed" if row["demonstrations"] else "no demonstration"


def succeeded(visit: Visit) -> bool:
    """Whether some rollout of the visit was correct."""
    return visit.kind in ("solved", "mixed")


def is_judged(problems: Mapping[str, Sequence[Visit]]) -> bool:
    """Whether some visit's reward says what is correct; without, there is no raster to speak of."""
    return any(visit.kind not in ("unjudged", "imitated") for visits in problems.values() for visit in visits)


def recovery(problems: Mapping[str, Sequence[Visit]]) -> Recovery:
    """Visits from the first fallback to the first own success, summed up over all problems.

    Visits without rollouts (a supervised stage) are no fallbacks, and unjudged ones tell nothing: neither is counted.
    """
    waits: list[float] = []
    never = unvisited = before = 0
    for visits in problems.values():
        judged = [visit for visit in visits if visit.kind not in ("unjudged", "imitated")]
        first = next((i for i, visit in enumerate(judged) if visit.taught), None)
        if first is None:
            continue
        success = next((i for i, visit in enumerate(judged) if succeeded(visit)), None)
        if success is not None and success <= first:
            before += 1
        elif success is not None:
            waits.append(success - first)
        elif first == len(judged) - 1:
            unvisited += 1
        else:
            never += 1
    # `median` averages the middle two of an even number: one `never` among them makes it infinite, so None.
    middle = median([*waits, *[float("inf")] * never]) if waits or never else float("inf")
    return Recovery(len(waits), never, unvisited, before, None if middle == float("inf") else middle)


def told(found: Recovery) -> str:
    """A recovery in a sentence or two, for the page and the terminal."""
    counted = found.succeeded + found.never
    if not counted + found.unvisited + found.before:
        return "No problem fell back on a demonstration."
    parts = []
    if counted:
        wait = "not reached by half of them" if found.median is None else f"{found.median:g}"
        parts.append(
            f"of {counted} problems that fell back before any success and were seen again, {found.succeeded} had a "
            f"correct rollout of their own later, {found.never} never (median visits until then: {wait})"
        )
    if found.unvisited:
        parts.append(f"{found.unvisited} fell back at their last visit")
    if found.before:
        parts.append(f"{found.before} had a correct rollout before or in their first fallback")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
