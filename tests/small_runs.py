"""Small whole runs for the tests of checkpoints, resuming and bad input: a model of one layer, a fraction of a second.

The model knows nothing, so rewards come from `letters`: they vary, and are a pure function of the text.
"""

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from superrl.config import Recipe, parse
from superrl.models import resolve
from superrl.report import Silent
from superrl.training import train

TASK = "tasks:chain?order=right&ops=1"
STAGE: Mapping[str, Any] = {
    "name": "rl",
    "method": {"name": "superrl"},
    "steps": 2,
    "prompts_per_step": 4,
    "group_size": 2,
    "max_new_tokens": 10,
    "optimizer": {"lr": 5e-3},
}


def letters(completions: Sequence[str], **columns: Any) -> list[float]:
    """1.0 for a text with an even number of different letters."""
    return [float(len(set(text)) % 2 == 0) for text in completions]


def small_model(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A model folder with the shipped tokenizer and small random weights, always the same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shipped = Path(resolve("tiny").location)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {**shape, "num_key_value_heads": 2, "vocab_size": 67, "max_position_embeddings": 160}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, "tie_word_embeddings": True}
    config = AutoConfig.for_model(kind, **{**settings, **ends, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / name, folder / name)
    return folder


def recipe(folder: Path | str, /, *stages: Mapping[str, Any], **keys: Any) -> Recipe:
    """A small recipe; every stage changes STAGE, `keys` the top level."""
    values = {
        "model": {"name": str(folder), "dtype": "float32"},
        "data": {
            "train": f"{TASK}&n=12&demos=9",
            "validation": f"{TASK}&n=3",
            "test": [f"{TASK}&n=2"],
            "unverified": "keep",
        },
        "stages": [{**STAGE, **stage} for stage in stages or [{}]],
        "evaluation": {"every": 2},
        "checkpoint": {"every": 1},
        "log": {"rollouts_per_step": 2},
        **keys,
    }
    return parse(values)


class Killed(BaseException):
    """As SIGKILL: nothing in the program answers to it."""


class Ends(Silent):
    """Ends the run when it hears the `nth` event (of a kind, if that is given), by an exception or a signal to itself.

    With neither it only hears. Of the tokens of one phase only the first event counts.
    """

    def __init__(self, nth: int = 0, by: BaseException | int | None = None, kind: str | None = None) -> None:
        self.nth, self.by, self.kind = nth, by, kind
        self.events: list[str] = []
        self.notes: list[str] = []

    def _hear(self, event: str) -> None:
        self.events.append(event)
        heard = len(self.events) if self.kind is None else self.events.count(self.kind)
        if heard == self.nth and self.kind in (None, event):
            if isinstance(self.by, int):
                os.kill(os.getpid(), self.by)
            elif self.by is not None:
                raise self.by

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, name: str, total: int | None = None) -> None:
        self._hear(name)

    def tokens(self, k: int) -> None:
        if self.events[-1:] not in ([], ["tokens"]):
            self._hear("tokens")

    def step(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        self._hear("step")

    def evaluation(self, row: Mapping[str, Any]) -> None:
        self._hear("evaluation")


def run(settings: Recipe, out: Path, progress: Silent | None = None, **options: Any) -> Path:
    """Train in a folder."""
    return train(settings, out, progress=progress, **{"reward": letters, **options})


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything of a finished run that must be equal, byte for byte, however often it was interrupted."""
    final = checkpoints(folder)[-1]
    names = "metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl", "visits.jsonl", "config.yaml"
    files = [folder / name for name in names]
    files += [path for path in sorted(final.iterdir()) if path.name not in ("trainer.json", "manifest.json")]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files if path.exists()}
    summary = json.loads((folder / "summary.json").read_text())
    del summary["wall_seconds"]
    return {**found, "summary.json": json.dumps(summary).encode()}


def differences(a: Path, b: Path) -> list[str]:
    """The names of what differs between two finished runs."""
    one, two = outcome(a), outcome(b)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoint folders, oldest first."""
    return sorted((folder / "checkpoints").iterdir())


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of one of a run's files."""
    path = folder / name
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def heeding_ctrl_c() -> None:
    """For `preexec_fn`: what a shell starts in the background ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
