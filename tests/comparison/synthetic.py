"""Comparison folders written by hand: curves go in, run folders as the trainer leaves them come out."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from superrl.evaluation import wilson

COLUMNS = {
    "in distribution": "tasks:chain?ops=3",
    "one step longer": "tasks:chain?ops=4",
    "sibling family": "tasks:route?ops=3",
    "retention": "tasks:chain?ops=2",
}
ARMS = ("sft", "grpo", "sft-then-rl", "refill", "superrl", "superrl-no-pg", "yoked")


def write_plan(
    out: Path,
    settings: Mapping[str, Mapping[str, str]],
    arms: Sequence[str],
    seeds: Sequence[int],
    **changed: Any,
) -> None:
    """comparison.yaml, as the runner resolves it."""
    plan = {
        "name": "synthetic",
        "recipe": "default",
        "settings": {name: {"overrides": [], "columns": dict(columns)} for name, columns in settings.items()},
        "arms": list(arms),
        "seeds": list(seeds),
        "tuning": {"seeds": [100], "lr": [1e-4, 5e-4]},
        "seconds": "wall",
        "primary": "in distribution",
        "baseline": "grpo",
        "treatment": "superrl",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.yaml").write_text(yaml.safe_dump(plan | changed, sort_keys=False))


def write_run(
    folder: Path,
    validation: Mapping[int, float],
    columns: Mapping[str, tuple[float, float]],
    *,
    tokens: float | None = 100.0,
    wall: float = 2.0,
    cpu: float | None = None,
    kl: float | None = None,
    weights: Mapping[str, Sequence[float | None]] | None = None,
    finished: bool = True,
    n: int = 100,
) -> None:
    """One run folder: validation accuracy by step, (start, final) by test data, a constant cost a step, and the weights
    of the streams step by step."""
    folder.mkdir(parents=True)
    last = max(validation)
    balance = {f"method/weight/{stream}": values for stream, values in (weights or {}).items()}
    metrics = [
        {"step": step, "tokens/generated": tokens, **{key: values[step - 1] for key, values in balance.items()}}
        for step in range(1, last + 1)
    ]
    clocks = {"time/step": wall} | ({} if cpu is None else {"time/cpu": cpu})
    timing = [{"step": step, **clocks} for step in range(1, last + 1)]
    evaluations = [_evaluation(0, "test", data, start, n) for data, (start, _) in columns.items()]
    evaluations += [_evaluation(step, "validation", "v", accuracy, n) for step, accuracy in validation.items()]
    evaluations += [_evaluation(last, "test", data, final, n) for data, (_, final) in columns.items()]
    for name, rows in (("metrics", metrics), ("timing", timing), ("evaluations", evaluations)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kl is not None:
        (folder / "kl.json").write_text(json.dumps({"kl_from_base": kl}))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"steps": last}))


def write_looks(
    folder: Path,
    *,
    likeness: Mapping[str, tuple[float, float | None, float | None]] | None = None,
    correct: Sequence[int] | None = None,
    samples: int = 16,
) -> None:
    """What was measured of a model: (nll, similarity, share correct) by set; how often each problem was solved."""
    folder.mkdir(parents=True, exist_ok=True)
    if likeness is not None:
        found = {
            name: {"source": name, "problems": 8, "nll": nll, "similarity": alike, "correct": share, "solved": 8}
            for name, (nll, alike, share) in likeness.items()
        }
        asked = {"held_out": "test", "problems": 8}
        (folder / "imitation.json").write_text(json.dumps({"asked": asked, **found}))
    if correct is not None:
        asked = {"data": "test", "samples": samples, "problems": len(correct)}
        counts = {f"p{i}": count for i, count in enumerate(correct)}
        (folder / "passes.json").write_text(json.dumps({"asked": asked, "correct": counts}))


def _evaluation(step: int, split: str, data: str, accuracy: float, n: int) -> dict[str, Any]:
    return {"step": step, "split": split, "data": data, "accuracy": accuracy, "ci95": wilson(accuracy, n), "n": n}


def write_lifelike(out: Path, settings: Sequence[str], seeds: Sequence[int], *, kl: bool = True) -> None:
    """All arms with curves that look like curves: for pictures, and to see that everything is printed."""
    write_plan(out, dict.fromkeys(settings, COLUMNS), ARMS, seeds)
    #       final, half-way step, retention, tokens a step, seconds a step, KL
    arms = {
        "sft": (0.72, 12, 0.55, None, 0.35, 0.6),
        "grpo": (0.62, 55, 0.88, 6500, 1.1, 0.1),
        "sft-then-rl": (0.85, 20, 0.6, 4000, 0.8, 0.5),
        "refill": (0.70, 50, 0.85, 11000, 1.7, 0.12),
        "superrl": (0.93, 28, 0.8, 6300, 1.2, 0.3),
        "superrl-no-pg": (0.80, 30, 0.75, 6200, 1.1, 0.35),
        "yoked": (0.75, 40, 0.7, 6300, 1.2, 0.33),
    }
    chosen: dict[str, Any] = {}
    for index, setting in enumerate(settings):
        for arm, (top, middle, retention, tokens, wall, distance) in arms.items():
            for seed in seeds:
                rng = random.Random(f"{setting}/{arm}/{seed}")
                height = min(0.99, max(0.05, top - 0.05 * index + rng.gauss(0, 0.05)))
                knee = middle * (1 + 0.4 * index) + rng.gauss(0, 4)
                curve = {
                    step: round(min(1, max(0, height / (1 + math.exp((knee - step) / 7)) + rng.gauss(0, 0.015))), 2)
                    for step in range(5, 101, 5)
                }
                kept = min(1.0, retention + rng.gauss(0, 0.03))
                tests = {
                    COLUMNS["in distribution"]: (0.01, round(height, 3)),
                    COLUMNS["one step longer"]: (0.0, round(height / 2, 3)),
                    COLUMNS["sibling family"]: (0.1, round(0.1 + height / 5, 3)),
                    COLUMNS["retention"]: (0.9, round(kept, 3)),
                }
                noise = max(0.01, distance + rng.gauss(0, 0.03)) if kl else None
                folder = out / "runs" / setting / arm / f"seed-{seed}"
                learned = (
                    {"pg": (1.0, 0.4), "sft": (1.0, 2.5), "sft_without_data": (1.0, 1.4)} if arm == "superrl" else {}
                )
                weights = {
                    stream: [a * (b / a) ** (step / 100) * rng.uniform(0.97, 1.03) for step in range(100)]
                    for stream, (a, b) in learned.items()
                }
                write_run(folder, {0: 0.0, **curve}, tests, tokens=tokens, wall=wall * rng.uniform(0.9, 1.1), kl=noise,
                          weights=weights)  # fmt: skip
                nll = 1.8 * (1 - height) + rng.uniform(0.0, 0.05)
                counts = [rng.choice((0, 16)) if rng.random() < 0.5 else round(16 * height) for _ in range(64)]
                likeness = {"trained": (nll, 0.95, height), "held_out": (nll + 0.2 * distance, 0.9, height)}
                write_looks(folder, likeness=likeness, correct=counts)
            trials = [
                {"point": {"lr": rate}, "seed": 100, "validation": round(top * share, 2), "folder": "tuning/x"}
                for rate, share in ((1e-4, 0.5), (2e-4, 0.93), (5e-4, 1.0), (1e-3, 0.3))
            ]
            point = {"lr": 5e-4, "split": 0.4} if arm == "sft-then-rl" else {"lr": 5e-4}
            base = {"trained": (1.8, None, 0.01), "held_out": (1.79, 0.8, 0.02)}
            write_looks(out / "base" / setting, likeness=base, correct=[(0, 1, 3, 8)[i % 4] for i in range(64)])
            chosen.setdefault(setting, {})[arm] = {"point": point, "trials": trials}
    (out / "chosen.json").write_text(json.dumps(chosen))
