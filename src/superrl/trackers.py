"""Experiment trackers as listeners of the metrics: tensorboard, wandb, trackio. Each is an optional extra.

`metrics.jsonl` is the truth; a tracker only hears it. Leaves out artefacts and hyper-parameter sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from superrl.errors import UserError


class Tracker(Protocol):
    """Hears a row of numbers a step."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Tensorboard:
    """Event files in the run folder."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.writer = _need("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A scalar a key."""
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush the file."""
        self.writer.close()


class Hosted:
    """wandb, and trackio, which has wandb's interface."""

    def __init__(self, module: str, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.run = _need(module, module).init(project="superrl", name=folder.name, config=dict(recipe))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """All keys at once."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self.run.finish()


def open_trackers(names: Sequence[str], folder: Path, recipe: Mapping[str, Any]) -> list[Tracker]:
    """The trackers a recipe names."""
    return [Tensorboard(folder, recipe) if name == "tensorboard" else Hosted(name, folder, recipe) for name in names]


def tell(trackers: Sequence[Tracker], row: Mapping[str, Any]) -> None:
    """Give the numbers of a metrics row to every tracker."""
    numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
    for tracker in trackers:
        tracker.log(numbers, int(row["step"]))


def _need(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UserError(f"log.trackers: {extra} is an optional extra: pip install 'superrl[{extra}]'") from None
