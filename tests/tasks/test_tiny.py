"""The bundled base model: small, offline, and able to read everything the tasks write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from superrl import tasks
from superrl.tasks import load, verify

TINY = Path(tasks.__file__).parents[1] / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, local_files_only=True)


@pytest.mark.parametrize(
    "spec", ["chain?ops=6&order=mixed", "route?way=mixed", "logic?way=mixed&depth=4&distractors=2"]
)
def test_a_task_renders_one_token_a_character_without_unknowns(spec: str, tokenizer: Any) -> None:
    for problem in load(spec).problems:
        text = problem.prompt + problem.demonstrations[0].text
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in tokens
        assert len(tokens) == len(text)
        assert tokenizer.decode(tokens) == text


def test_the_tokenizer_knows_simple_text_and_marks_the_rest(tokenizer: Any) -> None:
    assert len(tokenizer) <= 72
    assert tokenizer.unk_token_id not in tokenizer.encode("what is 3 + 4? (think: seven) #7\n")
    assert tokenizer.encode("éZ") == [tokenizer.unk_token_id] * 2
    assert tokenizer.encode("") == []
    assert tokenizer.chat_template is None
    assert None is not tokenizer.eos_token_id != tokenizer.pad_token_id is not None


def test_the_model_is_small_float32_and_tied(model: Any, tokenizer: Any) -> None:
    assert (TINY / "model.safetensors").stat().st_size <= 4_000_000
    assert (TINY / "README.md").is_file()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.max_position_embeddings == 512


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [("chain?ops=3", 0.9, 1.0), ("route", 0.9, 1.0), ("logic", 0.6, 1.0), ("chain?order=right&ops=3", 0.0, 0.1)],
)
def test_it_solves_the_easy_side_and_not_the_hard_one(
    spec: str, low: float, high: float, model: Any, tokenizer: Any
) -> None:
    query = spec + ("&" if "?" in spec else "?") + "n=50"
    loaded = load(query, "test")
    tokenizer.padding_side = "left"
    batch = tokenizer([problem.prompt for problem in loaded.problems], return_tensors="pt", padding=True)
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    rows = model.generate(**asked, max_new_tokens=loaded.defaults["max_new_tokens"], do_sample=False)
    texts = tokenizer.batch_decode(rows[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    accuracy = sum(verify(p, text) for p, text in zip(loaded.problems, texts, strict=True)) / len(texts)
    assert low <= accuracy <= high
