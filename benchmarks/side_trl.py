"""TRL's side of a comparison: its GRPO or SFT trainer on a workload, one step (or epoch) whenever asked.

    TRL_PYTHON benchmarks/side_trl.py WORKLOAD.json [--weights float32|bfloat16] [--continuous]

Run in an environment of TRL's own (TRL 1.16). Told: `seconds` from being asked to the end of the step, all of the
trainer's loop included; of them `generate` and `score`, by a subclass that times `_generate` and `_calculate_rewards`
around the trainer's own; `train` is the rest. Settings: no gradient checkpointing, no KL term, constant learning rate,
no saving; `--weights float32` is what TRL does with a path (float32 weights under autocast, as ours), `bfloat16` keeps
the weights themselves in it, which is faster and rounds small updates away; `--continuous` generates with
transformers' continuous batching (which casts the weights to bfloat16 for good when it computes in it).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from common import Turns
from workload import SeededReward, Workload

STEPS = 100_000
PAGE = 64
"""Tokens in a page of continuous batching's cache: a fraction of a row, so that little of it is empty."""


def common_settings(work: Workload, weights: str, folder: str) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": folder,
        "max_steps": STEPS,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "bf16": work.dtype == "bfloat16",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": weights},
    }


def grpo_settings(completions: int, new_tokens: int, rows: int, micro_batch: int) -> dict[str, Any]:
    """What a GRPO trainer is told: an optimizer step on `rows` completions, at most `micro_batch` of them at a time."""
    micro = next(size for size in range(min(micro_batch, rows), 0, -1) if rows % size == 0)
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "num_generations": completions,
        "max_completion_length": new_tokens,
        "beta": 0.0,
        "temperature": 1.0,
        "loss_type": "grpo",
    }


def callback(turns: Turns, reward: SeededReward, unit: int) -> Any:
    """Holds the trainer between steps until it is asked for another `unit` of them."""
    from transformers import TrainerCallback

    class Asked(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.told: dict[str, float] = {}
            self.ready = False

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()
            self.changed()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            self.ready = state.global_step % unit == 0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **__: Any) -> None:
            """Comes right after `on_step_end`, with what the step counted."""
            self.told["length"] = logs.get("completions/mean_length", 0.0)
            self.told["dead_share"] = logs.get("frac_reward_zero_std", 0.0)
            if self.ready:
                whole = time.perf_counter() - turns.began
                spent = {key: turns.seconds.get(key, 0.0) for key in ("generate", "score")}
                counted = {key: value for key, value in turns.seconds.items() if key not in spent}
                turns.done({**self.told, **counted, **spent, "train": whole - sum(spent.values())})
                self.changed()

        def changed(self) -> None:
            reward.dead = turns.changes.get("dead", 0)

    return Asked()


def cache(work: Workload) -> dict[str, int]:
    """The size of continuous batching's cache: room for all rows at once, and some. (Left to itself it takes half of
    the memory that is free.)"""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work.model)
    longest = max(len(tokenizer(text)["input_ids"]) for text in work.prompts) + work.new_tokens + 1
    rows = len(work.prompts) * work.completions
    return {"page_size": PAGE, "num_blocks": rows * -(-longest // PAGE) + 8, "max_batch_tokens": max(512, 2 * rows)}


def grpo(work: Workload, weights: str, continuous: bool, folder: str) -> Any:
    """The trainer of a policy-gradient workload."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    turns, reward = Turns(), SeededReward()

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[Any]) -> Any:
            began = time.perf_counter()
            found = super()._generate(prompts)
            turns.seconds["generate"] = time.perf_counter() - began
            turns.seconds["generated"] = float(sum(map(len, found[1])))
            turns.seconds["logical"] = turns.seconds["generated"] + float(sum(map(len, found[0])))
            return found

        def _calculate_rewards(self, *arguments: Any) -> Any:
            began = time.perf_counter()
            found = super()._calculate_rewards(*arguments)
            turns.seconds["score"] = time.perf_counter() - began
            return found

    rows = len(work.prompts) * work.completions
    config = GRPOConfig(
        **common_settings(work, weights, folder),
        **grpo_settings(work.completions, work.new_tokens, rows, work.micro_batch),
        use_transformers_continuous_batching=continuous,
        transformers_continuous_batching_config=cache(work) if continuous else None,
    )
    columns = {"prompt": list(work.prompts), "index": list(range(len(work.prompts)))}
    asked = callback(turns, reward, 1)
    data = Dataset.from_dict(columns)
    return Timed(model=work.model, reward_funcs=reward, args=config, train_dataset=data, callbacks=[asked])


def sft(work: Workload, weights: str, folder: str) -> Any:
    """The trainer of a supervised workload."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    turns = Turns()

    class Counting(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
            seen = turns.seconds
            seen["trained"] = seen.get("trained", 0.0) + float((inputs["labels"][:, 1:] != -100).sum())
            seen["computed"] = seen.get("computed", 0.0) + float(inputs["input_ids"].numel())
            seen["logical"] = seen.get("logical", 0.0) + float(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *arguments, **keywords)

    config = SFTConfig(
        **common_settings(work, weights, folder), per_device_train_batch_size=work.batch, max_length=None
    )
    columns = {"prompt": list(work.prompts), "completion": list(work.demonstrations)}
    asked = callback(turns, SeededReward(), len(work.prompts) // work.batch)
    return Counting(model=work.model, args=config, train_dataset=Dataset.from_dict(columns), callbacks=[asked])


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--continuous", action="store_true")
    options = parser.parse_args()
    work = Workload.load(options.workload)
    torch.set_num_threads(work.threads)
    with tempfile.TemporaryDirectory() as folder:
        if work.demonstrations:
            trainer = sft(work, options.weights, folder)
        else:
            trainer = grpo(work, options.weights, options.continuous, folder)
        trainer.train()


if __name__ == "__main__":
    main()
