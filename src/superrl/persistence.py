"""What of a run goes into a checkpoint, and how it comes back: weights, optimizer moments, critic, counters, position.

The reference policy does not change within a stage, so it is written beside the checkpoints, once. `checkpoint.py`
knows how a folder is written safely; this file knows what is in it. One process writes; where the weights are split
among several, each hands over its part while the first writes. Either kind of checkpoint loads into any number of
processes, split or not. Leaves out when to save.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from superrl import checkpoint, models
from superrl.errors import RunError, UserError
from superrl.learner.learner import Learner, Progress
from superrl.learner.sharding import placed, whole
from superrl.position import Position
from superrl.runfolder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOMENTS = "optimizer"
"""The folder of a checkpoint that holds split moments."""
ADAPTERS = "adapter_model.safetensors"


def save(
    folder: RunFolder, learner: Learner, tokenizer: PreTrainedTokenizerBase, position: Position, data: str, keep: int
) -> Path:
    """Write the checkpoint of this position and prune older ones; the best one stays. `data` is the digest of the
    stage's problems. Of several processes the first does it; where weights are split, the others `hand_over`."""

    def fill(path: Path) -> None:
        if learner.is_split:
            learner.world.each(lambda: path)
            _save_moments(learner, path)
        save_model(learner, tokenizer, path)
        save_file(_tensors(learner), path / "trainer.safetensors")

    state = {
        "position": position.dump(),
        "data": data,
        "progress": asdict(learner.progress),
        "optimizers": sorted(learner.optimizers),
    }
    folder.to_disk()
    if learner.is_split and learner.world.first(lambda: checkpoint.stands(folder.checkpoints, position.step, state)):
        written = folder.checkpoints / checkpoint.folder_name(position.step)
    else:
        written = checkpoint.write(folder.checkpoints, position.step, fill, state)
    checkpoint.prune(folder.checkpoints, keep, {position.best_step} if position.best_step is not None else set())
    _prune_references(folder)
    return written


def hand_over(learner: Learner) -> None:
    """What every rank but the first does, where weights are split, while the first saves."""
    if learner.world.first(lambda: True):
        return
    path = learner.world.each(lambda: Path())[0]
    _save_moments(learner, path)
    learner.weights(keep=False)


def _save_moments(learner: Learner, path: Path) -> None:
    """Every rank its part of the optimizers' moments, by torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    try:
        save_parts(_moments(learner), checkpoint_id=path / MOMENTS, process_group=learner.world.group)
    except CheckpointException as error:  # no Exception of Python's: nobody else would catch it
        first = next((one for one in error.failures.values()), error)
        cause = first[0] if isinstance(first, tuple) else first
        raise RunError(f"{path} was not written ({cause}): mend that, then --resume") from error


def _load_moments(learner: Learner, path: Path, names: Iterable[str]) -> None:
    """The moments of a checkpoint whose writer had its weights split, into a learner that has, or has not."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    parameters = dict(learner.trainable())
    tensors: dict[str, Tensor] = {}
    for key in stored:
        parameter, _, kind = key.partition("/")[2].partition("/")[2].rpartition("/")
        if parameter not in parameters:
            raise RunError(f"checkpoint {path.parent} has moments of {parameter}: it is of another model")
        tensors[key] = torch.tensor(0.0) if kind == "step" else torch.zeros_like(parameters[parameter])
    with warnings.catch_warnings():  # that there is one process only: every rank reads what it needs
        warnings.simplefilter("ignore", UserWarning)
        load_parts(tensors, checkpoint_id=path, no_dist=True)
    for name in names:
        learner.optimizer(name).load_state(_under(f"optimizer/{name}/", tensors))


def save_model(learner: Learner, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """A Hugging Face folder with the float32 weights, or of a model with adapters peft's folder with those alone."""
    from transformers import AutoModelForCausalLM

    tokenizer.save_pretrained(path)
    if _adapters(learner):
        _save_adapters(learner, path)
        return
    config = learner.model.config
    with torch.device("meta"):  # the architecture only: it knows which weights are tied and how they are named on disk
        shell = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shell.generation_config = learner.model.generation_config
    weights = learner.weights(device="cpu")
    shell.save_pretrained(path, state_dict=weights, max_shard_size="1TB")


def _save_adapters(learner: Learner, path: Path) -> None:
    from peft import get_peft_model_state_dict

    model: Any = learner.model
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, path / ADAPTERS, {"format": "pt"})
    settings = copy(model.peft_config["default"])
    settings.inference_mode = True  # as peft's own save_pretrained says
    settings.save_pretrained(path)


