"""Checkpoints: whole or not there, found damaged when they are, and model folders that transformers reads."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import tiny_llama
from small_runs import small_model
from superrl import checkpoint, models, persistence
from superrl.config import LoraConfig, ModelConfig, OptimizerConfig
from superrl.errors import RunError, UserError
from superrl.learner.learner import Learner, Schedule
from superrl.packing import rows
from superrl.position import Position
from superrl.runfolder import RunFolder

SCHEDULE = Schedule(OptimizerConfig(), steps=1, epochs=1, mini_batches=1, max_tokens_per_pack=64, seed=0)


def fill(folder: Path) -> None:
    save_file({"w": torch.arange(4.0)}, folder / "model.safetensors")


def written(root: Path, *steps: int) -> list[Path]:
    """Checkpoints of these steps."""
    return [checkpoint.write(root, step, fill, {"step": step}) for step in steps]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    written(tmp_path, 5, 40)
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None and (found.step, found.state) == (40, {"step": 40})
    assert checkpoint.at(tmp_path, 5).state == {"step": 5}
    assert checkpoint.newest(tmp_path / "none", pytest.fail) is None
    manifest = json.loads((found.path / "manifest.json").read_text())
    sizes = {path.name: path.stat().st_size for path in found.path.iterdir()}
    assert {name: entry["bytes"] for name, entry in manifest.items()} | {
        "manifest.json": sizes["manifest.json"]
    } == sizes


def damaged_json(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_text(text)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (flip, "the checksum of model.safetensors does not match"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9), "model.safetensors has 9 bytes instead of"),
        (lambda folder: os.truncate(folder / "trainer.json", 0), "trainer.json has 0 bytes instead of"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (damaged_json("{"), "manifest.json cannot be read"),
        (damaged_json("[]"), "manifest.json cannot be read"),
        (damaged_json('{"trainer.json": {"bytfs": 1}}'), "manifest.json cannot be read"),
        (damaged_json("{}"), "manifest.json does not name trainer.json"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_it_used(
    harm: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    _, newer = written(tmp_path, 1, 2)
    harm(newer)
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and str(newer) in said[0] and sentence in said[0]
    with pytest.raises(RunError, match="step-00000002 is damaged"):
        checkpoint.at(tmp_path, 2)


def test_names_that_are_no_checkpoint_are_let_be(tmp_path: Path) -> None:
    for stray in ("step-x", "step-00000009.partial", "step-00000009.aside", "notes"):
        (tmp_path / stray).mkdir(parents=True)
    (tmp_path / "step-00000008").write_text("a file")
    path = written(tmp_path, 100_000_000, 2)[0]
    assert checkpoint.steps(tmp_path) == [tmp_path / "step-00000002", path]


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    written(tmp_path, 1)

    def fails(folder: Path) -> None:
        fill(folder)
        raise ZeroDivisionError

    for step in (1, 2):
        with pytest.raises(ZeroDivisionError):
            checkpoint.write(tmp_path, step, fails, {"step": "other"})
    assert names(tmp_path) == ["step-00000001"] and checkpoint.at(tmp_path, 1).state == {"step": 1}


class Killed(BaseException):
    """As SIGKILL: nothing in the program answers to it."""


@pytest.mark.parametrize("allowed", range(3))
@pytest.mark.parametrize(("owner", "name"), [(Path, "rename"), (checkpoint, "to_disk"), (shutil, "rmtree")])
def test_a_replaced_one_is_never_away(
    owner: Any, name: str, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any rename, flush or removal, the old or the new checkpoint of the step is there after `recover`."""
    written(tmp_path, 1)
    real, calls = getattr(owner, name), iter(range(99))

    def until_killed(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) >= allowed:
            raise Killed
        return real(*arguments, **keywords)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(owner, name, until_killed)
        checkpoint.write(tmp_path, 1, fill, {"step": "new"})
    assert (tmp_path / "step-00000001").exists() or (tmp_path / "step-00000001.aside").exists()
    checkpoint.recover(tmp_path)
    assert names(tmp_path) == ["step-00000001"] and checkpoint.damage_of(tmp_path / "step-00000001") is None


def test_the_same_state_is_not_written_twice(tmp_path: Path) -> None:
    [path] = written(tmp_path, 1)
    before = path.stat().st_ino
    written(tmp_path, 1)
    assert path.stat().st_ino == before
    flip(path)
    written(tmp_path, 1)
    assert checkpoint.damage_of(path) is None, "a damaged one is written again"


