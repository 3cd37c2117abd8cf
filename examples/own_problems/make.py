"""Writes train.jsonl, validation.jsonl and test.jsonl beside itself: sums and differences, worked out from the right.

    <8-3+5=        3+5=8, 8-8=0        answer: 8 0

Digits modulo ten. The point is the form, one JSON object a line, with a demonstration on 48 of the 256 training
problems and on no other; replace this file by whatever makes yours.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SIZES = {"train": 256, "validation": 100, "test": 200}
DEMONSTRATED = 48


def problem(rng: random.Random, operations: int = 3) -> dict[str, str]:
    """A question, its intermediate results from the right, and the worked solution."""
    digits = [rng.randrange(10) for _ in range(operations + 1)]
    signs = [rng.choice("+-") for _ in range(operations)]
    question = "<" + "".join(f"{d}{s}" for d, s in zip(digits, [*signs, "="], strict=True))
    right, results, working = digits[-1], [], []
    for digit, sign in zip(digits[-2::-1], signs[::-1], strict=True):
        value = (digit + right if sign == "+" else digit - right) % 10
        working.append(f"{digit}{sign}{right}={value}")
        results.append(str(value))
        right = value
    answer = " ".join(results)
    return {"prompt": question, "answer": answer, "solution": "\n".join([*working, f"#{answer}"])}


def main() -> None:
    rng = random.Random(7)
    made: dict[str, dict[str, str]] = {}
    while len(made) < sum(SIZES.values()):
        one = problem(rng)
        made.setdefault(one["prompt"], one)
    problems = iter(made.values())
    for split, size in SIZES.items():
        lines = []
        for index in range(size):
            one = next(problems)
            row = {"id": f"{split}-{index}", "prompt": one["prompt"], "answer": one["answer"]}
            if split == "train" and index < DEMONSTRATED:
                row["demonstrations"] = [one["solution"]]  # type: ignore[assignment]
            lines.append(json.dumps(row))
        (HERE / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
