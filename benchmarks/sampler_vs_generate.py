"""How fast is the in-process sampler against `model.generate`, on the same rows and lengths, in one run?

    python benchmarks/sampler_vs_generate.py                      the tiny shape: 32 prompts x 8, 40 new tokens, float32
    python benchmarks/sampler_vs_generate.py --model FOLDER       any causal model of transformers, 8 prompts x 8
    ... --lengths 100 2000                                        prompts of these lengths in turn
    ... --shared 400                                              after so many tokens that all prompts begin with

Engines are alternated, round by round, and medians are shown: on a shared machine compare columns, not days. No EOS is
honoured, so that every engine draws exactly the same number of tokens. CPU seconds are of all threads of this process:
with `--threads 1` they are what to read on a machine that others use. `decode` is tokens per CPU second without the
prompts: every engine also runs for one token, which is taken off.

How true the fast mode is: `flips`, the share of its draws that are not the deterministic float32 sampler's after the
same tokens with the same random number; `gap`, |log p of a drawn token by the sampler - by the learner|, mean and
largest, over rows that the learner pads and computes at once in the same type. `generate` draws by numbers of its own,
so that it has neither.
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

from superrl.learner.forward import token_logprobs
from superrl.packing import rows as padded_rows
from superrl.records import Trajectory
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Prompt, SamplingLimits

Engine = Callable[[int], int]
"""Draws so many tokens for every row, and says how many that were in all."""


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


def random_prompts(count: int, lengths: list[int], shared: int, vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """Of the given lengths in turn, or if that is one, of lengths within a fifth of it; after `shared` equal tokens."""
    generator = torch.Generator().manual_seed(1)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (n,), generator=generator).tolist())

    spread = lengths[0] // 5 if len(lengths) == 1 else 0
    off = torch.randint(-spread, spread + 1, (count,), generator=generator).tolist()
    common = tokens(shared)
    return tuple(common + tokens(lengths[i % len(lengths)] + off[i]) for i in range(count))


def sampled(sampler: LocalSampler, work: Workload, new_tokens: int) -> list[Trajectory]:
    prompts = [Prompt(tokens, work.n, (0, i)) for i, tokens in enumerate(work.prompts)]
    return [one for group in sampler.sample(prompts, SamplingLimits(new_tokens)) for one in group]


def ours(sampler: LocalSampler, work: Workload, weights: dict[str, torch.Tensor]) -> Engine:
    """The weights are loaded anew, as after a training step: nothing of an earlier round is left to use."""

    def run(new_tokens: int) -> int:
        sampler.load(weights, 0)
        return sum(trajectory.length for trajectory in sampled(sampler, work, new_tokens))

    return run


def generate(model: PreTrainedModel, work: Workload, rows: int) -> Engine:
    """`model.generate` on left-padded batches of `rows` rows, one copy of the prompt a completion."""
    repeated = [prompt for prompt in work.prompts for _ in range(work.n)]
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run(new_tokens: int) -> int:
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
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
            drawn += out.shape[0] * (out.shape[1] - longest)
        return drawn

    return run


@dataclass(frozen=True)
class Round:
    """Seconds of one engine in one round; `first`: CPU seconds of a run that draws one token a row."""

    wall: float
    cpu: float
    first: float


def alternate(engines: dict[str, Engine], work: Workload, rounds: int) -> dict[str, list[Round]]:
    """Every engine runs once before, unmeasured."""
    measured: dict[str, list[Round]] = {name: [] for name in engines}
    for round_number in range(rounds + 1):
        for name, engine in engines.items():
            times = []
            for new_tokens in (1, work.new_tokens):
                start, cpu_start = time.perf_counter(), time.process_time()
                drawn = engine(new_tokens)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                expected = len(work.prompts) * work.n * new_tokens
                assert drawn == expected, f"{name} drew {drawn} tokens, not {expected}"
                times.append((time.perf_counter() - start, time.process_time() - cpu_start))
            if round_number:
                measured[name].append(Round(*times[1], times[0][1]))
            print(f"round {round_number} {name}", file=sys.stderr)
    return measured


@torch.inference_mode()
def truth(
    exact: LocalSampler, fast: LocalSampler, learner: PreTrainedModel, dtype: torch.dtype, work: Workload
) -> dict[str, float]:
    """Flip rate of the fast mode against the deterministic one, and its gap to the learner's log-probabilities."""
    flips = compared = 0
    drawn = sampled(fast, work, work.new_tokens)
    for one, other in zip(drawn, sampled(exact, work, work.new_tokens), strict=True):
        same = [a == b for a, b in zip(one.tokens, other.tokens, strict=True)][-work.new_tokens :]
        flips += not all(same)
        compared += same.index(False) + 1 if not all(same) else len(same)
    gaps = []
    for pack in padded_rows.pack(drawn, 4096):
        logp, _ = token_logprobs(learner, pack, dtype)
        told = [value for i in pack.items for value in drawn[i].logp_sampler[-work.new_tokens :]]
        gaps.append((logp.cpu() - torch.tensor(told)).abs())
    gap = torch.cat(gaps)
    return {"flips": flips / compared, "gap_mean": float(gap.mean()), "gap_max": float(gap.max())}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: the tiny shape")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 with --model")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", help="of prompts; one: the mean. Default: 25, or 100")
    parser.add_argument("--shared", type=int, default=0, help="tokens that all prompts begin with")
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
    lengths = options.lengths or [25 if options.model is None else 100]
    work = Workload(
        random_prompts(count, lengths, options.shared, model.config.vocab_size), options.n, options.new_tokens
    )
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = count * options.n
    engines: dict[str, Engine] = {}
    told: dict[str, dict[str, float]] = {}
    for slots in options.slots or [rows]:
        both = {}
        for name, deterministic in (("deterministic", True), ("fast", False)):
            both[name] = LocalSampler(
                copy.deepcopy(model),
                tokenizer,
                eos_ids=[],
                slots=slots,
                deterministic=deterministic,
                compute_dtype=torch.float32 if deterministic else dtype,
            )
            label = "float32" if deterministic else str(dtype).removeprefix("torch.")
            engines[f"superrl {name}, {label}, {slots} slots"] = ours(both[name], work, weights)
        told[f"superrl fast, {label}, {slots} slots"] = truth(both["deterministic"], both["fast"], model, dtype, work)
        plain = copy.deepcopy(model).to(dtype)
        engines[f"generate, {str(dtype).removeprefix('torch.')}, {slots} rows"] = generate(plain, work, slots)
    report(alternate(engines, work, options.rounds), told, work, model)


