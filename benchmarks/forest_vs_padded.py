"""A train step over the prefix forest against the same step over padded rows: same model, same samples, same gradients.

    python benchmarks/forest_vs_padded.py MODEL_FOLDER [--dtype bfloat16] [--repeats 5]

Workloads: `short` is 4 groups of 8 completions of about 72 tokens on 100-token prompts, `long` is 2 groups of 8 of
about 100 tokens on 512-token prompts; tokens are random, so that rollouts of a group share their prompt and nothing
else, which is the least a forest can find. A step is forward and backward of the policy gradient over all packs,
without the optimizer. The two are timed in turn, and the ratio is that of the medians. Leaves out sampling.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from superrl.learner.forward import token_logprobs
from superrl.learner.probe import choose_packer
from superrl.models import no_dropout
from superrl.packing import rows
from superrl.packing.pack import Packer
from superrl.records import Trajectory

WORKLOADS = {"short": (4, 8, 100, 72), "long": (2, 8, 512, 100)}


def workload(groups: int, size: int, prompt: int, completion: int, vocabulary: int) -> list[Trajectory]:
    """Random groups; completion lengths vary by a quarter around the mean."""
    rng = random.Random(0)
    sequences = []
    for _ in range(groups):
        context = [rng.randrange(vocabulary) for _ in range(prompt)]
        for _ in range(size):
            length = rng.randint(completion * 3 // 4, completion * 5 // 4)
            tokens = tuple(context + [rng.randrange(vocabulary) for _ in range(length)])
            mask = (False,) * prompt + (True,) * length
            sequences.append(Trajectory(tokens, mask, (0.0,) * len(tokens), ""))
    return sequences


def step(model: torch.nn.Module, packer: Packer, sequences: list[Trajectory], budget: int, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward; gradients are left in the model."""
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    for pack in packer(sequences, budget):
        logp, _ = token_logprobs(model, pack, dtype)
        sign = torch.tensor([1.0 if i % 2 else -1.0 for i in pack.items])[pack.sequence]
        (sign * logp).sum().div(len(sequences)).backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    padded = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    shared = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    for model in (padded, shared):
        no_dropout(model)
    packer = choose_packer(shared)
    for name in options.workloads:
        sequences = workload(*WORKLOADS[name], vocabulary=shared.config.vocab_size)
        runs: list[tuple[float, float]] = []
        for _ in range(options.repeats + 1):  # the first is warm-up
            one = step(padded, rows.pack, sequences, options.max_tokens, dtype)
            other = step(shared, packer, sequences, options.max_tokens, dtype)
            runs.append((one, other))
        seconds = [statistics.median(column) for column in zip(*runs[1:], strict=True)]
        ratios = sorted(a / b for a, b in runs[1:])
        apart = gap(padded, shared)
        computed = [sum(p.computed for p in pack(sequences, options.max_tokens)) for pack in (rows.pack, packer)]
        print(
            f"{name:6} padded {seconds[0]:.2f} s ({computed[0]} tokens)  forest {seconds[1]:.2f} s ({computed[1]})  "
            f"ratio {seconds[0] / seconds[1]:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]  gradients apart {apart:.1e}"
        )


def gap(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Norm of the difference of the gradients, relative to the first."""
    pairs = [(p.grad, q.grad) for p, q in zip(one.parameters(), other.parameters(), strict=True) if p.grad is not None]
    apart = sum(float((p - q).double().square().sum()) for p, q in pairs)  # type: ignore[operator]
    return (apart / sum(float(p.double().square().sum()) for p, _ in pairs)) ** 0.5


if __name__ == "__main__":
    main()
