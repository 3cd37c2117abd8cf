"""What `superrl page` shows of an expert's steps: the heat map of rewards, and proposed actions beside the expert's.

Marked is the text that both actions have, as Ratcliff and Obershelp match it, whatever similarity the reward computes.
Leaves out what is too much for a page, and says so: trajectories and steps beyond CELLS, texts beyond TEXT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from superrl.report import number, percent
from superrl.show import prompt_text
from superrl.similarity import blocks
from superrl.steps.think import OPEN
from superrl.stepview import (
    Cell,
    Part,
    Rolled,
    Row,
    by_step,
    ends,
    in_words,
    learnt,
    parts,
    parts_of,
    pooled,
    proposal,
    reason,
)
from superrl.svg import Markup, Series, chart, join, shortened, tag
from superrl.why import alike

ROWS, COLUMNS, CELLS = 80, 100, 8000
"""The most trajectories, the last step, and the most cells that a heat map shows."""
CELL, NAME_WIDTH = 5, 140
"""The least width of a cell, and what a name takes besides, in pixels."""
NUMBERED = 12
"""A heat map of so many columns has its numbers in its first row."""
MEASURES = ("reward", "similarity", "exact", "format", "tool", "file")
KINDS = 40
"""What is told of steps that were held out, and how many rows a table of them has."""
TEXT, MATCHED = 2000, 500
"""The most characters of an action that are shown, and that are matched: matching takes the square of the length."""
PROPOSALS, MORE = 4, 4
"""So many different completions of a group stand open, and so many behind a click."""
CURVES = (
    ("similarity, where the format passed", "score/similarity"),
    ("format passed", "score/format"),
    ("exactly the expert's action", "score/exact"),
)
"""Name and metric key."""


def curves(metrics: Sequence[Row], stages: Sequence[tuple[str, float]]) -> list[Markup]:
    """How the proposed steps compare with the expert's, and what the format gate refused; nothing without steps."""
    compared = [Series(name, [(row["step"], row.get(key)) for row in metrics]) for name, key in CURVES]
    return [
        chart("proposed steps and the expert's", compared, rate=True, stages=stages, plain=True),
        chart("refused by the format gate", refusal_series(metrics), rate=True, stages=stages),
    ]


def refusal_series(metrics: Sequence[Row]) -> list[Series]:
    """A curve for every reason for which the format gate refused something."""
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith("score/format/"))
    return [
        Series(in_words(key.removeprefix("score/format/")), [(row["step"], row.get(key)) for row in metrics])
        for key in keys
        if any(row.get(key) for row in metrics)
    ]


def tiles(metrics: Sequence[Row]) -> list[tuple[str, str, str | None]]:
    """Similarity and format at both ends of the run; nothing for a run without steps."""
    found: list[tuple[str, str, str | None]] = []
    forms: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
        ("similarity of steps", "score/similarity", number),
        ("format passed", "score/format", percent),
    )
    for name, key, form in forms:
        if (both := ends(metrics, key)) is not None:
            found.append((name, f"{form(both[0])} → {form(both[1])}", "first and last ten training steps"))
    return found


# The heat map.


