"""`superrl why RUN STEP PROBLEM`: one visit to one problem, told in a terminal of 80 columns.

What was rolled out and scored, what was decided and why, what that weighed in the step, and what became of the problem
at its next visit. Numbers are from visits.jsonl, which has every group of every step; texts from rollouts.jsonl, where
that kept them. Leaves out the gradient: what a step did to the weights is the step's, not one problem's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from superrl.errors import UserError, nearest
from superrl.raster import TAUGHT, settled
from superrl.report import percent, plain_console, read_rows
from superrl.show import DECISIONS, check_run, demonstration_text, plain, print_sections, prompt_text, verdict
from superrl.stepview import is_step
from superrl.visits import CARRIED, DISCARDED

Row = Mapping[str, Any]


def why(run: Path, step: int, problem: str, console: Console | None = None) -> None:
    """Print what happened to a problem in a step. UserError for a run, step or problem that is not there."""
    check_run(run)
    visits = read_rows(run / "visits.jsonl")
    name, found = find(visits, step, problem, run)
    texts = [row for row in read_rows(run / "rollouts.jsonl") if (row["step"], row["problem_id"]) == (step, name)]
    sections = [
        (f"step {step}, {plain(name)}", visit(row, visits, text))
        for row, text in zip(found, match(found, texts), strict=True)
    ]
    print_sections(sections, console or plain_console())


def find(visits: Sequence[Row], step: int, problem: str, run: Path) -> tuple[str, list[Row]]:
    """A problem's id, from it or its beginning, and the rows of its visits in a step."""
    if not visits:
        raise UserError(f"{run} has no visits.jsonl with a step in it: no step was written yet, or by an older superrl")
    first, last = visits[0]["step"], visits[-1]["step"]
    here = [row for row in visits if row["step"] == step]
    if not here:
        raise UserError(f"{run} has no step {step}: its steps are {first} to {last}")
    name = resolve(problem, [row["problem_id"] for row in here], [row["problem_id"] for row in visits])
    found = [row for row in here if row["problem_id"] == name]
    if not found:
        steps = near([row["step"] for row in visits if row["problem_id"] == name], step)
        raise UserError(f"{plain(name)} was not visited in step {step}: nearest, it was in {steps}")
    return name, found


def resolve(problem: str, here: Iterable[str], everywhere: Iterable[str]) -> str:
    """The id that is `problem` or begins with it: among those of the step if that leaves one, else of the run."""
    known = set(everywhere)
    if problem in known:
        return problem
    for names in (set(here), known):
        begins = sorted(name for name in names if name.startswith(problem))
        if len(begins) == 1:
            return begins[0]
        if begins:
            more = f" and {len(begins) - 3} more" if len(begins) > 3 else ""
            listed = ", ".join(map(plain, begins[:3]))
            raise UserError(f"{plain(problem)!r} begins {len(begins)} problems: {listed}{more}; write more of the id")
    some = nearest(problem, known) if len(known) < 10 else nearest(problem, known).partition("known:")[0]
    raise UserError(f"no problem of this run is or begins with {plain(problem)!r}{f'; {some}' if some else ''}")


def near(steps: Iterable[int], step: int) -> str:
    """The nearest step before and the nearest after, in words."""
    known = sorted(set(steps))
    before, after = [s for s in known if s < step][-1:], [s for s in known if s > step][:1]
    return " and ".join(f"step {s}" for s in [*before, *after])


def match(found: Sequence[Row], texts: Sequence[Row]) -> list[Row | None]:
    """For every visit the row of rollouts.jsonl that has its texts, if it was kept: told apart by decision and rewards,
    where a step visits a problem twice."""
    left = list(texts)
    matched: list[Row | None] = []
    for row in found:
        same = next((text for text in left if _alike(row, text)), None)
        if same is not None:
            left.remove(same)
        matched.append(same)
    return matched


def _alike(row: Row, text: Row) -> bool:
    values = [(completion["score"] or {}).get("value") for completion in text["completions"]]
    close = all(
        a is not None and abs(a - b) <= 1e-5 * max(1.0, abs(b)) for a, b in zip(values, row["values"], strict=False)
    )
    return len(values) == total(row) and close and text["decision"] == row["decision"]


def visit(row: Row, visits: Sequence[Row], text: Row | None) -> list[RenderableType]:
    """Everything about one visit: the facts, then prompt, completions and demonstration."""
    facts = _grid()
    for label, told in (
        ("rolled out", scored(row)),
        ("decision", f"{decision(row)}: {plain(row['why'])}"),
        ("learnt", learnt(row)),
        ("weight", weight(row)),
        *around(row, visits),
    ):
        facts.add_row(Text(label, "dim"), Text(told))
    size = sum(r["step"] == row["step"] and r["decision"] not in (CARRIED, DISCARDED) for r in visits)
    return [facts, Text(), _numbers(row, size) if text is None else _texts(text, row)]


def decision(row: Row) -> str:
    """The decision in words."""
    return DECISIONS.get(row["decision"], str(row["decision"]))


