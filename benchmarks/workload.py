"""The work that two systems are given: prompts, lengths, rewards, and the model folder both load.

Lengths are forced by the model folder and by nothing else: its end-of-sequence token is one that the model cannot draw
(`unending`), so that every completion of either system has `new_tokens` tokens, without an option that one of them may
honour differently. Without a real model, `shaped` writes one of random weights with a tokenizer whose words are its
tokens, so that lengths and common prefixes are exact. Imported in environments without superrl, too.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100000.0,
    },
    "qwen": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
    },
}
"""Shapes of Llama models: four layers of width 128, SmolLM2-135M, and that of a model of 0.5 B parameters."""

SENTENCES = (
    "A shop sells {0} boxes of pencils on Monday and {1} more on Tuesday than on Monday.",
    "Every box holds {2} pencils, and {0} pencils of every box are red.",
    "The owner gives away {1} pencils to each of {2} schools, and keeps the rest on a shelf.",
    "On Wednesday a truck brings {2} new boxes, but {0} of them are damaged and go back.",
    "How many pencils are left in the shop at the end of Wednesday? Think step by step, then write the number.",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A step of policy gradient: `completions` of `new_tokens` for each of `prompts`; or with `demonstrations` (one a
    prompt) an epoch of supervised training, `batch` of them an optimizer step.

    `dtype` is what both compute in. `pack`: tokens a backward pass of ours (max_tokens_per_pack); `micro_batch`: rows a
    backward pass of theirs (per_device_train_batch_size).
    """

    model: str
    prompts: tuple[str, ...]
    demonstrations: tuple[str, ...] = ()
    completions: int = 8
    new_tokens: int = 96
    batch: int = 8
    dtype: str = "bfloat16"
    threads: int = 2
    pack: int = 4096
    micro_batch: int = 8

    def save(self, path: Path) -> Path:
        """Write it for a side to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str) -> Workload:
        """Read what `save` wrote."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


class SeededReward:
    """A number in (0, 1] for every completion, which depends on the step and the place in the batch alone; 0 for those
    of the first `dead` prompts, so that their groups have nothing to tell apart. TRL's signature; superrl takes it."""

    __name__ = "seeded"

    def __init__(self) -> None:
        self.calls = 0
        self.dead = 0

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], index: Sequence[int], **_: Any
    ) -> list[float]:
        self.calls += 1
        rng = random.Random(self.calls)
        drawn = [1.0 - rng.random() for _ in completions]
        return [0.0 if i < self.dead else value for i, value in zip(index, drawn, strict=True)]


def word_problems(count: int) -> list[str]:
    """Word problems of about 100 tokens, all different."""
    rng = random.Random(0)
    return [" ".join(SENTENCES).format(*(rng.randrange(3, 90) for _ in range(3))) for _ in range(count)]


def solutions(count: int) -> list[str]:
    """Texts of about 100 tokens, to be trained on."""
    return [" " + text.replace("pencils", "pens").replace("shop", "store") for text in word_problems(count)]


def questions(path: Path, count: int) -> list[tuple[str, str]]:
    """(question, answer) of the first rows of a JSONL file with such columns, as GSM8K's."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [(row["question"], row["answer"]) for row in rows]


def words(count: int, vocabulary: int, rng: random.Random) -> str:
    """Random words of a `shaped` model's tokenizer, each one token."""
    return " ".join(f"w{rng.randrange(4, vocabulary)}" for _ in range(count))


def contexts(steps: int, problem: int, step: int, vocabulary: int, seed: int = 0) -> list[str]:
    """What comes before each step of one trajectory: the problem, and all earlier steps; so each begins the next."""
    rng = random.Random(seed)
    whole = words(problem + step * (steps - 1), vocabulary, rng).split(" ")
    return [" ".join(whole[: problem + step * k]) for k in range(steps)]


def shaped(shape: str, folder: Path, context: int = 8192) -> Path:
    """A model folder of random weights in one of SHAPES, with the tokenizer of `words`; its end cannot be drawn."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(**settings, max_position_embeddings=context, tie_word_embeddings=True, bos_token_id=None)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    vocabulary: dict[str, int] = {"<pad>": 0, "<unk>": 1, "<end>": 2, "<other>": 3}
    vocabulary |= {f"w{i}": i for i in range(4, settings["vocab_size"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def unending(model: Path, folder: Path) -> Path:
    """A copy of a model folder (its weights are linked) whose end-of-sequence token is beyond all that it can draw."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder.mkdir()
    for file in model.iterdir():
        if file.suffix == ".safetensors" or file.name.endswith(".index.json"):
            (folder / file.name).symlink_to(file.resolve())
        elif file.is_file():
            shutil.copyfile(file, folder / file.name)
    tokenizer = AutoTokenizer.from_pretrained(model)
    pad = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.add_special_tokens({"eos_token": "<|never drawn|>", "pad_token": pad})
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(model)
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    return folder
