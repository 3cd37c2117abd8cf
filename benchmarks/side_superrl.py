"""superrl's side of a comparison: `superrl.train` on a workload, one step (or epoch) whenever asked.

    python benchmarks/side_superrl.py WORKLOAD.json          started by vs_trl.py, srl_step.py, sparse.py and growth.py

Told: `seconds` from being asked to the end of the step, all of the loop included; of them `generate` (time/rollout of
timing.jsonl) and `score`; `train` is the rest, the weights' way to the sampler included.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import Turns
from workload import SeededReward, Workload

import superrl
from superrl.report import Silent

STEPS = 100_000
"""More than anybody asks for: a side ends when it is not asked any more."""


class Asked(Silent):
    """Holds the loop between steps until it is asked for another `unit` of them."""

    def __init__(self, turns: Turns, unit: int, reward: SeededReward) -> None:
        self.turns, self.unit, self.reward = turns, unit, reward
        self.steps = 0
        self.told: dict[str, float] = {}

    def phase(self, name: str, total: int | None = None) -> None:
        if self.turns.began == 0.0:  # the first step begins
            self.turns.wait()
            self._changed()

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        self.steps += 1
        names = {"generate": "time/rollout", "score": "time/reward"}
        counts = {"generated": "tokens/generated", "trained": "tokens/trained", "logical": "tokens/logical"}
        counts |= {"computed": "tokens/computed", "live_groups": "groups/trained"}
        one = {key: timing[name] for key, name in names.items()} | {key: row[name] for key, name in counts.items()}
        self.told = {key: self.told.get(key, 0.0) + (value or 0.0) for key, value in one.items()}
        if self.steps % self.unit == 0:
            seconds = time.perf_counter() - self.turns.began
            told = {**self.told, "train": seconds - self.told["generate"] - self.told["score"]}
            self.told = {}
            self.turns.done(told)
            self._changed()

    def _changed(self) -> None:
        self.reward.dead = self.turns.changes.get("dead", 0)


def recipe(work: Workload) -> dict[str, Any]:
    """The run that a workload asks for."""
    stage: dict[str, Any] = {
        "name": "work",
        "steps": STEPS,
        "max_tokens_per_pack": work.pack,
        "optimizer": {"lr": 1e-6},
    }
    stage["prompt"] = {"chat": "never"}
    if work.demonstrations:
        stage |= {"method": {"name": "sft"}, "prompts_per_step": work.batch, "max_new_tokens": 2048}
    else:
        stage |= {"method": {"name": "grpo"}, "prompts_per_step": len(work.prompts)}
        stage |= {"group_size": work.completions, "max_new_tokens": work.new_tokens}
    return {
        "model": {"name": work.model, "dtype": work.dtype},
        "data": {"train": "given", "unverified": "keep"},
        "stages": [stage],
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
        "log": {"rollouts_per_step": 0},
    }


def main() -> None:
    import torch

    work = Workload.load(sys.argv[1])
    torch.set_num_threads(work.threads)
    rows: list[dict[str, Any]] = [
        {"id": str(i), "prompt": text, "answer": "", "index": i} for i, text in enumerate(work.prompts)
    ]
    for row, text in zip(rows, work.demonstrations, strict=False):
        row["demonstrations"] = [text]
    reward = SeededReward()
    unit = len(rows) // work.batch if work.demonstrations else 1
    asked = Asked(Turns(), unit, reward)
    with tempfile.TemporaryDirectory() as folder:
        superrl.train(recipe(work), problems=rows, reward=reward, out=Path(folder) / "run", progress=asked)


if __name__ == "__main__":
    main()