def scored(row: Row) -> str:
    """`8 rollouts, 3 correct; rewards 1 ×3, 0 ×5`."""
    if not total(row):
        return "nothing: this method learns from demonstrations alone"
    drawn = "" if row["drawn"] == row["step"] else f" (in step {row['drawn']})"
    judged = "the reward does not say what is correct" if row["correct"] is None else f"{row['correct']} correct"
    helped = f", {row['assisted']} more with the expert's help" if row.get("assisted") else ""
    return f"{row['n']} rollouts{drawn}, {judged}{helped}; rewards {counted(row['values'])}"


def total(row: Row) -> int:
    """All rollouts of a visit, those with the expert's help included (older runs had none)."""
    return int(row["n"]) + int(row.get("assisted", 0))


def counted(values: Iterable[float]) -> str:
    """`1 ×3, 0 ×5`, the best first."""
    found = sorted(Counter(values).items(), reverse=True)
    return ", ".join(f"{value:g}" + (f" ×{times}" if times > 1 else "") for value, times in found)


def learnt(row: Row) -> str:
    """What was trained on."""
    parts = []
    if trained := [a for a in row["advantages"] or [] if a is not None]:
        spread = f"{min(trained):+.2f} to {max(trained):+.2f}" if len(set(trained)) > 1 else f"{trained[0]:+.2f}"
        parts.append(f"{len(trained)} of {total(row)} rollouts, with advantages {spread}")
    if row["decision"] in TAUGHT:
        which = row["demonstration"]
        parts.append("several demonstrations" if which is None else f"demonstration {which} of {row['demonstrations']}")
    return " and ".join(parts) or "nothing"


def weight(row: Row) -> str:
    """What it weighed: `1/32 of the step's mean`."""
    if row["share"] is None:
        return "none: it is no part of the step's mean"
    parts = round(1 / row["share"])
    share = f"1/{parts}" if abs(1 / row["share"] - parts) < 1e-3 else percent(row["share"])
    idle = ", where it adds no gradient" if row["decision"] == "none" else ""
    return f"{share} of the step's mean{idle}"


def around(row: Row, visits: Sequence[Row]) -> list[tuple[str, str]]:
    """The visits before and after this one."""
    own = settled(r for r in visits if r["problem_id"] == row["problem_id"])
    earlier = [r for r in own if r["step"] < row["step"]]
    later = [r for r in own if r["step"] > row["step"]]
    last = visits[-1]["step"]
    return [
        ("before", _brief(earlier[-1]) if earlier else "this was the first visit"),
        ("next", _brief(later[0]) if later else f"not visited again up to step {last}, the last one written"),
    ]


def _brief(row: Row) -> str:
    if not total(row):
        outcome = "nothing rolled out"
    elif row["correct"] is None:
        outcome = f"rewards {counted(row['values'])}"
    else:
        outcome = f"{row['correct']} of {row['n']} correct"
    return f"step {row['step']}: {outcome}, {'nothing learnt' if row['decision'] == 'none' else decision(row)}"


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    return table


def _texts(text: Row, row: Row) -> Table:
    """The prompt, every different completion from best to worst, and what the expert wrote."""
    table = _grid()
    table.add_row(Text("prompt", "dim"), Text(lines(prompt_text(text["prompt"]))))
    if text.get("opening"):
        table.add_row(Text("begun", "dim"), Text(lines(text["opening"])))
    for same in alike(text["completions"]):
        times = Text(f"\n  ×{len(same)}" if len(same) > 1 else "", "dim")
        table.add_row(Text.assemble(verdict(same[0]), times), Text(lines(same[0]["text"])))
    if is_step(text):
        table.add_row(Text("expert", "yellow"), Text(lines(text["answer"])))
    elif text["demonstration"] is not None:
        table.add_row(Text("expert", "yellow"), Text(lines(demonstration_text(text["demonstration"]))))
    elif row["decision"] in TAUGHT:
        table.add_row(Text("expert", "yellow"), Text("several demonstrations; their texts are in the data"))
    return table


def _numbers(row: Row, size: int) -> Table:
    """What visits.jsonl knows of rollouts whose texts were not kept, and how to keep them."""
    table = _grid()
    pairs = zip(row["values"], row["advantages"] or [None] * total(row), strict=True)
    for (value, advantage), times in sorted(Counter(pairs).items(), key=lambda entry: -entry[0][0]):
        credit = "" if advantage is None else f"  A {advantage:+.2f}"
        table.add_row(Text("reward", "dim"), Text(f"{value:.2f}{credit}" + (f"  ×{times}" if times > 1 else "")))
    kept = f"not kept: log.rollouts_per_step={size} would keep those of every group that a step decides about"
    table.add_row(Text("texts", "dim"), Text(kept))
    return table


def alike(completions: Iterable[Row]) -> list[list[Row]]:
    """Completions from best to worst score, those that are equal in everything together."""
    found: dict[str, list[Row]] = {}
    for completion in sorted(completions, key=lambda c: -((c["score"] or {}).get("value") or 0.0)):
        found.setdefault(repr(completion), []).append(completion)
    return list(found.values())


def lines(text: Any) -> str:
    """Text with its line breaks and nothing else that moves the cursor or colours the terminal."""
    return "\n".join(map(plain, str(text).replace("\r\n", "\n").split("\n")))
