"""What step similarities cost: batches through the reward, and single pairs of every kind of text.

    python benchmarks/similarity_speed.py [--pairs 4096] [--length 1000] [--processes 2] [--kinds ratcliff,indel]
        [--json FILE]

The batch: an expert's text in prose, code or LaTeX, and the same with a share of its characters changed, all pairs
different. The time is that of `Reward.score` with warm workers, and once more with their start in it. The single pairs
(processor time) show what the cost bound does: text of a few thousand characters stays exact, and no pair costs more
than some 50 ms.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from superrl.records import Problem
from superrl.rewards import build
from superrl.similarity import bounded_ratcliff, indel, maths, tool_call
from superrl.similarity.tools import read_all

TEXT = """the sum of all squares is therefore equal to twice this area so we divide both sides and keep whatever
remains since every term has an even factor which gives us exactly one solution between zero and seven"""
WORDS = TEXT.split()
LATEX = (r"\frac{%d}{%d}", r"x^{%d} + y_{%d} =", r"\sqrt{%d} \cdot %d", r"\left(%d, %d\right)", r"a_{%d} \le b_{%d},")
CODE = (
    "    if node.value[%d] == %d:",
    "        return self.items[%d:%d]",
    "def step_%d(value=%d):",
    "    total += %d * %d",
)
COLUMNS = (bounded_ratcliff, indel, maths, tool_call)
KINDS = "ratcliff,ratcliff-autojunk,indel,maths,tool_call"


def prose(length: int, rng: random.Random) -> str:
    """Words of one small vocabulary."""
    return filled(length, lambda: rng.choice(WORDS) + " ")


def latex(length: int, rng: random.Random) -> str:
    """Formulas."""
    return filled(length, lambda: rng.choice(LATEX) % (rng.randrange(99), rng.randrange(99)) + " ")


def code(length: int, rng: random.Random) -> str:
    """Lines of Python, much of them spaces."""
    return filled(length, lambda: rng.choice(CODE) % (rng.randrange(99), rng.randrange(99)) + "\n")


def digits(length: int, rng: random.Random) -> str:
    """Ten characters."""
    return filled(length, lambda: rng.choice("0123456789"))


def bits(length: int, rng: random.Random) -> str:
    """Two characters."""
    return filled(length, lambda: rng.choice("01"))


def filled(length: int, part: Callable[[], str]) -> str:
    """Exactly so many characters."""
    parts, size = [], 0
    while size < length:
        parts.append(part())
        size += len(parts[-1])
    return "".join(parts)[:length]


def changed(text: str, share: float, rng: random.Random) -> str:
    """The text with a share of its characters replaced by others of it."""
    return "".join(rng.choice(text) if rng.random() < share else char for char in text)


def batch_times(kinds: list[str], pairs: int, length: int, processes: int) -> dict[str, dict[str, float]]:
    """Seconds of a batch by kind: with the start of the workers, and warm."""
    rng = random.Random(0)
    texts = [(prose, latex, code)[i % 3](length, rng) for i in range(pairs)]
    problems = [Problem(str(i), ({"role": "user", "content": "?"},), text) for i, text in enumerate(texts)]
    completions = [changed(text, rng.choice((0.1, 0.4, 0.7)), rng) for text in texts]
    found = {}
    for label in kinds:
        kind, _, autojunk = label.partition("-")
        with build(
            {"name": "step_similarity", "kind": kind, "paper_compat": bool(autojunk)}, processes=processes
        ) as reward:
            times = []
            for _ in range(2):
                start = time.perf_counter()
                reward.score(problems, completions)
                times.append(time.perf_counter() - start)
        found[label] = {"first": times[0], "warm": times[1]}
        print(f"  {label:20s} {times[1]:8.2f}   with the start of workers {times[0]:8.2f}", flush=True)
    return found


def pair_times() -> dict[str, dict[str, float | bool]]:
    """Milliseconds of single pairs, and whether the exact kind was given up."""
    rng = random.Random(1)
    found = {}
    for length in (1000, 2000, 4000, 8000):
        makers = (prose, latex, code, digits, bits)
        cases = {f"{make.__name__}, unrelated": (make(length, rng), make(length, rng)) for make in makers}
        text = prose(length, rng)
        cases["prose, 40 % changed"] = (changed(text, 0.4, rng), text)
        text = code(length, rng)
        cases["code, 40 % changed"] = (changed(text, 0.4, rng), text)
        cases["000 against 0 0"] = ("0" * length, "0 " * (length // 2))
        cases["0 0 against 000"] = ("0 " * (length // 2), "0" * length)
        for name, (action, expert) in cases.items():
            row: dict[str, float | bool] = {kind.__name__: cost(kind, action, expert) for kind in COLUMNS}
            row["bounded"] = bounded_ratcliff(action, expert).bounded
            found[f"{name}, {length}"] = row
            columns = " ".join(f"{row[kind.__name__]:9.3f}" for kind in COLUMNS)
            print(f"  {f'{name}, {length}':30s} {columns}{'   bounded' if row['bounded'] else ''}", flush=True)
    return found


def cost(kind: Callable[[str, str], object], action: str, expert: str) -> float:
    """Milliseconds of processor time, the lesser of two."""
    times = []
    for _ in range(2):
        read_all.cache_clear()
        start = time.process_time()
        kind(action, expert)
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def main() -> None:
    """Measures, prints two tables, and writes the numbers if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{given.pairs} pairs of {given.length} characters, {given.processes} processes: seconds")
    batches = batch_times(given.kinds.split(","), given.pairs, given.length, given.processes)
    print(f"{'one pair: milliseconds':30s}  {' '.join(f'{kind.__name__[-9:]:>9s}' for kind in COLUMNS)}")
    pairs = pair_times()
    if given.json:
        given.json.write_text(json.dumps({"batches": batches, "pairs": pairs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
