"""A GRPO step and an SFT epoch against TRL's, on the same prompts, tokens, threads and rewards, in one run.

    python benchmarks/vs_trl.py --trl-python VENV/bin/python [--model FOLDER] [--data GSM8K.jsonl] [--out FILE.json]
        [--workloads 4x8x96 8x8x256 sft] [--sides superrl trl trl-bfloat16 trl-continuous] [--repeats 5]

TRL lives in an environment of its own, so each side is a process; they take turns step by step, the order reversed
every round, so that a machine that slows down does so for both. A workload AxBxC is A prompts, B completions each, of C
tokens; `sft` is an epoch of 32 rows, 8 an optimizer step. Without a model, one of SmolLM2-135M's shape with random
weights and random prompts of 100 tokens; with one, word problems of about 100 tokens, or the first questions of
`--data` (columns `question`, `answer`).

Equal work: every completion has exactly C tokens on either side, for both load a model folder whose end-of-sequence
token cannot be drawn (the counts are told and printed); rewards are seeded numbers, never all equal in a group;
learning rate 1e-6, no KL term, temperature 1, one optimizer step on all rows, as many tokens at most in a backward
pass, float32 weights and `--dtype` arithmetic (but see side_trl.py for TRL's variants). Step: from being asked to the
step's end, everything included. Generating: time/rollout of ours, TRL's `_generate`. Training: the rest, without
scoring. Peak memory is of each process.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from against import add_options, as_many, compare, report, summary, wanted
from common import machine, parser, save, settings
from workload import SHAPES, Workload, questions, shaped, solutions, unending, word_problems, words

ROWS, PROMPT, ANSWER = 32, 100, 100
"""Rows of the SFT epoch; tokens of a random prompt and demonstration."""


def texts(options: argparse.Namespace, count: int) -> tuple[list[str], list[str]]:
    """Prompts and demonstrations."""
    if options.model is None:
        rng = random.Random(0)
        vocabulary = SHAPES[options.shape]["vocab_size"]
        made = [(words(PROMPT, vocabulary, rng), " " + words(ANSWER, vocabulary, rng)) for _ in range(count)]
    elif options.data is not None:
        made = [(question, "\n" + answer) for question, answer in questions(options.data, count)]
    else:
        made = list(zip(word_problems(count), solutions(count), strict=True))
    return [prompt for prompt, _ in made], [answer for _, answer in made]


def workload(name: str, options: argparse.Namespace, folder: Path) -> Workload:
    """The work called `name`, and the model folder for it."""
    model = options.model or shaped(options.shape, folder / "shape")
    limits = {
        "dtype": options.dtype,
        "threads": options.threads,
        "micro_batch": options.micro_batch,
    }
    if name == "sft":
        rows = 16 if options.quick else ROWS
        prompts, answers = texts(options, rows)
        return as_many(Workload(str(model), tuple(prompts), tuple(answers), **limits), options.pack)
    groups, completions, new_tokens = map(int, name.split("x"))
    prompts, _ = texts(options, groups)
    endless = str(unending(Path(model), folder / "endless"))
    work = Workload(endless, tuple(prompts), completions=completions, new_tokens=new_tokens, **limits)
    return as_many(work, options.pack)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_options(made)
    made.add_argument("--model", type=Path, help="a Hugging Face folder; default: random weights of --shape")
    made.add_argument("--shape", choices=SHAPES, default="smollm2")
    made.add_argument("--data", type=Path, help="JSONL with `question` and `answer`, for --model")
    made.add_argument("--workloads", nargs="+", default=["4x8x96", "8x8x256", "sft"])
    made.add_argument("--warmup", type=int, default=1, help="steps of each side that are not measured (1)")
    options = made.parse_args()
    if options.quick:
        options.repeats, options.workloads = 1, ["2x4x8", "sft"]
    return options


def main() -> None:
    options = arguments()
    results: dict[str, object] = {}
    for name in options.workloads:
        names = wanted(options, supervised=name == "sft")
        with tempfile.TemporaryDirectory() as folder:
            work = workload(name, options, Path(folder))
            for found in compare(names, work, Path(folder), options, [{}]):
                results[name] = {"turns": found, **summary(found)}
                save(options.out, {"settings": settings(options), "machine": machine(), "workloads": results})
        title = f"sft, an epoch of {len(work.prompts)} rows" if work.demonstrations else name
        print(f"\n### {title}, {options.dtype}, {options.threads} threads, {options.repeats} measured\n")
        print(report(summary(found)), flush=True)


if __name__ == "__main__":
    main()