def report(
    measured: dict[str, list[Round]], told: dict[str, dict[str, float]], work: Workload, model: PreTrainedModel
) -> None:
    rest = work.tokens - len(work.prompts) * work.n
    results = {
        name: {
            "seconds": round(statistics.median(one.wall for one in rounds), 4),
            "best_seconds": round(min(one.wall for one in rounds), 4),
            "cpu_seconds": round(statistics.median(one.cpu for one in rounds), 4),
            "decode_tokens_per_cpu_second": round(rest / statistics.median(one.cpu - one.first for one in rounds), 1),
            **told.get(name, {}),
        }
        for name, rounds in measured.items()
    }
    print(f"{len(work.prompts)} prompts x {work.n} x {work.new_tokens} tokens, {torch.get_num_threads()} threads")
    heads = ("wall", "best", "CPU", "tokens/s", "decode", "flips", "gap", "largest")
    print(f"{'median seconds':44}" + "".join(f"{head:>10}" for head in heads))
    for name, result in results.items():
        wall = result["seconds"]
        line = f"{name:44}{wall:10.3f}{result['best_seconds']:10.3f}{result['cpu_seconds']:10.3f}"
        line += f"{work.tokens / wall:10.0f}{result['decode_tokens_per_cpu_second']:10.0f}"
        if name in told:
            line += f"{result['flips']:10.2%}{result['gap_mean']:10.1e}{result['gap_max']:10.1e}"
        print(line)
    about = {
        "prompts": len(work.prompts),
        "lengths": [len(prompt) for prompt in work.prompts],
        "n": work.n,
        "new_tokens": work.new_tokens,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps({**about, "engines": results}))


if __name__ == "__main__":
    main()
