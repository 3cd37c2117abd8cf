"""Checkpoints: a Hugging Face model folder plus the trainer's state, written whole or not at all.

    checkpoints/step-00000040/
        model.safetensors config.json tokenizer...   what AutoModelForCausalLM.from_pretrained reads
        adapter_model.safetensors adapter_config.json  with `model.lora` instead of the first two, as peft writes them
        trainer.safetensors                          optimizer moments; the critic when there is one
        optimizer/                                   the moments instead, where several processes split the weights
        trainer.json                                 position, counters, method state, lengths of the run's files
        manifest.json                                size and sha256 of every file above, written last

A folder appears under its name by one rename, after everything in it is on disk; one that is replaced stands aside
until then. A damaged one is named and the one before it is used. Other weights are written in the same manner
(`persistence`). Leaves out when to save.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superrl import models
from superrl.config import ModelConfig
from superrl.errors import RunError, UserError

MANIFEST = "manifest.json"
STATE = "trainer.json"
NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete, verified folder and what its `trainer.json` says."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done when it was written."""
        return step_of(self.path)


def folder_name(step: int) -> str:
    """step-00000040"""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """40 of step-00000040"""
    return int(path.name.removeprefix("step-"))


def write(root: Path, step: int, fill: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint: `fill(folder)` saves model and tensors, `state` becomes trainer.json. Replaces an older one
    of the same step, unless that is whole and of the same state. On failure nothing is left behind and older
    checkpoints are untouched."""
    final, partial, aside = (root / f"{folder_name(step)}{suffix}" for suffix in ("", ".partial", ".aside"))
    text = json.dumps(state)
    try:
        if stands(root, step, state):
            return final
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        fill(partial)
        (partial / STATE).write_text(text)
        files = sorted(p for p in partial.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(partial)): {"bytes": p.stat().st_size, "sha256": digest(p)} for p in files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        folders = [p for p in partial.rglob("*") if p.is_dir()]
        for path in [*files, partial / MANIFEST, *folders, partial]:
            to_disk(path)
        if final.exists():
            final.rename(aside)  # killed between the two renames, `recover` puts it back
        partial.rename(final)
        to_disk(root)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        recover(root)
        raise _explained(error, final) from error
    return final


def stands(root: Path, step: int, state: Mapping[str, Any]) -> bool:
    """Whether a whole checkpoint of that step and state is there."""
    path = root / folder_name(step)
    return (path / STATE).is_file() and (path / STATE).read_text() == json.dumps(state) and damage_of(path) is None


def recover(root: Path) -> None:
    """Clear away what an interrupted `write` left: the checkpoint that stood aside comes back, partial ones go."""
    for aside in root.glob("step-*.aside"):
        if (final := aside.with_suffix("")).exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)
    for partial in root.glob("step-*.partial"):
        shutil.rmtree(partial)


def newest(root: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint; every damaged one on the way is named through `report`."""
    for path in reversed(steps(root)):
        if damage := damage_of(path):
            report(f"checkpoint {path} is damaged ({damage}): trying the one before it")
        else:
            return _read(path)
    return None


def model_of(name: str, report: Callable[[str], None] = lambda text: None) -> str:
    """The model that a name stands for: of a run folder its newest complete checkpoint, else the name itself."""
    folder = Path(name) / "checkpoints"
    if not folder.is_dir():
        return name
    found = newest(folder, report)
    if found is None:
        raise UserError(f"{name} holds no complete checkpoint yet")
    return str(found.path)


def at(root: Path, step: int) -> Checkpoint:
    """The checkpoint of one step, which must be whole."""
    path = root / folder_name(step)
    if damage := damage_of(path):
        raise RunError(f"checkpoint {path} is damaged ({damage}): put it back, or continue without it")
    return _read(path)


def steps(root: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first; partial ones are not among them."""
    return sorted((p for p in root.glob("step-*") if NAME.fullmatch(p.name) and p.is_dir()), key=step_of)


def prune(root: Path, keep: int, also: set[int]) -> None:
    """Remove all but the newest `keep` checkpoints and those of the steps in `also`."""
    for path in steps(root)[:-keep]:
        if step_of(path) not in also:
            shutil.rmtree(path)


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, OSError, AttributeError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    if STATE not in expected:
        return f"{MANIFEST} does not name {STATE}"
    for name, (size, checksum) in expected.items():
        try:
            if (found := (path / name).stat().st_size) != size:
                return f"{name} has {found} bytes instead of {size}"
            if digest(path / name) != checksum:
                return f"the checksum of {name} does not match"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError):
            return f"{name} cannot be read"
    return None


def state_of(path: Path) -> Mapping[str, Any] | None:
    """What a checkpoint's trainer.json says, whole or not; None if it cannot be read."""
    try:
        found: Mapping[str, Any] = json.loads((path / STATE).read_text())
    except (OSError, ValueError):
        return None
    return found


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(source: Path, out: Path, dtype: str = "bfloat16") -> None:
    """Copy a run's newest checkpoint (or one checkpoint) as a plain model folder in `dtype`, adapters merged."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in dtypes:
        raise UserError(f"--dtype must be one of {', '.join(dtypes)}, got {dtype!r}")
    folder = Path(model_of(str(source), print))
    if not any((folder / name).is_file() for name in ("config.json", models.ADAPTERS)):
        raise UserError(f"{source} is neither a run folder nor a model folder")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose another folder")
    if (folder / models.ADAPTERS).is_file():
        model = models.load_model(ModelConfig(name=str(folder), device="cpu")).to(dtypes[dtype])
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[dtype])
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def _read(path: Path) -> Checkpoint:
    return Checkpoint(path, json.loads((path / STATE).read_text()))


def to_disk(path: Path) -> None:
    """Return when a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: Exception, final: Path) -> Exception:
    """What the disk refused, in a sentence (safetensors reports it in an error of its own); anything else as it is."""
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error):
        why, remedy = "the disk is full", "free space"
    elif isinstance(error, OSError) or "(os error " in str(error):
        why, remedy = f"{getattr(error, 'strerror', None) or error}", "mend that"
    else:
        return error
    return RunError(f"{why}, so {final} was not written; earlier checkpoints are whole: {remedy}, then --resume")
