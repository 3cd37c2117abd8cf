"""Can a similarity be gamed? How well each tells right twins of an expert's step from wrong ones, as AUC.

    python benchmarks/similarity_gaming.py [--draws 20] [--seed 0] [--only a] [--out gaming.json]

Sets: half A (what `maths` was developed on), half B (hidden: other templates, written first), real steps where the
environment variable SUPERRL_DATA names the data folder, and tool calls. For every expert's step there are wrong twins
(one digit, sign, operator, variable, exponent) and right ones (paraphrase, reorder, notation).

- `pooled`: a right twin of any step above a wrong twin of any step (ties count half); the interval is a bootstrap over
  templates, since draws of one template are alike.
- `own`: the same among the twins of one step, which is what a group of rollouts compares.
- `reworded`: a right paraphrase above the very same paraphrase with one edit.

No torch, no network; seconds. What a similarity is called with is (action, expert).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from gaming import agents, half_a, half_b, real
from gaming.item import Item, Template

from superrl.similarity import exact, indel, maths, ratcliff, tool_call

Similarity = Callable[[str, str], float]
TEXT: Mapping[str, Similarity] = {
    "ratcliff": ratcliff,
    "ratcliff, autojunk": partial(ratcliff, autojunk=True),
    "indel": indel,
    "exact": exact,
    "maths": maths,
}
CALLS: Mapping[str, Similarity] = {**TEXT, "tool_call": tool_call}
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Result:
    """One similarity on one set; `kinds`: pooled AUC of all right twins against the wrong ones of one kind."""

    pooled: float
    interval: tuple[float, float]
    own: float
    reworded: float | None
    mean_right: float
    mean_wrong: float
    microseconds: float
    kinds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scored:
    """One expert's step: scores by kind."""

    template: str
    right: Mapping[str, float]
    wrong: Mapping[str, float]
    reworded: Mapping[str, float]


def draw(templates: Sequence[Template], draws: int, seed: int) -> list[tuple[str, Item]]:
    """`draws` items of every template; seeded by the template's name, so that none depends on another."""
    return [
        (template.__name__, template(random.Random(f"{seed}{template.__name__}{i}")))
        for template in templates
        for i in range(draws)
    ]


def score(similarity: Similarity, name: str, item: Item) -> Scored:
    """Every twin against the expert's step."""
    right, wrong, reworded = (
        {kind: similarity(text, item.expert) for kind, text in twins.items()}
        for twins in (item.right, item.wrong, item.reworded)
    )
    return Scored(name, right, wrong, reworded)


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """P(right > wrong) + P(right = wrong) / 2."""
    below = sorted(wrong)
    wins = sum(bisect_left(below, value) + bisect_right(below, value) for value in right)
    return wins / (2 * len(right) * len(below))


def pooled(rows: Sequence[Scored]) -> float:
    """AUC over all steps."""
    return auc([v for row in rows for v in row.right.values()], [v for row in rows for v in row.wrong.values()])


def interval(rows: Sequence[Scored], seed: int) -> tuple[float, float]:
    """95 % of the pooled AUC when templates are drawn again."""
    rng = random.Random(seed)
    by_template: dict[str, list[Scored]] = {}
    for row in rows:
        by_template.setdefault(row.template, []).append(row)
    names = list(by_template)
    values = sorted(
        pooled([row for name in rng.choices(names, k=len(names)) for row in by_template[name]])
        for _ in range(RESAMPLES)
    )
    return values[round(0.025 * RESAMPLES)], values[round(0.975 * RESAMPLES) - 1]


def measure(similarity: Similarity, items: Sequence[tuple[str, Item]], seed: int) -> Result:
    """One similarity on one set."""
    start = time.process_time()
    rows = [score(similarity, name, item) for name, item in items]
    seconds = time.process_time() - start
    right = [value for row in rows for value in row.right.values()]
    wrong: dict[str, list[float]] = {}
    for row in rows:
        for kind, value in row.wrong.items():
            wrong.setdefault(kind, []).append(value)
    pairs = [(row.right["paraphrase"], value) for row in rows for value in row.reworded.values()]
    everything = [value for values in wrong.values() for value in values]
    twins = len(right) + len(everything) + len(pairs)
    return Result(
        pooled=pooled(rows),
        interval=interval(rows, seed),
        own=statistics.mean(auc(list(row.right.values()), list(row.wrong.values())) for row in rows),
        reworded=statistics.mean((a > b) + (a == b) / 2 for a, b in pairs) if pairs else None,
        mean_right=statistics.mean(right),
        mean_wrong=statistics.mean(everything),
        microseconds=1e6 * seconds / twins,
        kinds={kind: auc(right, values) for kind, values in sorted(wrong.items())},
    )


def report(name: str, items: Sequence[tuple[str, Item]], results: Mapping[str, Result]) -> None:
    """The table of one set."""
    rights = sum(len(item.right) for _, item in items)
    wrongs = sum(len(item.wrong) for _, item in items)
    print(f"\n{name}: {len(items)} steps, {rights} right twins, {wrongs} wrong twins")
    heads = f"{'pooled AUC':>11}{'95 %':>16}{'own':>7}{'reworded':>10}{'right':>7}{'wrong':>7}{'us/pair':>9}"
    print(f"{'similarity':20}{heads}")
    for similarity, r in results.items():
        reworded = "-" if r.reworded is None else f"{r.reworded:.3f}"
        bounds = f"{r.interval[0]:.3f} - {r.interval[1]:.3f}"
        print(
            f"{similarity:20}{r.pooled:11.3f}{bounds:>16}{r.own:7.3f}{reworded:>10}"
            f"{r.mean_right:7.3f}{r.mean_wrong:7.3f}{r.microseconds:9.0f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20, help="steps from every template")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["a", "b", "real", "calls"], help="one set")
    parser.add_argument("--out", type=Path, help="all numbers as JSON")
    options = parser.parse_args()
    sets: dict[str, tuple[str, list[tuple[str, Item]], Mapping[str, Similarity]]] = {
        "a": ("half A (developed on)", draw(half_a.TEMPLATES, options.draws, options.seed), TEXT),
        "b": ("half B (hidden)", draw(half_b.TEMPLATES, options.draws, options.seed), TEXT),
        "calls": ("tool calls", draw(agents.TEMPLATES, options.draws, options.seed), CALLS),
    }
    if data := os.environ.get("SUPERRL_DATA"):
        # A step is its own template: no two are alike.
        steps = [(str(i), item) for i, item in enumerate(real.items(Path(data), 400))]
        sets["real"] = ("real steps", steps, TEXT)
    elif options.only in (None, "real"):
        print("no real steps: SUPERRL_DATA does not name the data folder", file=sys.stderr)
    chosen = [options.only] if options.only in sets else [] if options.only else list(sets)
    found: dict[str, dict[str, Result]] = {}
    for key in chosen:
        title, items, similarities = sets[key]
        found[key] = {name: measure(similarity, items, options.seed) for name, similarity in similarities.items()}
        report(title, items, found[key])
    if options.out is not None:
        numbers = {key: {name: asdict(result) for name, result in results.items()} for key, results in found.items()}
        options.out.write_text(
            json.dumps({"draws": options.draws, "seed": options.seed, "sets": numbers}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