def save_classifier(folder: RunFolder, learner: Learner, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Write the critic whole to the run's folder `name`, as a sequence classifier with one label and its tokenizer.

    Its bias stays behind, for most classifiers have no place for one: scores are the critic's values less a constant.
    """
    critic = learner.critic
    assert critic is not None and critic.trunk is not None, "only a critic with a trunk of its own is a model"
    shell, last = models.classifier_of(learner.model)
    weights = {f"{shell.base_model_prefix}.{n}": p for n, p in critic.trunk.state_dict().items()}
    weights |= {last: critic.head.weight}
    weights = {n: p.detach().cpu().contiguous() for n, p in weights.items()}
    if differing := weights.keys() ^ shell.state_dict().keys():
        raise RunError(f"{type(shell).__name__} names its weights otherwise: {sorted(differing)[0]}")
    path = folder.path / name
    partial = path.with_name(f"{name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        shell.config.pad_token_id = _padding(tokenizer, models.declared_ends(learner.model))
        shell.save_pretrained(partial, state_dict=weights, max_shard_size="1TB")
        tokenizer.save_pretrained(partial)
        for file in [*partial.iterdir(), partial]:
            checkpoint.to_disk(file)
        shutil.rmtree(path, ignore_errors=True)  # of the same bytes, where a run was continued
        partial.rename(path)
        checkpoint.to_disk(folder.path)
    except OSError as error:
        raise RunError(f"{path} was not written ({error.strerror or error}): mend that, then --resume") from error


def _padding(tokenizer: PreTrainedTokenizerBase, declared: Iterable[int | list[int] | None]) -> int | None:
    """A token to pad with that ends no answer: a classifier reads its score off the last token that is no padding.
    None: there is none, and texts are scored one by one."""
    ends = {tokenizer.eos_token_id}
    for one in declared:
        ends |= set(one) if isinstance(one, list) else {one}
    special = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    known = [tokenizer.pad_token_id, tokenizer.unk_token_id, *special]
    return next((token for token in known if token is not None and token not in ends), None)


def check_adapters(path: Path) -> None:
    """A checkpoint without a file of adapters was written with them merged: it is a model, and no run goes on there."""
    if not (path / ADAPTERS).is_file():
        raise UserError(
            f"--resume: {path} has no {ADAPTERS}, so an earlier version of superrl wrote it, with the adapters merged "
            f"into the model: start a new run with model.name: {path}"
        )


def load_weights(learner: Learner, path: Path) -> None:
    """Put a checkpoint's weights into the learner's model (with adapters: into the adapters, the base stays)."""
    from transformers import AutoModelForCausalLM

    if _adapters(learner):
        stored = load_file(path / ADAPTERS) if (path / ADAPTERS).is_file() else {}
        named = {name: name.replace(".default", "") for name, _ in learner.trainable()}  # as peft writes them
        source = {name: stored[written] for name, written in named.items() if written in stored}
    else:
        source = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
    set_weights(learner, source, f"checkpoint {path}")


@torch.no_grad()
def set_weights(learner: Learner, source: Mapping[str, Tensor], where: str) -> None:
    """Put whole tensors into all that the learner trains; `where` they are from."""
    for name, parameter in learner.trainable():
        if name not in source:
            raise RunError(f"{where} has no weight {name}: it is of another model")
        parameter.copy_(placed(source[name], parameter))


def load_trainer(learner: Learner, saved: checkpoint.Checkpoint) -> None:
    """Put a checkpoint's optimizer states and counters back, and its critic into a learner that has one."""
    tensors = load_file(saved.path / "trainer.safetensors")
    if (saved.path / MOMENTS).is_dir():
        _load_moments(learner, saved.path / MOMENTS, saved.state["optimizers"])
    else:
        for name in saved.state["optimizers"]:
            learner.optimizer(name).load_state(_under(f"optimizer/{name}/", tensors))
    if learner.critic is not None:
        learner.critic.load_state(_under("critic/", tensors))
    learner.progress = Progress(**saved.state["progress"])


def save_reference(folder: RunFolder, learner: Learner, position: Position) -> None:
    """Write the reference policy of a stage that begins here; `hand_over_reference` is for the other ranks of split
    weights."""
    policy = learner.reference
    assert policy is not None, "the stage was begun without a reference policy"
    weights = {name: whole(p.detach()).cpu().contiguous() for name, p in policy.named_parameters()}

    def fill(path: Path) -> None:
        save_file(weights, path / "model.safetensors")

    checkpoint.recover(folder.references)
    began = checkpoint.folder_name(position.began)
    shutil.rmtree(
        folder.references / began, ignore_errors=True
    )  # what began there before was cut off: of other weights
    checkpoint.write(folder.references, position.began, fill, {"stage": position.stage})


def hand_over_reference(learner: Learner) -> None:
    """What every rank but the first does, where weights are split, while the first writes the reference policy."""
    assert learner.reference is not None, "the stage was begun without a reference policy"
    for parameter in learner.reference.parameters():
        whole(parameter.detach())


def find_reference(folder: RunFolder, position: Position) -> Path:
    """Where the reference policy of this position's stage lies; one that is missing or damaged is a RunError."""
    path = folder.references / checkpoint.folder_name(position.began)
    if damage := checkpoint.damage_of(path):
        raise RunError(
            f"the reference policy in {path} is damaged ({damage}), and nothing was changed: put it back as it was, or "
            "start a new run"
        )
    return path


@torch.no_grad()
def load_reference(learner: Learner, path: Path) -> None:
    """Put the weights that a stage began with into the learner's reference policy."""
    assert learner.reference is not None, "the stage was begun without a reference policy"
    stored = load_file(path / "model.safetensors")
    for name, parameter in learner.reference.named_parameters():
        if name not in stored:
            raise RunError(f"the reference policy in {path} has no weight {name}: it is of another model")
        parameter.copy_(placed(stored[name], parameter))


def newest(folder: RunFolder, report: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The newest complete checkpoint (None: start anew); where every one is damaged, a RunError."""
    checkpoint.recover(folder.checkpoints)
    saved, present = checkpoint.newest(folder.checkpoints, report), checkpoint.steps(folder.checkpoints)
    if saved is None and present:
        raise RunError(
            f"none of the checkpoints in {folder.checkpoints} is whole, and nothing was changed: put one back, or "
            "remove that folder and --resume to start the run anew"
        )
    if saved is None:
        report("no checkpoint was written yet: starting anew")
    return saved


def rewind(folder: RunFolder, saved: checkpoint.Checkpoint | None) -> None:
    """Cut the run's files back to what a checkpoint saw (None: nothing), and remove what came after it."""
    folder.truncate(saved.state["position"]["lengths"] if saved else {})
    for path in checkpoint.steps(folder.checkpoints):
        if saved is not None and checkpoint.step_of(path) > saved.step:
            shutil.rmtree(path)


def _tensors(learner: Learner) -> dict[str, Tensor]:
    tensors = {} if learner.is_split else {key: value.cpu() for key, value in _moments(learner).items()}
    if learner.critic is not None:
        tensors |= {f"critic/{key}": value.cpu() for key, value in learner.critic.state().items()}
    return tensors


def _moments(learner: Learner) -> dict[str, Tensor]:
    return {
        f"optimizer/{name}/{key}": value
        for name, optimizer in learner.optimizers.items()
        for key, value in optimizer.state().items()
    }


def _adapters(learner: Learner) -> bool:
    return hasattr(learner.model, "peft_config")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _prune_references(folder: RunFolder) -> None:
    """Remove the reference policies that no checkpoint's stage began with."""
    present = checkpoint.steps(folder.references)
    states = [checkpoint.state_of(path) for path in checkpoint.steps(folder.checkpoints)] if present else []
    positions = [state["position"] for state in states if state is not None]
    wanted = {position["step"] - position["stage_step"] for position in positions}
    for path in present:
        if checkpoint.step_of(path) not in wanted:
            shutil.rmtree(path)
