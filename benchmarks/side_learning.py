"""One side of time_to_accuracy.py: a GRPO run of superrl or of TRL that stops at every evaluation until asked on.

    PYTHON benchmarks/side_learning.py COURSE.json             started by time_to_accuracy.py

Both read the same `Course`: model folder, problems, held-out problems, settings. The first turn evaluates the weights
that training starts from, every other trains `every` steps and evaluates. Told: `step`, `accuracy` (greedy, on all
held-out problems) and `clock`, the seconds of training so far: from the beginning of the first step, the loop and its
records included; loading, evaluations and what superrl then saves (its best weights) excluded.

TRL's settings are side_trl.py's: no gradient checkpointing, no KL term, no saving; forward and backward in
micro-batches of `micro_batch` rows. Either side shuffles the problems by its own rule.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import Turns
from side_trl import common_settings, grpo_settings
from workload import Workload

BETAS = (0.9, 0.95)
STEPS = 100_000
"""More than anybody asks for: a side ends when it is not asked any more."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is to be learnt and how. `train` and `held_out` are files of rows with `prompt`, `answer`, `demonstrations`;
    `arm`: `trl`, or the method of ours; `pack` is our max_tokens_per_pack, `micro_batch` their rows a backward pass."""

    arm: str
    model: str
    train: str
    held_out: str
    new_tokens: int
    lr: float
    seed: int = 0
    prompts: int = 32
    group: int = 8
    every: int = 5
    threads: int = 2
    pack: int = 4096
    micro_batch: int = 32

    def save(self, path: Path) -> Path:
        """Write it for a side to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def rows(path: str) -> list[dict[str, Any]]:
    """What a file of problems holds."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """The reward of both sides: 1.0 iff the answer follows the last `#`. TRL's signature; superrl takes it.

    >>> exact([""] * 3, ["a>b\\n#b c", "#b c #", "b c"], ["b c"] * 3)
    [1.0, 0.0, 0.0]
    """
    found = [text.rpartition("#") for text in completions]
    return [float(mark == "#" and text.strip() == gold) for (_, mark, text), gold in zip(found, answer, strict=True)]


class Stopwatch:
    """Seconds of training, over all the times it ran."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Run on, if it does not."""
        self._since = time.perf_counter() if self._since is None else self._since

    def stop(self) -> None:
        """Stand still."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None


def recipe(course: Course) -> dict[str, Any]:
    """Our run."""
    stage = {
        "name": "learning",
        "method": {"name": course.arm},
        "prompt": {"chat": "never"},
        "steps": STEPS,
        "prompts_per_step": course.prompts,
        "group_size": course.group,
        "max_new_tokens": course.new_tokens,
        "max_tokens_per_pack": course.pack,
        "optimizer": {"lr": course.lr, "betas": list(BETAS)},
    }
    return {
        "seed": course.seed,
        "model": {"name": course.model, "dtype": "float32"},
        "data": {"train": course.train, "validation": course.held_out},
        "stages": [stage],
        "evaluation": {"every": course.every, "limit": None},
        "checkpoint": {"every": 0},
        "log": {"rollouts_per_step": 0},
    }


def ours(course: Course, folder: Path) -> None:
    """superrl, until nobody asks any more."""
    import superrl
    from superrl.report import Silent

    turns, watch = Turns(), Stopwatch()

    class Asked(Silent):
        def phase(self, name: str, total: int | None = None) -> None:
            if name == "evaluating":
                watch.stop()
                if turns.began == 0.0:
                    turns.wait()
            else:
                watch.start()

        def evaluation(self, row: Any) -> None:
            turns.done({"step": row["step"], "accuracy": row["accuracy"], "clock": watch.seconds})

    superrl.train(recipe(course), reward=exact, out=folder / "run", progress=Asked())


def theirs(course: Course, folder: Path) -> None:
    """TRL, until nobody asks any more."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    turns, watch = Turns(), Stopwatch()
    held_out = rows(course.held_out)
    tokenizer = AutoTokenizer.from_pretrained(course.model)
    work = Workload(course.model, (), dtype="float32", threads=course.threads)

    class Asked(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            turns.wait()
            self.told(0, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step % course.every == 0:
                watch.stop()
                self.told(state.global_step, model)

        def told(self, step: int, model: Any) -> None:
            parts = [held_out[i : i + together] for i in range(0, len(held_out), together)]  # no larger than a step
            right = sum(greedy(model, tokenizer, part, course.new_tokens) for part in parts)
            accuracy = right / len(held_out)
            turns.done({"step": step, "accuracy": accuracy, "clock": watch.seconds})
            watch.start()

    together = course.prompts * course.group
    config = GRPOConfig(
        **{
            **common_settings(work, "float32", str(folder)),
            "learning_rate": course.lr,
            "adam_beta1": BETAS[0],
            "adam_beta2": BETAS[1],
            "seed": course.seed,
        },
        **grpo_settings(course.group, course.new_tokens, together, course.micro_batch),
    )
    train = rows(course.train)
    data = Dataset.from_dict({key: [row[key] for row in train] for key in ("prompt", "answer")})
    trainer = GRPOTrainer(model=course.model, reward_funcs=exact, args=config, train_dataset=data, callbacks=[Asked()])
    trainer.train()


def greedy(model: Any, tokenizer: Any, problems: Sequence[dict[str, Any]], new_tokens: int) -> float:
    """How many of the problems the likeliest completion solves, by transformers' `generate`."""
    import torch
    from transformers import GenerationConfig

    prompts = [problem["prompt"] for problem in problems]
    given = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    inputs = {key: given[key].to(model.device) for key in ("input_ids", "attention_mask")}
    model.eval()
    with torch.no_grad():
        drawn = model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :]
    model.train()
    texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    return sum(exact(prompts, texts, [problem["answer"] for problem in problems]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("course", type=Path)
    course = Course(**json.loads(parser.parse_args().course.read_text(encoding="utf-8")))
    import torch

    torch.set_num_threads(course.threads)
    with tempfile.TemporaryDirectory() as folder:
        (theirs if course.arm == "trl" else ours)(course, Path(folder))


if __name__ == "__main__":
    main()
