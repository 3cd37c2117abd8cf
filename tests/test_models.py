"""Which model a name means, and every way in which it is not one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import small_model
from superrl import models
from superrl.config import LoraConfig, ModelConfig
from superrl.errors import UserError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("good"))


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def configured(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            without("tokenizer.json", "tokenizer_config.json"),
            "has no tokenizer that loads: save one beside the weights",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "has no tokenizer that loads"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{}"), "names no eos_token"),
        (without("config.json"), "is no Hugging Face model folder, it has no config.json"),
        (without("model.safetensors"), "does not load as a causal language model (Error no file named"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
        (configured(model_type="zork"), "does not load as a causal language model"),
        (configured(hidden_size=32), "does not load as a causal language model"),
        (
            configured(num_hidden_layers=2),
            "has no weights for model.layers.1.input_layernorm.weight (9 missing in all)",
        ),
        (lambda folder: os.truncate(folder / "model.safetensors", 999), "does not load as a causal language model"),
        (lambda folder: os.truncate(folder / "model.safetensors", 3), "does not load as a causal language model"),
    ],
)
def test_a_folder_that_is_no_whole_model(
    harm: Callable[[Path], object], sentence: str, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    harm(folder)
    with pytest.raises(UserError) as refused:
        models.load_tokenizer(str(folder))
        models.load_model(ModelConfig(name=str(folder)))
    said = str(refused.value)
    assert said.startswith("model.name: ") and sentence in said and str(folder) in said and "\n" not in said
    assert capsys.readouterr() == ("", ""), "the sentence is all there is to read"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tinny", "'tinny' is no folder here and cannot be had from the hub"),
        ("tinny", "did you mean 'tiny'?"),
        ("/no/where", "there is no folder /no/where"),
        ("./where", "there is no folder ./where"),
        ("no.gguf", "there is no file no.gguf"),
        (__file__, "is a file: give the Hugging Face folder it lies in"),
    ],
)
def test_a_name_that_is_none(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        models.load_tokenizer(name)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_devices_that_are_not_here() -> None:
    assert models.device(ModelConfig(device="cpu")) == torch.device("cpu")
    for name in ("zork", "cuda:99"):
        with pytest.raises(UserError, match=f"model.device: {name} cannot be used here"):
            models.device(ModelConfig(device=name))


def test_adapters_start_alike_every_time_and_leave_the_random_numbers_alone(good: Path) -> None:
    config = ModelConfig(name=str(good), lora=LoraConfig(rank=2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = models.load_model(config).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = models.load_model(config).state_dict()
    assert any("lora_A" in name and bool(tensor.any()) for name, tensor in one.items())
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    with pytest.raises(UserError, match=r"model\.lora\.targets: Target modules .*nope.* not found"):
        models.load_model(ModelConfig(name=str(good), lora=LoraConfig(targets=["nope"])))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_one_side_of_a_tied_matrix_are_refused(good: Path, target: str) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.targets: .* one matrix for embedding and head"):
        models.load_model(ModelConfig(name=str(good), lora=LoraConfig(targets=["q_proj", target])))


def test_a_model_is_float32_without_dropout_and_knows_its_context(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", attention_dropout=0.5)
    model = models.load_model(ModelConfig(name=str(folder), activation_checkpointing=True))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.attention_dropout == 0.0 and model.training
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert models.context_length(model) == 160 and 1 in models.declared_ends(model)
    assert models.compute_dtype(ModelConfig(dtype="bfloat16")) == torch.bfloat16
    assert models.compute_dtype(ModelConfig(name="tiny", device="cpu")) == torch.float32