def heat_map(visits: Sequence[Rolled]) -> list[Markup]:
    """Mean reward by trajectory and step, the first half of the run beside the last."""
    found = parts(visits)
    counts: dict[str, int] = {}
    for visit in visits:
        counts[visit.place[0]] = counts.get(visit.place[0], 0) + 1
    last = max(step for part in found for _, step in part.cells)
    columns = min(last, COLUMNS)
    most = min(ROWS, CELLS // (columns * len(found)))
    names = sorted(sorted(counts), key=lambda name: -counts[name])[:most]
    hidden = [
        f"{len(counts) - len(names):,} trajectories with the fewest visits" if len(counts) > len(names) else "",
        f"steps after the {columns}th" if last > columns else "",
    ]
    told = " and ".join(filter(None, hidden))
    same = len(common(names))
    rows = (trajectory(name, found, columns, f"…{name[same:]}" if same else name) for name in ordered(names, found))
    body = [every(found, columns), *rows]
    least = f"min-width:{NAME_WIDTH + CELL * columns * len(found)}px"  # on a narrow screen the map is scrolled instead
    return [
        tag("p", f"Mean reward of the rollouts of every step, trajectories by the reward of their last half. "
                 f"{learnt(found)}"),
        scale(),
        tag("p", f"Not shown: {told}; the first row counts them.", class_="soft") if told else Markup(""),
        tag("div", tag("table", head(found, columns), tag("tbody", *body), class_="heat", style=least),
            class_="scroll"),
    ]  # fmt: skip


def ordered(names: Sequence[str], found: Sequence[Part]) -> list[str]:
    """The trajectories with the best last half on top; those not seen in it below."""

    def key(name: str) -> tuple[float, str]:
        cell = whole(found[-1], name)
        return (-cell.mean if cell else float("inf"), name)

    return sorted(names, key=key)


def whole(part: Part, name: str) -> Cell | None:
    """All steps of a trajectory."""
    return pooled(cell for (whose, _), cell in part.cells.items() if whose == name)


def head(found: Sequence[Part], columns: int) -> Markup:
    """What the columns are."""
    marked = {1, columns, *(k for k in range(5, columns - 1, 5) if columns > NUMBERED)}
    axis = [tag("span", str(k) if columns <= NUMBERED or k in marked else "") for k in range(1, columns + 1)]
    names = [tag("th", tag("b", f"training {part.name}"), grid(axis)) for part in found]
    return tag("thead", tag("tr", tag("th", "trajectory"), *names))


def every(found: Sequence[Part], columns: int) -> Markup:
    """The row of all trajectories together."""
    strips = []
    for part in found:
        together = [by_step(part, k, k) for k in range(1, columns + 1)]
        strips.append(tag("td", grid([square(f"all trajectories, step {k}", part, cell, columns <= NUMBERED)
                                      for k, cell in enumerate(together, 1)])))  # fmt: skip
    return tag("tr", tag("th", "all"), *strips, class_="all")


def common(names: Sequence[str]) -> str:
    """What all names begin with as far as a `/` or `:`, as those of the rows of one file do; nothing of a single name.

    >>> common(["data/steps.jsonl:1", "data/steps.jsonl:12"]), common(["chain-1", "chain-2"])
    ('data/steps.jsonl:', '')
    """
    if len(names) < 2:
        return ""
    low, high = min(names), max(names)  # what these two share, all between them do
    shared = low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
    return shared[: max(shared.rfind("/"), shared.rfind(":")) + 1]


def trajectory(name: str, found: Sequence[Part], columns: int, label: str) -> Markup:
    """The row of one trajectory; nothing stands where the run never visited a step."""
    known = {step for part in found for whose, step in part.cells if whose == name}
    strips = [
        tag("td", grid([square(f"{name}, step {k}", part, part.cells.get((name, k))) if k in known else tag("span")
                        for k in range(1, columns + 1)]))
        for part in found
    ]  # fmt: skip
    return tag("tr", tag("th", label, title=name), *strips)


def grid(children: Sequence[Markup]) -> Markup:
    """Cells of equal width."""
    few = " few" if len(children) <= NUMBERED else ""
    return tag("div", *children, class_=f"cells{few}", style=f"--n:{len(children)}")


def square(name: str, part: Part, cell: Cell | None, numbered: bool = False) -> Markup:
    """A cell; an empty one where the step was not visited."""
    if cell is None:
        return tag("i", class_="none")
    told = (
        f"{name}, training {part.name}: mean reward {cell.mean:.3f} of {cell.rollouts} rollouts, {cell.visits} visits"
    )
    shade = f"--v:{min(1.0, abs(cell.mean)):.2f}"
    text = short(cell.mean) if numbered else None
    side = "below" if cell.mean < 0 else "up"
    return tag("i", text, class_=f"{side} full" if abs(cell.mean) > 0.5 else side, style=shade, title=told)


def short(value: float) -> str:
    """Two digits without a leading zero.

    >>> short(0.426), short(-0.5), short(1.0), short(-0.001)
    ('.43', '−.50', '1.0', '.00')
    """
    if round(abs(value), 2) >= 1.0:
        return f"{value:.1f}".replace("-", "−")
    digits = f"{value:.2f}".replace("-0.00", "0.00")
    return digits.replace("0.", ".", 1).replace("-", "−")


def scale() -> Markup:
    """What the colours mean."""
    shades = [(v, "below" if v < 0 else "up") for v in (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0)]
    shown = [
        tag("span", tag("i", class_=side, style=f"--v:{abs(v)}"), f"{v:g}".replace("-", "−")) for v, side in shades
    ]
    return tag(
        "p",
        *shown,
        tag("span", tag("i", class_="none"), "not visited in that half"),
        "1: the expert's action; −1: refused by the format gate.",
        class_="scale soft",
    )


# Steps that were held out.


def held_out(evaluations: Sequence[Row]) -> list[Markup]:
    """A table for every set of steps that was evaluated: what the policy made of them at first and at last, by number
    of the step and by tool."""
    sets: dict[tuple[str, str], list[Row]] = {}
    for row in evaluations:
        if row.get("by"):
            sets.setdefault((str(row.get("split")), str(row.get("data"))), []).append(row)
    shown = []
    for (split, data), rows in sets.items():
        first, last = rows[0], rows[-1]
        when = f"step {first['step']} → {last['step']}" if len(rows) > 1 else f"step {last['step']}"
        tables = [table(column, first["by"].get(column) or {}, last["by"].get(column) or {}) for column in last["by"]]
        shown += [tag("h3", f"{split} {data}, {when}"), *tables]
    return shown


def table(column: str, first: Row, last: Row) -> Markup:
    """Means by one column; nothing where the evaluation has no such column."""
    if not last:
        return Markup("")
    known = {own(name): name for row in last.values() for name in row}
    names = [name for name in MEASURES if name in known]
    kinds = sorted(last, key=lambda kind: -last[kind]["n"])[:KINDS] if column != "step" else list(last)[:KINDS]
    head_ = tag("tr", *(tag("th", name) for name in (column, "n", *names)))
    rows = []
    for kind in kinds:
        before, after = first.get(kind) or {}, last[kind]
        told = [change(before.get(known[name]), after.get(known[name])) for name in names]
        rows.append(tag("tr", tag("th", kind), *(tag("td", text) for text in (f"{after['n']:,}", *told))))
    hidden = len(last) - len(kinds)
    more = tag("p", f"{hidden:,} more are in evaluations.jsonl.", class_="soft") if hidden else None
    return join(
        [tag("div", tag("table", tag("thead", head_), tag("tbody", *rows), class_="list"), class_="scroll"), more]
    )


def own(name: str) -> str:
    """The name of a part without the reward's."""
    return name.rpartition("/")[2]


def change(first: float | None, last: float | None) -> str:
    """From one number to another, or the one that is known."""
    return f"{first:.3f} → {last:.3f}" if first is not None and last is not None else number(last)


# A group.


def context(row: Row) -> list[Markup]:
    """What the policy read: every message, and what its answer already began with."""
    messages = [(str(message.get("role")), str(message.get("content"))) for message in row.get("earlier") or []]
    listed = [(f"context: {role}", text) for role, text in messages]
    listed.append(("context: user" if listed else "context", prompt_text(row["prompt"])))
    opening = str(row.get("opening") or "")
    if opening.strip() not in ("", OPEN):
        listed.append(("the answer already begins", opening))
    return [part for title, text in listed for part in (tag("h3", title), tag("pre", shortened(text)))]


def proposals(row: Row) -> list[Markup]:
    """What the policy proposed against what the expert did."""
    expert = str(row.get("answer") or "").strip()
    think = str(row["meta"].get("think", "none"))
    different = alike(row["completions"])
    if not different:
        return [tag("h3", "the expert's action"), tag("pre", shortened(expert))]
    few = spread(different)
    rest = [same for same in different if same not in few]
    shown = [proposed(same, expert, think) for same in few]
    if not rest:
        return shown
    said = f"{len(rest)} more" + (f", {MORE} of them here" if len(rest) > MORE else "")
    more = [proposed(same, expert, think) for same in rest[:MORE]]
    return [*shown, tag("details", tag("summary", said), *more, class_="more")]


def spread(groups: Sequence[list[Row]]) -> list[list[Row]]:
    """A few of the different completions, from the best to the worst."""
    if len(groups) <= PROPOSALS:
        return list(groups)
    return [groups[i * (len(groups) - 1) // (PROPOSALS - 1)] for i in range(PROPOSALS)]


def proposed(same: Sequence[Row], expert: str, think: str) -> Markup:
    """Equal completions: reward and format, the thought, and both actions with the text they share marked."""
    one = same[0]
    found = proposal(one, think)
    ours, theirs = marked(found.action, expert)
    columns = [
        ("thought", tag("pre", shortened(found.thought) or none("empty"))) if found.thought is not None else None,
        ("proposed action", tag("pre", ours) if found.action else tag("pre", none("none"))),
        ("expert's action", tag("pre", theirs)),
    ]
    shown = [tag("div", tag("h3", name), text) for name, text in filter(None, columns)]
    return tag("div", facts(same), tag("div", *shown, class_=f"sides n{len(shown)}"), class_="proposal")


def facts(same: Sequence[Row]) -> Markup:
    """One line: reward, similarity, advantage, how many, and what the format gate said."""
    one = same[0]
    score = one["score"] or {}
    parts_ = parts_of(one)
    why = reason(one)
    verdict = (
        tag("b", f"✗ refused: {in_words(why)}", class_="wrong") if why is not None
        else tag("b", "✓ format", class_="right") if parts_.get("format") else None
    )  # fmt: skip
    listed = [f"reward {number(score.get('value'))}"]
    listed += [f"{name} {number(parts_[name])}" for name in parts_ if telling(name, parts_[name])]
    listed += [f"advantage {one['advantage']:+.2f}"] if one["advantage"] is not None else []
    listed += [f"×{len(same)}"] if len(same) > 1 else []
    listed += ["cut off"] if one["stop"] == "length" and why != "cut" else []
    return tag("div", verdict, " · ".join(listed), class_="score")


def telling(part: str, value: float) -> bool:
    """Whether a part of a score is worth its place in the line: the format has its own, `bounded` is an exception."""
    return not part.startswith("format") and (part != "bounded" or value > 0.0)


def marked(action: str, expert: str) -> tuple[Markup, Markup]:
    """Both texts, each with what it shares with the other marked, as far as MATCHED characters."""
    spans = blocks(action[:MATCHED], expert[:MATCHED])
    said = max(len(action), len(expert)) > MATCHED
    note = tag("span", f"\n[compared as far as {MATCHED} characters]", class_="soft") if said else None
    return (
        join([*highlighted(action[:TEXT], ((i, n) for i, _, n in spans)), beyond(action), note]),
        join([*highlighted(expert[:TEXT], ((j, n) for _, j, n in spans)), beyond(expert), note]),
    )


def beyond(text: str) -> Markup | None:
    """A line for what is not shown of a text."""
    rest = len(text) - TEXT
    return tag("span", f"\n[... {rest:,} more characters]", class_="soft") if rest > 0 else None


def highlighted(text: str, spans: Iterable[tuple[int, int]]) -> list[Any]:
    """A text in pieces, those of `spans` (start, length; in order) marked."""
    pieces: list[Any] = []
    at = 0
    for start, length in spans:
        if length:
            pieces += [text[at:start], tag("mark", text[start : start + length])]
            at = start + length
    return [*pieces, text[at:]]


def none(text: str) -> Markup:
    """A word in place of a text that is not there."""
    return tag("span", text, class_="soft")
