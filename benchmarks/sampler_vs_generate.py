"""How fast is the in-process sampler against `model.generate`, on the same rows and lengths, in one run?

    python benchmarks/sampler_vs_generate.py                      the tiny shape: 32 prompts x 8, 40 new tokens, float32
    python benchmarks/sampler_vs_generate.py --model FOLDER       any causal model of transformers, 8 prompts x 8

Engines are alternated, round by round, and medians are shown: on a shared machine compare columns, not days. No EOS is
honoured, so that every engine draws exactly the same number of tokens. CPU seconds are of all threads of this process:
with `--threads 1` they are what to read on a machine that others use.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Prompt, SamplingLimits

Engine = Callable[[], int]


@dataclass(frozen=True)
class Workload:
    """`n` completions of `new_tokens` tokens for each prompt."""

    prompts: tuple[tuple[int, ...], ...]
    n: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        return len(self.prompts) * self.n * self.new_tokens


def tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The shape of the shipped tiny model, with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    words = Tokenizer(models.WordLevel({chr(64 + i): i for i in range(60)}, unk_token="@"))
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=words)


def random_prompts(count: int, mean_length: int, vocabulary: int) -> tuple[tuple[int, ...], ...]:
    generator = torch.Generator().manual_seed(1)
    spread = mean_length // 5
    lengths = torch.randint(mean_length - spread, mean_length + spread + 1, (count,), generator=generator)
    return tuple(tuple(torch.randint(0, vocabulary, (int(n),), generator=generator).tolist()) for n in lengths)


def ours(sampler: LocalSampler, work: Workload) -> Engine:
    prompts = [Prompt(tokens, work.n, (0, i)) for i, tokens in enumerate(work.prompts)]

    def run() -> int:
        groups = sampler.sample(prompts, SamplingLimits(work.new_tokens))
        return sum(trajectory.length for group in groups for trajectory in group)

    return run


def generate(model: PreTrainedModel, work: Workload, rows: int) -> Engine:
    """`model.generate` on left-padded batches of `rows` rows, one copy of the prompt a completion."""
    repeated = [prompt for prompt in work.prompts for _ in range(work.n)]
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run() -> int:
        drawn = 0
        for start in range(0, len(repeated), rows):
            batch = repeated[start : start + rows]
            longest = max(len(prompt) for prompt in batch)
            ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in batch], device=model.device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=model.device)
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                max_new_tokens=work.new_tokens,
                pad_token_id=0,
            )
            drawn += out.shape[0] * (out.shape[1] - longest)
        return drawn

    return run


def alternate(engines: dict[str, Engine], work: Workload, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds an engine and round; every engine runs once before, unmeasured."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for round_number in range(rounds + 1):
        for name, engine in engines.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            drawn = engine()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            assert drawn == work.tokens, f"{name} drew {drawn} tokens, not {work.tokens}"
            if round_number:
                seconds[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
            print(f"round {round_number} {name}", file=sys.stderr)
    return seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: the tiny shape")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 with --model")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--prompt-length", type=int, default=0)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--slots", type=int, nargs="+", help="default: as many as rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: torch's")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.model is None:
        model, tokenizer = tiny()
    else:
        model = AutoModelForCausalLM.from_pretrained(options.model)
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = getattr(torch, options.dtype or ("float32" if options.model is None else "bfloat16"))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    count = options.prompts or (32 if options.model is None else 8)
    length = options.prompt_length or (25 if options.model is None else 100)
    work = Workload(random_prompts(count, length, model.config.vocab_size), options.n, options.new_tokens)
    rows = count * options.n
    engines: dict[str, Engine] = {}
    for slots in options.slots or [rows]:
        for name, deterministic in (("deterministic", True), ("fast", False)):
            sampler = LocalSampler(
                copy.deepcopy(model),
                tokenizer,
                eos_ids=[],
                slots=slots,
                deterministic=deterministic,
                compute_dtype=torch.float32 if deterministic else dtype,
            )
            label = "float32" if deterministic else str(dtype).removeprefix("torch.")
            engines[f"superrl {name}, {label}, {slots} slots"] = ours(sampler, work)
        engines[f"generate, {str(dtype).removeprefix('torch.')}, {slots} rows"] = generate(model.to(dtype), work, slots)
    seconds = alternate(engines, work, options.rounds)
    report(seconds, work, model)


def report(seconds: dict[str, list[tuple[float, float]]], work: Workload, model: PreTrainedModel) -> None:
    results = {
        name: {
            "seconds": round(statistics.median(wall for wall, _ in measured), 4),
            "best_seconds": round(min(wall for wall, _ in measured), 4),
            "cpu_seconds": round(statistics.median(cpu for _, cpu in measured), 4),
        }
        for name, measured in seconds.items()
    }
    print(f"{len(work.prompts)} prompts x {work.n} x {work.new_tokens} tokens, {torch.get_num_threads()} threads")
    print(f"{'median seconds':44} {'wall':>8} {'best':>8} {'CPU':>8} {'tokens/s':>9}")
    for name, result in results.items():
        wall = result["seconds"]
        columns = f"{wall:8.3f} {result['best_seconds']:8.3f} {result['cpu_seconds']:8.3f} {work.tokens / wall:9.0f}"
        print(f"{name:44} {columns}")
    about = {
        "prompts": len(work.prompts),
        "n": work.n,
        "new_tokens": work.new_tokens,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps({**about, "engines": results}))


if __name__ == "__main__":
    main()
