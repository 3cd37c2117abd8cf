"""One GRPO step against TRL's on the same work: 4 prompts x 8 completions x 96 tokens, bfloat16 on a CPU.

    python benchmarks/grpo_step_vs_trl.py MODEL_FOLDER --trl-python VENV/bin/python [--steps 3] [--rounds 2]

TRL lives in an environment of its own, so each side is a process: `rounds` times one of ours, then one of TRL's, with
`steps` steps each, of which the first (warm-up) is dropped. Both get the same prompts of about 100 tokens, a reward
that is a seeded random number a completion (never constant in a group), learning rate 1e-6, no KL term, no gradient
checkpointing. Step time is what each loop itself does in a step: generating, scoring, training; evaluation and saving
are off. Lengths are printed beside, for a completion may end early.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, COMPLETIONS, TOKENS = 4, 8, 96
SENTENCES = (
    "A shop sells {0} boxes of pencils on Monday and {1} more on Tuesday than on Monday.",
    "Every box holds {2} pencils, and {0} pencils of every box are red.",
    "The owner gives away {1} pencils to each of {2} schools, and keeps the rest on a shelf.",
    "On Wednesday a truck brings {2} new boxes, but {0} of them are damaged and go back.",
    "How many pencils are left in the shop at the end of Wednesday? Think step by step, then write the number.",
)


def prompts(count: int) -> list[str]:
    """Word problems of about 100 tokens, all different."""
    rng = random.Random(0)
    return [" ".join(SENTENCES).format(*(rng.randrange(3, 90) for _ in range(3))) for _ in range(count)]


class SeededReward:
    """A number in [0, 1) for every completion: the n-th call's numbers depend on n alone."""

    __name__ = "seeded"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        self.calls += 1
        rng = random.Random(self.calls)
        return [rng.random() for _ in completions]


def ours(model: str, steps: int) -> dict[str, list[float]]:
    """Seconds, training seconds and mean completion length of every step of superrl."""
    import superrl

    recipe = {
        "model": {"name": model, "dtype": "bfloat16"},
        "data": {"train": "given"},
        "stages": [
            {
                "name": "grpo", "method": {"name": "grpo"}, "steps": steps, "prompts_per_step": PROMPTS,
                "group_size": COMPLETIONS, "max_new_tokens": TOKENS, "optimizer": {"lr": 1e-6},
            }
        ],
        "evaluation": {"every": 0}, "checkpoint": {"every": 0}, "log": {"rollouts_per_step": 0},
    }  # fmt: skip
    rows = [{"prompt": text, "answer": ""} for text in prompts(PROMPTS * steps)]
    with tempfile.TemporaryDirectory() as folder:
        run = superrl.train(recipe, problems=rows, reward=SeededReward(), out=Path(folder) / "run")
        timing, metrics = (
            [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
            for name in ("timing", "metrics")
        )
    return {
        "step": [row["time/step"] for row in timing],
        "train": [row["time/train"] for row in timing],
        "length": [row["length/completion"] for row in metrics],
    }


def theirs(model: str, steps: int) -> dict[str, list[float]]:
    """Seconds and mean completion length of every step of TRL."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.lengths: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            self.lengths += [logs["completions/mean_length"]] if "completions/mean_length" in logs else []

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=PROMPTS * COMPLETIONS,
            num_generations=COMPLETIONS, max_completion_length=TOKENS, learning_rate=1e-6, beta=0.0, temperature=1.0,
            loss_type="grpo", bf16=True, use_cpu=True, gradient_checkpointing=False, dataloader_pin_memory=False,
            report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        watch = Watch()
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model), reward_funcs=SeededReward(), args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts(PROMPTS * steps)}), callbacks=[watch],
            processing_class=AutoTokenizer.from_pretrained(model),
        )  # fmt: skip
        trainer.train()
    return {"step": watch.seconds, "length": watch.lengths}


def side(python: str, name: str, model: str, steps: int) -> dict[str, list[float]]:
    """One side in its own process."""
    command = [python, __file__, model, "--side", name, "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--trl-python", help="the interpreter of an environment with trl")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=("superrl", "trl"))
    options = parser.parse_args()
    if options.side:
        run = ours if options.side == "superrl" else theirs
        print(json.dumps(run(options.model, options.steps)))
        return
    if not options.trl_python:
        parser.error("--trl-python is needed")
    seconds: dict[str, list[float]] = {"superrl": [], "trl": []}
    for round_ in range(options.rounds):
        for name, python in (("superrl", sys.executable), ("trl", options.trl_python)):
            found = side(python, name, options.model, options.steps)
            seconds[name] += found["step"][1:]
            told = "  ".join(f"{key} {[round(value, 1) for value in column]}" for key, column in found.items())
            print(f"round {round_ + 1}  {name:8} {told}", flush=True)
    medians = {name: statistics.median(column) for name, column in seconds.items()}
    print(f"median step: superrl {medians['superrl']:.1f} s, TRL {medians['trl']:.1f} s, "
          f"ratio {medians['trl'] / medians['superrl']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
