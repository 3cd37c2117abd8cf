"""The reward `model`: what a sequence classifier with one label says of prompt and completion.

`path` is a Hugging Face folder, a hub id, or `run:NAME`, the folder NAME of this very run, which an earlier stage
writes. A reward sees text, so the model reads it as its own tokenizer and the run's prompt write it: the messages
through the chat template if there is one, else the prompt's text; the completion; the token that ends an answer, also
where the rollout was cut off. Loaded when it is first asked, or by `open`, in float32 unless told otherwise; without
gradient. Leaves out models of (question, answer) pairs and those that score single steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from superrl.config import ModelConfig, PromptConfig
from superrl.errors import UserError, one_line
from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Grader

if TYPE_CHECKING:
    from superrl.text import Renderer

SHORT = "model:"
RUN = "run:"
ROWS, TOKENS = 64, 16_384
"""A forward has at most so many texts, and tokens with padding if there is more than one."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a reward may know of the run that it is built for: its prompt, its device, and its folder if it has one."""

    prompt: PromptConfig = field(default_factory=PromptConfig)
    device: str = "auto"
    folder: Path | None = None


class ModelOptions(BaseOptions):
    """`path`: folder, hub id or `run:NAME`; `dtype`: what it is held and computed in."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"


class ModelReward(Grader):
    """Judges nothing unless `correct_at` is set; kept nowhere on disk, for the weights behind a path may change."""

    name = "model"
    Options = ModelOptions
    options: ModelOptions

    def __init__(self, options: ModelOptions, scene: Scene) -> None:
        super().__init__(options)
        self.gives_correct = options.correct_at is not None
        self.scene = scene
        self._scorer: Scorer | None = None
        if not self.awaits:
            _check_local(options.path)

    @property
    def awaits(self) -> frozenset[str]:
        """NAME of `run:NAME`."""
        path = self.options.path
        return frozenset({path.removeprefix(RUN)} if path.startswith(RUN) else ())

    fingerprint = None

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        """It reads no gold answer."""
        return [None] * len(problems)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        """The model's one number for every text."""
        if not problems:
            return []
        return [Score(value) for value in self._loaded().scores(problems, completions)]

    def open(self) -> None:
        """Load the model: meanwhile torch's default type is the model's, in every thread."""
        self._loaded()

    def close(self) -> None:
        """Give the model's memory back."""
        self._scorer = None

    def _loaded(self) -> Scorer:
        if self._scorer is None:
            self._scorer = _scorer(self._location(), self.options.dtype, self.scene)
        return self._scorer

    def _location(self) -> str:
        if not self.awaits:
            return os.path.expanduser(self.options.path)
        (name,) = self.awaits
        if self.scene.folder is None:
            raise UserError(f"reward 'model': {RUN}{name} is a run's folder, and there is no run here: give its path")
        folder = self.scene.folder / name
        if not (folder / "config.json").is_file():
            raise UserError(
                f"reward 'model': {folder} is not there: a stage with method: {{name: {name}}} writes it at its end"
            )
        return str(folder)


class Scorer:
    """A loaded classifier and its tokenizer; texts of similar length go through it together."""

    def __init__(self, location: str, dtype: str, scene: Scene) -> None:
        import torch

        from superrl import models
        from superrl.text import Renderer, eos_ids

        tokenizer, model = models.load_classifier(location, dtype)
        self.model: Any = model.to(models.device(ModelConfig(device=scene.device))).eval()
        config = model.config.get_text_config()
        end = eos_ids(tokenizer, [config.eos_token_id], scene.prompt).final
        self.renderer: Renderer = Renderer(tokenizer, scene.prompt, end)
        self.pad: int | None = config.pad_token_id
        self.context_length = models.context_length(model)
        self.location = location
        self._torch = torch

    def scores(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """One number a completion, in order."""
        contexts, encoded = self.renderer.contexts(problems), self.renderer.encode(completions)
        rows = [
            self.renderer.expert(context, text, ids).tokens
            for context, text, ids in zip(contexts, completions, encoded, strict=True)
        ]
        if (longest := max(map(len, rows))) > self.context_length:
            raise UserError(
                f"reward 'model': {self.location} reads at most {self.context_length} tokens, and a prompt with its "
                f"completion has {longest}: lower max_new_tokens, or take a model that reads more"
            )
        found = [0.0] * len(rows)
        for batch in self._batches(rows):
            for index, value in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                found[index] = value
        return found

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices of rows, shortest first; one at a time where no token is known to pad with."""
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda i: (len(rows[i]), i)):
            full = len(batch) == ROWS or (len(batch) + 1) * len(rows[index]) > TOKENS or self.pad is None
            if batch and full:
                yield batch
                batch = []
            batch.append(index)
        yield batch

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        torch, width = self._torch, max(map(len, rows))
        tokens = torch.full((len(rows), width), self.pad or 0)
        seen = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            seen[i, : len(row)] = 1
        device = self.model.device
        with torch.no_grad():
            logits = self.model(input_ids=tokens.to(device), attention_mask=seen.to(device), use_cache=False).logits
        return [float(value) for value in logits[:, 0].float().tolist()]


_LOADED: WeakValueDictionary[Any, Scorer] = WeakValueDictionary()
"""What rewards hold now: a stage and the evaluations of its recipe share one model. A file that changed is another."""


def _scorer(location: str, dtype: str, scene: Scene) -> Scorer:
    files = sorted(Path(location).glob("*")) if Path(location).is_dir() else []
    stamps = tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    key = (location, stamps, dtype, scene.prompt.model_dump_json(), scene.device)
    found = _LOADED.get(key)
    if found is None:
        found = _LOADED[key] = Scorer(location, dtype, scene)
    return found


def _check_local(path: str) -> None:
    """What looks like a folder must be a model's; anything else is left to the hub."""
    folder = Path(path).expanduser()
    looks_local = folder.is_absolute() or path.startswith(".") or path.count("/") > 1
    if (folder.exists() or looks_local or not path) and not (folder / "config.json").is_file():
        raise UserError(f"reward 'model': {one_line(path)!r} is no Hugging Face model folder, it has no config.json")
