"""Make a tiny base model from nothing: `python scripts/pretrain_tiny.py --family all --seed 0 --steps 1000 --out DIR`.

A Llama of 4 layers x 128 with a character tokenizer learns the *easy* side of the procedural tasks: short problems, and
of every pair of sibling procedures mostly one. The other side is left for reinforcement learning and demonstrations.
Only questions of the train split are seen. The result is a Hugging Face folder with a model card of measured figures.

Leaves out, on purpose: checkpoints, resuming, packing, more than one process. For one machine, seed and number of
threads the weights are the same every time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from superrl.tasks import load, split_of, verify
from superrl.tasks.chain import Chain
from superrl.tasks.family import Family, Item
from superrl.tasks.logic import Logic
from superrl.tasks.route import Route

SPECIAL = ("<pad>", "<eos>", "<unk>")
CHARACTERS = "\n 0123456789abcdefghijklmnopqrstuvwxyz+-*/=<>()[]#:;,.?!'\"&|^_%@"
MAX_POSITIONS = 512

EASY: dict[str, list[tuple[float, Family]]] = {
    "chain": [
        (1, Chain(ops=1)),
        (2, Chain(ops=2)),
        (3, Chain(ops=3)),
        (2, Chain(ops=4)),
        (1, Chain(ops=1, order="right")),
        (0.5, Chain(ops=2, order="right")),
    ],
    "route": [
        (1, Route(hops=1, places=4)),
        (2, Route(hops=2, places=5)),
        (2, Route(hops=3, places=6)),
        (0.5, Route(hops=1, places=6, way="against")),
    ],
    "logic": [
        (1, Logic(depth=1)),
        (2, Logic(depth=2)),
        (2, Logic(depth=3)),
        (0.5, Logic(depth=1, way="backward")),
    ],
}
"""What the base learns, with relative frequencies within a family."""

MEASURED = {
    "chain": ["chain?ops=3", "chain?order=right&ops=2", "chain?order=right&ops=3", "chain?order=right&ops=4"],
    "route": ["route", "route?way=against&hops=2", "route?way=against"],
    "logic": ["logic", "logic?way=backward&depth=2", "logic?way=backward"],
}
"""What the model card reports, on the test split."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; a character outside the vocabulary becomes `<unk>`."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
    characters = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """0.8 million parameters, embeddings tied."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def easy_items(families: list[str], rng: random.Random) -> Iterator[Item]:
    """An endless stream of easy problems whose questions belong to the train split."""
    while True:
        weights, choices = zip(*EASY[rng.choice(families)], strict=True)
        item = rng.choices(choices, weights)[0].make(rng)
        if split_of(item.question) == "train":
            yield item


def collate(items: list[Item], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and the loss mask: True on the completion and the EOS that ends it."""
    prompts = [tokenizer.encode(item.question) for item in items]
    completions = [[*tokenizer.encode("\n".join(item.steps)), tokenizer.eos_token_id] for item in items]
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    tokens = torch.full((len(items), width), tokenizer.pad_token_id)
    loss_mask = torch.zeros(len(items), width, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        loss_mask[row, len(prompt) : end] = True
    return tokens, loss_mask


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    """Supervised learning with a short warm-up and a cosine decay to a tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, total_iters=50)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(args.steps - 50, 1), eta_min=args.lr / 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[50])
    items = easy_items(args.families, random.Random(f"pretrain/{args.seed}"))
    began = time.monotonic()
    for step in range(1, args.steps + 1):
        tokens, loss_mask = collate([next(items) for _ in range(args.batch)], tokenizer)
        logits = model(tokens[:, :-1]).logits  # padding is on the right, so the causal mask is enough
        kept = loss_mask[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits[kept], tokens[:, 1:][kept])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps:
            print(f"step {step}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s", flush=True)


@torch.no_grad()
def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, spec: str) -> tuple[float, float, float]:
    """Greedy accuracy, sampled accuracy (pass@1) and pass@8 at temperature 1 on 200 test problems."""
    loaded = load(f"{spec}{'&' if '?' in spec else '?'}n=200", "test")
    tokenizer.padding_side = "left"
    batch = tokenizer([p.prompt for p in loaded.problems], return_tensors="pt", padding=True)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    width, limit = batch["input_ids"].shape[1], loaded.defaults["max_new_tokens"]

    def correct(repeat: int, **how: object) -> torch.Tensor:
        rows = model.generate(**asked, max_new_tokens=limit, num_return_sequences=repeat, **how)[:, width:]
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
        groups = [texts[i : i + repeat] for i in range(0, len(texts), repeat)]
        return torch.tensor([[verify(p, t) for t in group] for p, group in zip(loaded.problems, groups, strict=True)])

    greedy = correct(1, do_sample=False).float().mean().item()
    sampled = correct(8, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    return greedy, sampled.float().mean().item(), sampled.any(1).float().mean().item()


def model_card(args: argparse.Namespace, figures: dict[str, tuple[float, float, float]]) -> str:
    """README.md of the model: what it is, how it was made, what it can and cannot do."""
    rows = "\n".join(f"| `tasks:{s}` | {g:.3f} | {p:.3f} | {k:.3f} |" for s, (g, p, k) in figures.items())
    return f"""---
license: apache-2.0
library_name: transformers
tags: [superrl, reasoning, tiny]
---
# superrl tiny

A character-level Llama (4 layers x 128, 0.8 million parameters, float32) pre-trained from nothing on easy procedural
reasoning problems, as a starting point for reinforcement learning that runs on a laptop. It knows nothing else: it is
for tests, tutorials and comparisons of methods, not for use.

Made in minutes on a CPU, from generated data only (no text was collected), by
`python scripts/pretrain_tiny.py --family {args.family} --seed {args.seed} --steps {args.steps}`.
Prompt and completion are plain characters, without a chat template; lower-case letters, digits and common signs have
a token each, any other character becomes `<unk>`.

Measured on 200 problems of the test split (greedy decoding; 8 samples at temperature 1):

| problems | greedy accuracy | pass@1 | pass@8 |
|---|---|---|---|
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*EASY, "all"], default="all", help="what to learn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="part of what decides the last bits of the weights")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.families = list(EASY) if args.family == "all" else [args.family]

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    pretrain(model.train(), tokenizer, args)
    model.eval()
    figures = {spec: measure(model, tokenizer, spec) for family in args.families for spec in MEASURED[family]}
    model.save_pretrained(args.out)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(args.out)
    card = model_card(args, figures)
    (args.out / "README.md").write_text(card)
    (args.out / "model.safetensors").chmod(0o644)
    print(card)


if __name__ == "__main__":
    main()
