"""The run folder: append-only JSON lines whose lengths a checkpoint remembers, and the resolved recipe beside them.

Every file but `timing.jsonl` and `summary.json` is a pure function of the recipe, so a resumed run truncates them to
what its checkpoint saw and writes the same bytes again.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from superrl.config import RESUMABLE, SAMPLED_BY, Recipe, load
from superrl.errors import RunError, UserError

FILES = ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl", "visits.jsonl", "timing.jsonl")


class RunFolder:
    """One run's folder: where it appends, and how long its files were."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def references(self) -> Path:
        """Where the reference policies lie, each under the step that its stage began after."""
        return self.path / "reference"

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Add lines to one of FILES, flushed; all of them, or on failure none."""
        text = "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
        path = self.path / name
        before = _size(path)
        try:
            with path.open("ab", buffering=0) as file:
                _write_all(file, text.encode(errors="backslashreplace"))  # half a surrogate pair as JSON escapes it
        except OSError as error:
            if path.is_file():
                os.truncate(path, before)
            raise _unwritable(path, error) from error

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All complete lines of one of FILES."""
        path = self.path / name
        whole, _, _ = (path.read_bytes() if path.is_file() else b"").rpartition(b"\n")
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def lengths(self) -> dict[str, int]:
        """Bytes of each of FILES."""
        return {name: _size(self.path / name) for name in FILES}

    def to_disk(self) -> None:
        """Return when FILES have reached the disk: a checkpoint must not outlive the rows it counts on."""
        for name in FILES:
            if (path := self.path / name).is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def truncate(self, lengths: Mapping[str, int]) -> None:
        """Cut every one of FILES back to a remembered length (absent: 0)."""
        for name, wanted in lengths.items():
            if (found := _size(self.path / name)) < wanted and name != "timing.jsonl":
                raise RunError(
                    f"{self.path / name} has {found} bytes, but the checkpoint to resume from saw {wanted}: "
                    "put the missing rows back, or start a new run"
                )
        for name in FILES:
            path = self.path / name
            if path.is_file():
                os.truncate(path, min(_size(path), lengths.get(name, 0)))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace summary.json."""
        self._replace("summary.json", json.dumps(summary, indent=2) + "\n")

    def write_recipe(self, recipe: Recipe) -> None:
        """Replace config.yaml."""
        self._replace("config.yaml", recipe.text())

    def write_report(self, page: str) -> None:
        """Replace report.html."""
        self._replace("report.html", page)

    def _replace(self, name: str, text: str) -> None:
        try:
            partial = self.path / f"{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.rename(self.path / name)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error


class Unwritten(RunFolder):
    """The run's folder as a process sees it that is not the first: it reads what lies there and writes nothing."""

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Nothing: the first process has the same rows."""

    def lengths(self) -> dict[str, int]:
        """None: the first process counts, while it writes."""
        return {}

    def _replace(self, name: str, text: str) -> None:
        """Nothing."""


def default_path(recipe_name: str) -> Path:
    """runs/RECIPE-TIME, numbered if that second already has one."""
    path = Path("runs") / f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def create(path: Path) -> RunFolder:
    """A new run's folder, empty of a run until its recipe is written; one that holds a run is refused."""
    try:
        if (path / "config.yaml").exists():
            raise UserError(f"--out {path} already holds a run: add --resume to continue it, or choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror}): choose another folder") from None
    return RunFolder(path)


def reopen(path: Path, recipe: Recipe) -> RunFolder:
    """A run's folder to continue; refuses a recipe that changed more than it may."""
    if not (path / "config.yaml").is_file():
        raise UserError(f"--resume: {path} holds no run (no config.yaml); leave --resume out to start one there")
    before = load(path / "config.yaml")
    if changed := changed_key(before.dump(), recipe.dump()):
        raise UserError(
            f"--resume: {changed} differs from the run in {path}; only steps, {', '.join(RESUMABLE)} may change: "
            "start a new run, or take the change back"
        )
    return RunFolder(path)


def changed_key(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The path of the first key that may not differ between a run and its resumption, or None."""
    return _difference(_frozen_part(before), _frozen_part(now), "")


def _frozen_part(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.items() if key not in RESUMABLE}
    kept["sampler"] = {key: value for key, value in recipe["sampler"].items() if key in SAMPLED_BY}
    kept["stages"] = [{key: value for key, value in stage.items() if key != "steps"} for stage in recipe["stages"]]
    return kept


def _difference(a: Any, b: Any, path: str) -> str | None:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        pairs = [(key, a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b])]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else path
    found = (_difference(x, y, f"{path}.{key}" if path else str(key)) for key, x, y in pairs)
    return next((p for p in found if p is not None), None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered write may stop short of its end, on a disk that fills up, without raising."""
    while data:
        data = data[file.write(data) :]


def _unwritable(path: Path, error: OSError) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"the disk is full, so {path} was not written; checkpoints are whole: free space, then --resume"
        )
    return RunError(f"{path} cannot be written ({error.strerror}); checkpoints are whole: mend that, then --resume")
