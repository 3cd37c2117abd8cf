"""Three steps of the shipped recipe's kind, against the numbers they gave when they were last looked at.

The seed fixes everything, so a change here means that something changed what is drawn, decided or learnt: find out what
before writing new numbers (`python tests/golden/test_golden_run.py` prints them).
"""

import json
from pathlib import Path

import pytest

from superrl.config import load
from superrl.training import train

OVERRIDES = (
    "stages.0.steps=3",
    "stages.0.prompts_per_step=8",
    "stages.0.optimizer.lr=5.0e-4",
    "evaluation.limit=10",
    "evaluation.every=3",
    'data.train=["tasks:chain?order=right&ops=3&n=16&demos=8", "tasks:logic?n=16&demos=0"]',
    'data.validation="tasks:chain?order=right&ops=3&n=10"',
    "data.test=[]",
)
KEYS = ("loss", "loss/pg", "loss/sft", "reward/mean", "switch/fallback_rate", "grad_norm", "policy/entropy")
GOLDEN: list[dict[str, float]] = [
    {
        "loss": 0.154465,
        "loss/pg": 0.0,
        "loss/sft": 0.154465,
        "reward/mean": 0.28125,
        "switch/fallback_rate": 0.125,
        "grad_norm": 6.36888,
        "policy/entropy": 0.0496041,
    },
    {
        "loss": 0.454724,
        "loss/pg": 0.0,
        "loss/sft": 0.454724,
        "reward/mean": 0.359375,
        "switch/fallback_rate": 0.375,
        "grad_norm": 10.0379,
        "policy/entropy": 0.0354495,
    },
    {
        "loss": 0.420918,
        "loss/pg": 0.0,
        "loss/sft": 0.420918,
        "reward/mean": 0.296875,
        "switch/fallback_rate": 0.375,
        "grad_norm": 4.73663,
        "policy/entropy": 0.0502421,
    },
]


def rows(folder: Path) -> list[dict[str, float]]:
    train(load("default", OVERRIDES), folder)
    return [{key: json.loads(line)[key] for key in KEYS} for line in (folder / "metrics.jsonl").open()]


def test_the_run_is_the_one_we_know(tmp_path: Path) -> None:
    found = rows(tmp_path / "run")
    assert len(found) == len(GOLDEN)
    for now, then in zip(found, GOLDEN, strict=True):
        assert now == pytest.approx(then, rel=1e-3, abs=1e-6)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for row in rows(Path(name) / "run"):
            print(json.dumps(row) + ",")