def test_a_run_folder_stands_for_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.model_of("tiny") == "tiny"
    assert checkpoint.model_of(str(tmp_path)) == str(tmp_path), "a folder without checkpoints is a model's own"
    root = tmp_path / "checkpoints"
    root.mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path} holds no complete checkpoint yet$"):
        checkpoint.model_of(str(tmp_path))
    four, five = written(root, 4, 5)
    assert checkpoint.model_of(str(tmp_path)) == str(five)
    (five / "model.safetensors").write_bytes(b"")
    told: list[str] = []
    assert checkpoint.model_of(str(tmp_path), told.append) == str(four)
    assert len(told) == 1 and "is damaged" in told[0]


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4)
    checkpoint.prune(tmp_path, keep=2, also={1})
    assert names(tmp_path) == ["step-00000001", "step-00000003", "step-00000004"]


def test_a_limit_of_the_disk_is_one_sentence_and_earlier_ones_are_whole(tmp_path: Path) -> None:
    written(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        with pytest.raises(RunError) as refused:
            written(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "step-00000002 was not written; earlier checkpoints are whole" in str(refused.value)
    assert names(tmp_path) == ["step-00000001"] and checkpoint.damage_of(tmp_path / "step-00000001") is None


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(RunError, match=r"^the disk is full, so .* free space, then --resume$"):
        checkpoint.write(tmp_path, 1, full, {})


SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, untied": {"kind": "llama", "tie_word_embeddings": False},
    "qwen2": {"kind": "qwen2"},
    "gpt_neox": {"kind": "gpt_neox", "tie_word_embeddings": False},
    "llama, lora": {"kind": "llama"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_a_checkpoint_as_the_sampler_has_it(shape: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = LoraConfig(rank=2) if shape.endswith("lora") else None
    config = ModelConfig(name=str(small_model(tmp_path / "model", **SHAPES[shape])), lora=lora)
    model, tokenizer = models.load_model(config), models.load_tokenizer(config.name)
    learner = Learner(model, torch.float32, SCHEDULE, packer=rows.pack)  # keeps the model callable as it is
    with torch.no_grad():
        for place, (_, parameter) in enumerate(learner.trainable()):
            parameter.add_(0.01 * (place + 1))
    before = model.config.to_dict()
    path = persistence.save(RunFolder(tmp_path), learner, tokenizer, Position(step=7), "digest", keep=1)
    assert model.config.to_dict() == before, "saving leaves the model alone"

    if lora is None:
        read, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"]
    else:
        read = models.load_model(ModelConfig(name=str(path)))
    weights = learner.weights()
    for name, parameter in read.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, weights[name]), name
    ids = torch.tensor([[3, 4, 5]])
    if lora is None:
        assert torch.equal(read(ids).logits, model(ids).logits)
    else:
        torch.testing.assert_close(read(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(path).get_vocab() == tokenizer.get_vocab()

    again = Learner(models.load_model(config), torch.float32, SCHEDULE)
    persistence.load_weights(again, path)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(learner.trainable(), again.trainable(), strict=True))


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Learner, Path]:
    """A learner with adapters that have moved, and its checkpoint."""
    config = ModelConfig(name=str(small_model(tmp_path / "model")), lora=LoraConfig(rank=2))
    learner = Learner(models.load_model(config), torch.float32, SCHEDULE, packer=rows.pack)
    with torch.no_grad():
        for place, (_, parameter) in enumerate(learner.trainable()):
            parameter.add_(0.01 * (place + 1))
    tokenizer = models.load_tokenizer(config.name)
    return learner, persistence.save(RunFolder(tmp_path), learner, tokenizer, Position(step=7), "digest", keep=1)


def test_a_checkpoint_of_adapters_holds_them_alone_and_names_its_base(
    adapted: tuple[Learner, Path], tmp_path: Path
) -> None:
    learner, path = adapted
    stored = load_file(path / "adapter_model.safetensors")
    assert sum(w.numel() for w in stored.values()) == sum(p.numel() for _, p in learner.trainable())
    held = {file.name for file in path.iterdir() if file.suffix == ".safetensors"}
    assert held == {"adapter_model.safetensors", "trainer.safetensors"}
    assert not any("lora" in name for name in load_file(path / "trainer.safetensors") if "optimizer/" not in name)
    assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "model")


def test_peft_and_transformers_read_a_checkpoint_of_adapters(adapted: tuple[Learner, Path], tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    learner, path = adapted
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = learner.model(ids).logits
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert float((plain(ids).logits - expected).detach().abs().max()) > 1e-3
    for read in (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), path),
        AutoPeftModelForCausalLM.from_pretrained(path),
        AutoModelForCausalLM.from_pretrained(path),
    ):
        torch.testing.assert_close(read(ids).logits, expected, atol=1e-6, rtol=1e-5)


def test_export_merges_adapters(adapted: tuple[Learner, Path], tmp_path: Path) -> None:
    learner, path = adapted
    checkpoint.export(path, tmp_path / "out", "float32")
    stored, weights = load_file(tmp_path / "out" / "model.safetensors"), learner.weights()
    assert stored and all(torch.equal(w, weights[name]) for name, w in stored.items())
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    shutil.rmtree(tmp_path / "model")  # what was exported needs no base
    read = models.load_model(ModelConfig(name=str(tmp_path / "out")))
    assert torch.equal(dict(read.named_parameters())["model.norm.weight"], weights["model.norm.weight"])


def test_adapters_over_adapters_are_merged_in_turn(adapted: tuple[Learner, Path], tmp_path: Path) -> None:
    learner, path = adapted
    again = Learner(
        models.load_model(ModelConfig(name=str(path), lora=LoraConfig(rank=1))), torch.float32, SCHEDULE, rows.pack
    )
    began = learner.weights()
    assert all(torch.equal(w, began[name]) for name, w in again.weights().items())
    with torch.no_grad():
        for _, parameter in again.trainable():
            parameter.add_(0.02)
    tokenizer = models.load_tokenizer(str(path))
    second = persistence.save(RunFolder(tmp_path / "second"), again, tokenizer, Position(step=1), "digest", keep=1)
    read = models.load_model(ModelConfig(name=str(second)))
    weights = again.weights()
    assert all(torch.equal(p, weights[name]) for name, p in read.named_parameters())
    assert all(p.requires_grad for p in read.parameters()), "a model like any other"
    assert any(not torch.equal(w, began[name]) for name, w in weights.items())


def test_adapters_without_their_base_are_refused_in_a_sentence(adapted: tuple[Learner, Path], tmp_path: Path) -> None:
    _, path = adapted
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"there is no folder .*model \(the adapters in .* are for it: put it back"):
        models.load_model(ModelConfig(name=str(path)))
    small_model(tmp_path / "model", hidden_size=32)
    with pytest.raises(UserError, match="do not fit the model they say they are for"):
        models.load_model(ModelConfig(name=str(path)))
    settings = path / "adapter_config.json"
    settings.write_text("{}")
    with pytest.raises(UserError, match="does not say which model the adapters are for"):
        models.load_tokenizer(str(path))
    settings.write_text(json.dumps({"base_model_name_or_path": str(path)}))
    with pytest.raises(UserError, match="names itself"):
        models.load_tokenizer(str(path))


@pytest.mark.parametrize("name", ["tiny", "some/hub-id"])
def test_adapters_of_a_shipped_model_name_it_as_a_recipe_does(name: str) -> None:
    wrapped: Any = models.with_adapters(tiny_llama(), LoraConfig(rank=2), name)
    assert wrapped.peft_config["default"].base_model_name_or_path == name


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    small, large = (small_model(tmp_path / str(n), num_hidden_layers=n) for n in (1, 2))
    learner = Learner(models.load_model(ModelConfig(name=str(large))), torch.float32, SCHEDULE)
    with pytest.raises(RunError, match=r"has no weight model\.layers\.1.*: it is of another model"):
        persistence.load_weights(learner, small)


def test_export_writes_a_model_folder_and_nothing_else(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    checkpoint.export(model, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    for source, out, dtype, why in (
        (model, "out", "bfloat16", "is not empty"),
        (model, "new", "int3", "--dtype must be one of"),
        (tmp_path, "new", "float32", "is neither a run folder nor a model folder"),
    ):
        with pytest.raises(UserError, match=why):
            checkpoint.export(source, tmp_path / out, dtype)
